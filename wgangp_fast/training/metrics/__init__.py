"""Quality of samples, as numbers."""
