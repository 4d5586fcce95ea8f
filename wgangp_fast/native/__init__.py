"""The native kernels: how they are compiled (without torch, for setup.py as well), cached and loaded."""
