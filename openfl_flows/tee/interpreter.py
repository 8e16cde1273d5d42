"""The Python that runs inside, asked where its parts are."""

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

# Isolated as inside, so that the answer does not depend on the environment of who renders.
_QUESTION = """
import importlib.util, json, os, sys, sysconfig
found = importlib.util.find_spec("openfl_flows")
print(json.dumps({
    "real": os.path.realpath(sys.executable),
    "prefix": sys.prefix,
    "base": sys.base_prefix,
    "stdlib": sysconfig.get_path("stdlib"),
    "packages": sysconfig.get_path("purelib"),
    "platform": sysconfig.get_path("platlib"),
    "multiarch": sysconfig.get_config_var("MULTIARCH") or "x86_64-linux-gnu",
    "ours": found.submodule_search_locations[0] if found else "",
}))
"""


@dataclass(frozen=True, kw_only=True)
class Interpreter:
    """A Python environment on this machine.

    Attributes:
        program: What is started; in an environment a link to ``real``.
        real: The executable itself.
        prefix: Of the environment.
        base: Of the installation that the environment is made of; may be the same.
        stdlib: Folder of the standard library.
        packages: The ``site-packages`` of the environment.
        multiarch: Name of the machine's kind in the folders of system libraries.
        ours: Folder of ``openfl_flows``, which may be outside ``packages``.
    """

    program: Path
    real: Path
    prefix: Path
    base: Path
    stdlib: Path
    packages: Path
    multiarch: str
    ours: Path


def ask(program: Path) -> Interpreter:
    """Run a Python and ask where its parts are.

    Raises:
        ValueError: It does not run, has no openfl_flows, or two folders of packages.
    """
    program = program.absolute()
    try:
        done = subprocess.run(
            [program, "-I", "-B", "-c", _QUESTION], capture_output=True, text=True, check=True
        )
        answer = json.loads(done.stdout)
    except (OSError, subprocess.CalledProcessError, json.JSONDecodeError):
        raise ValueError(f"--python={program} does not run, expected Python's path") from None
    if not answer["ours"]:
        raise ValueError(f"--python={program} has no openfl_flows, expected a party's environment")
    if answer["packages"] != answer["platform"]:
        raise ValueError(
            f"--python={program} has packages in {answer['packages']} and {answer['platform']}, "
            "expected one folder: use a virtual environment"
        )
    paths = ("real", "prefix", "base", "stdlib", "packages", "ours")
    return Interpreter(
        program=program,
        multiarch=answer["multiarch"],
        **{name: Path(answer[name]) for name in paths},
    )
