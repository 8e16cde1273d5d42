"""The image's recipe: its steps are run as a builder without SHELL runs them."""

import hashlib
import os
import re
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path, PurePosixPath

import pytest

from openfl_flows.deploy.render import TEMPLATES
from openfl_flows.tee.render import recipe_folder

RECIPE = (recipe_folder() / "Containerfile").read_text()
STEPS = re.sub(r"\\\n", " ", re.sub(r"^#.*\n", "", RECIPE, flags=re.MULTILINE)).splitlines()
DPKG = '#!/bin/sh\necho "$@" > {folder}/installed\ntouch {folder}/dpkg.log\n'
QUERY = "#!/bin/sh\nprintf %s {version}\n"


def step(words: str) -> str:
    (found,) = [line for line in STEPS if line.startswith("RUN") and words in line]
    return found.removeprefix("RUN ")


@pytest.fixture
def debs(tmp_path: Path) -> Path:
    """What is copied to /debs, with two packages, and programs that note what they are told."""
    folder = tmp_path / "debs"
    folder.mkdir()
    lines = []
    for name in ("gramine_1.9-1_amd64.deb", "libfoo_1_amd64.deb"):
        (folder / name).write_text(name)
        lines.append(f"{hashlib.sha256(name.encode()).hexdigest()}  {name}\n")
    (folder / "SHA256SUMS").write_text("".join(lines))
    (tmp_path / "bin").mkdir()
    return folder


def install(debs: Path, version: str = "1.9-1", digest: str | None = "") -> bool:
    """Run the step that installs; return whether it passed. It never installs what it refuses."""
    folder = debs.parent
    for name, text in (("dpkg", DPKG), ("dpkg-query", QUERY)):
        program = folder / "bin" / name
        program.write_text(text.format(folder=folder, version=version))
        program.chmod(0o755)
    places = {"/tmp/expected": folder / "expected", "/var/log": folder}
    script = re.sub("|".join(places), lambda m: str(places[m[0]]), step("dpkg --install"))
    environment = {"PATH": f"{folder / 'bin'}:{os.environ['PATH']}", "GRAMINE": "1.9"}
    if digest is not None:
        listed = hashlib.sha256((debs / "SHA256SUMS").read_bytes()).hexdigest()
        environment["DEBS_SHA256"] = digest or listed
    done = subprocess.run(
        ["/bin/sh", "-c", script], cwd=debs, env=environment, capture_output=True, check=False
    )
    return done.returncode == 0


def installed(debs: Path) -> bool:
    return (debs.parent / "installed").exists()


@pytest.mark.parametrize("version", ["1.9", "1.9-1", "1.9.1"])
def test_listed_packages_are_installed(debs: Path, version: str) -> None:
    assert install(debs, version)
    words = (debs.parent / "installed").read_text().split()
    assert words == ["--install", "./gramine_1.9-1_amd64.deb", "./libfoo_1_amd64.deb"]
    # What has the time in it, or is of the step alone.
    assert not {"dpkg.log", "expected"} & {file.name for file in debs.parent.iterdir()}


@pytest.mark.parametrize("version", ["1.8", "1.91", "", "2.1.9"])
def test_another_version_ends_the_build(debs: Path, version: str) -> None:
    assert not install(debs, version)


def change_one(debs: Path) -> None:
    (debs / "gramine_1.9-1_amd64.deb").write_text("another")


def add_one(debs: Path) -> None:
    (debs / "evil_1_amd64.deb").write_text("evil")


def change_the_list(debs: Path) -> None:
    add_one(debs)
    line = f"{hashlib.sha256(b'evil').hexdigest()}  evil_1_amd64.deb\n"
    with (debs / "SHA256SUMS").open("a") as file:
        file.write(line)


@pytest.mark.parametrize("change", [change_one, add_one])
def test_a_package_that_nobody_listed_ends_the_build(
    debs: Path, change: Callable[[Path], None]
) -> None:
    change(debs)
    assert not install(debs)
    assert not installed(debs)


def test_a_list_that_nobody_named_ends_the_build(debs: Path) -> None:
    named = hashlib.sha256((debs / "SHA256SUMS").read_bytes()).hexdigest()
    change_the_list(debs)
    for digest in (named, "0" * 64, None):
        assert not install(debs, digest=digest)
        assert not installed(debs)


def test_every_step_ends_at_its_first_failure() -> None:
    """Podman and buildah build OCI images by default, and pass over SHELL there."""
    assert not [line for line in STEPS if line.startswith("SHELL")]
    steps = [line.removeprefix("RUN ") for line in STEPS if line.startswith("RUN ")]
    assert len(steps) == 5
    for line in steps:
        apart = {";", "|", "||"} & set(shlex.split(line))
        assert not apart or line.startswith("set -eu ; "), line
        assert not {"|", "||"} & apart, line


def test_what_is_copied_is_what_a_deployment_lets_through() -> None:
    ignore = next((TEMPLATES / "image").glob(".containerignore*")).read_text().splitlines()
    passed = [PurePosixPath(line.removeprefix("!")) for line in ignore if line.startswith("!")]
    sources = [
        source
        for line in STEPS
        if line.startswith("COPY ") and "--from=" not in line
        for source in line.split()[1:-1]
    ]
    assert len(sources) == 6
    for source in sources:
        wanted = PurePosixPath(source.rstrip("*/"))
        assert any(each == wanted or each.parent == wanted for each in passed), source
