"""``python -m nablax.cli`` is ``nablax``."""

import sys

from nablax.cli import main

sys.exit(main())
