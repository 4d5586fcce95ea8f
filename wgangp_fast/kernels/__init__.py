"""Triton kernels and their launchers, nothing else: one file an operation, read from top to bottom.

Importing this package imports nothing. Its files import triton, so whoever wants one asks for it by name.
"""
