"""The adapters to OpenFL's Workflow API: flows and the simulation that runs them.

OpenFL imports Metaflow, which wants a user name other than root in the environment and leaves a
``.metaflow`` folder wherever it runs. Both are settled here, before anything imports it; what the
environment says already is respected.
"""

import atexit
import os
import shutil
import tempfile

if "METAFLOW_USER" not in os.environ:
    os.environ["METAFLOW_USER"] = os.environ.get("USER", "openfl-flows").replace("root", "openfl")
if "METAFLOW_DATASTORE_SYSROOT_LOCAL" not in os.environ:
    _folder = tempfile.mkdtemp(prefix="openfl-flows-metaflow-")
    os.environ["METAFLOW_DATASTORE_SYSROOT_LOCAL"] = _folder
    atexit.register(shutil.rmtree, _folder, ignore_errors=True)
