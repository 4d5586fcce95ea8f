"""``python -m wgangp_fast.bench``: the same as ``wgangp-fast bench``, without an installation."""

import sys

from .cli import main

sys.exit(main(sys.argv[1:]))
