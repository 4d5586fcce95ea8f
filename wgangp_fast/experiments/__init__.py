"""What is built on the trainer and the benchmark together."""
