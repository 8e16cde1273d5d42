"""What a user got wrong is one line on standard error and a status."""

import logging
import sys
import warnings
from typing import Any


def reporting_errors(function: Any, *arguments: Any) -> int:
    """Call ``function``; return 0, or 1 where it raised what a user got wrong."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    warnings.filterwarnings("ignore", message="pkg_resources is deprecated")
    try:
        function(*arguments)
    except (ValueError, OSError) as error:
        print(f"openfl-flows: error: {error}", file=sys.stderr)
        return 1
    return 0
