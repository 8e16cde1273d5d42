"""``python -m openfl_flows``: the command line."""

import sys

from openfl_flows.cli import main

sys.exit(main())
