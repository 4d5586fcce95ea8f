"""From any callable to a functional ATen graph of the critic and one of what depends on parameters alone."""
