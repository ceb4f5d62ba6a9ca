"""``python -m fsd_core.cli``."""

import sys

from fsd_core.cli.main import main

sys.exit(main())
