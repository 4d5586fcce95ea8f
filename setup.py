"""Build entry point; every fact about the package is in pyproject.toml.

There is no extension module yet. The native CPU and CUDA kernels will be built from here, ahead of time,
against torch's stable ABI (see csrc/README.md); until then an installation is Python alone.
"""

from setuptools import setup

setup()
