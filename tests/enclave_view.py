"""A party as its manifest shows it the world: only the files that are measured, nothing beside."""

import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import openfl_flows
from openfl_flows.taskrunner.parties import LOG, Environment, Process, launch_fx
from openfl_flows.tee.plan import read_party
from openfl_flows.tee.render import Options, render

GLIBC = "ld-linux-x86-64.so.2 libc.so.6 libm.so.6 libdl.so.2 libpthread.so.0 librt.so.1"
KEEPER = {"keeper": "keeper.example:7000", "keeper_key": "ab" * 32}
TRACE = """
import atexit, os, sys
def _tell():
    files = {getattr(module, "__file__", None) for module in list(sys.modules.values())}
    with open("/proc/self/maps") as maps:
        files |= {fields[5].strip() for line in maps if len(fields := line.split(None, 5)) == 6}
    with open(os.environ["LOADED"], "w") as out:
        out.write("\\n".join(sorted(file for file in files if file and file.startswith("/"))))
atexit.register(_tell)
"""


def gramine_folder(folder: Path) -> Path:
    """What stands where Gramine would: the names of what it brings."""
    runtime = folder / "runtime" / "glibc"
    runtime.mkdir(parents=True)
    (folder / "libsysdb.so").write_text("the library OS")
    for name in GLIBC.split():
        (runtime / name).write_text(name)
    return folder


def manifest_of(folder: Path, gramine: Path, site: str | None = None, **options: Any) -> str:
    role = "aggregator" if site is None else "collaborator"
    party = read_party(folder, role=role, site=site)
    given = {"python": Path(sys.executable), "gramine": gramine, **KEEPER, **options}
    return render(party, Options(**given))


def trusted(manifest: str) -> dict[Path, str]:
    entries = tomllib.loads(manifest)["sgx"]["trusted_files"]
    return {Path(entry["uri"].removeprefix("file:")): entry["sha256"] for entry in entries}


def make_view(files: Sequence[Path], view: Path) -> Path:
    """A Python environment with the measured packages only; the path of its Python."""
    prefix = Path(sys.prefix)
    packages = next(prefix.glob("lib/python3*/site-packages"))
    ours = Path(openfl_flows.__file__).parent
    inside = view / packages.relative_to(prefix)
    for file in files:
        if file.is_relative_to(packages) and file.suffix != ".pth":
            target = inside / file.relative_to(packages)
        elif file.is_relative_to(ours):
            target = inside / "openfl_flows" / file.relative_to(ours)
        else:
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        # A hard link would do, but the test's folder may be on another file system.
        target.symlink_to(file) if not file.is_symlink() else shutil.copy2(file, target)
    (view / "bin").mkdir(parents=True)
    shutil.copy2(prefix / "pyvenv.cfg", view / "pyvenv.cfg")
    (view / "bin" / "python3").symlink_to(Path(sys.executable).resolve())
    (view / "bin" / "fx").symlink_to(prefix / "bin" / "fx")
    (inside / "zz_trace.pth").write_text(f"import sys; exec({TRACE!r})\n")
    return view / "bin" / "python3"


class Launcher:
    """Starts parties on nothing but what their manifests measure; other commands as always."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.gramine = gramine_folder(folder / "gramine")
        self.manifests: dict[str, str] = {}

    def __call__(self, folder: Path, arguments: Sequence[str], environment: Environment) -> Process:
        if arguments[1:2] != ("start",):
            return launch_fx(folder, arguments, environment)
        site = arguments[-1] if "-n" in arguments else None
        name = site or "aggregator"
        text = self.manifests[name] = manifest_of(folder, self.gramine, site)
        python = make_view(list(trusted(text)), self.folder / name)
        loader = tomllib.loads(text)["loader"]
        inside = {k: v for k, v in loader["env"].items() if k not in {"LD_LIBRARY_PATH", "PATH"}}
        loaded = {"LOADED": str(self.folder / f"{name}.loaded")}
        argv = [str(python), *loader["argv"][1:5], str(python.with_name("fx")), *arguments]
        assert loader["argv"][-len(arguments) :] == list(arguments)
        with (folder / LOG).open("ab") as output:
            return subprocess.Popen(
                argv,
                cwd=folder,
                env={"PATH": os.devnull, **inside, **loaded},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def loaded(self, name: str) -> set[Path]:
        return {Path(line) for line in (self.folder / f"{name}.loaded").read_text().splitlines()}
