"""``python -m twostroke`` is the command ``twostroke``."""

import sys

from .cli import main

sys.exit(main())
