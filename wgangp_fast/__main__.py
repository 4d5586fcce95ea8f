"""``python -m wgangp_fast``."""

import sys

from .cli import main

sys.exit(main())
