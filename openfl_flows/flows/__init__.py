"""The adapters to OpenFL's Workflow API: flows and the simulation that runs them.

OpenFL imports Metaflow, which wants a user name other than root in the environment and leaves a
``.metaflow`` folder wherever it runs, and Ray, whose clusters ask for the token that ``ray start``
wrote while its clients send it only if told to before they are imported. All this is settled here,
before anything imports OpenFL; what the environment says already is respected.
"""

import atexit
import os
import shutil
import tempfile
from pathlib import Path

if "METAFLOW_USER" not in os.environ:
    os.environ["METAFLOW_USER"] = os.environ.get("USER", "openfl-flows").replace("root", "openfl")
if "METAFLOW_DATASTORE_SYSROOT_LOCAL" not in os.environ:
    _folder = tempfile.mkdtemp(prefix="openfl-flows-metaflow-")
    os.environ["METAFLOW_DATASTORE_SYSROOT_LOCAL"] = _folder
    atexit.register(shutil.rmtree, _folder, ignore_errors=True)
if Path("~/.ray/auth_token").expanduser().exists():
    os.environ.setdefault("RAY_AUTH_MODE", "token")
