"""CUDA graphs of training steps: what may be captured, what must not change, and the steps."""
