"""capture, derive, fuse, run: from any critic to a plan. Imported on first use, because Dynamo is heavy."""
