"""`python -m packetwire`: the command line."""

import sys

from packetwire.cli.main import main

sys.exit(main())
