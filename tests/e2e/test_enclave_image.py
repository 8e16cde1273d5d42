"""The image of a party's enclave, built by the recipe: two builds are one image.

It needs buildah, and the name of a local base image with Python 3.11 in ``BASE_IMAGE``; ``BUILDAH``
and ``BUILD_OPTIONS`` are the command and what a machine's builds need, a package mirror perhaps. A
package that stands where Gramine's would is all that is not as it would be.
"""

import hashlib
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from openfl_flows.cli import main
from openfl_flows.pki.party import CHAIN
from openfl_flows.release.keys import make_key
from openfl_flows.tee.render import GRAMINE, recipe_folder
from tests.enclave_view import gramine_folder

ROOT = Path(__file__).parents[2]
BUILDAH = shlex.split(os.environ.get("BUILDAH", "buildah"))
BASE = os.environ.get("BASE_IMAGE")
CONTROL = """\
Package: gramine
Version: 1.9-1
Architecture: amd64
Maintainer: nobody <nobody@example.com>
Description: stands where Gramine would
"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(
        BASE is None or shutil.which(BUILDAH[0]) is None,
        reason="buildah is not installed, or BASE_IMAGE names no local image with Python 3.11",
    ),
]


def run(*command: object) -> str:
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module", params=["aggregator", "collaborator"])
def context(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that an operator builds in."""
    folder = tmp_path_factory.mktemp(request.param)
    federation, out = folder / "federation", folder / request.param
    words = ["experiment=toy", "network.agg_addr=aggregator.example", str(federation)]
    assert main(["export", *words]) == 0
    assert main(["pki", "init", str(folder / "CA")]) == 0
    assert main(["pki", "issue", str(folder / "CA"), str(federation)]) == 0
    role = ["site", "--site", "site-1"] if request.param == "collaborator" else ["aggregator"]
    deploy = [str(federation), "--kind", "compose", "--out", str(out), "--role", *role]
    assert main(["deploy", *deploy]) == 0
    shutil.copy(recipe_folder() / "Containerfile", out / "Containerfile.enclave")
    shutil.copy(federation / CHAIN, out / "cert_chain.crt")
    make_key(folder / "keeper.key")
    shutil.copy(folder / "keeper.key.pub", out / "keeper.pub")
    run(sys.executable, "-m", "pip", "wheel", "--no-deps", "-w", out / "wheels", ROOT)
    package = folder / "package"
    gramine_folder(package / GRAMINE.relative_to("/"))
    (package / "DEBIAN").mkdir()
    (package / "DEBIAN" / "control").write_text(CONTROL)
    (out / "debs").mkdir()
    run("dpkg-deb", "--build", "--root-owner-group", package, out / "debs" / "gramine.deb")
    digest = hashlib.sha256((out / "debs" / "gramine.deb").read_bytes()).hexdigest()
    (out / "debs" / "SHA256SUMS").write_text(f"{digest}  gramine.deb\n")
    return out


def build(context: Path, tag: str, debs_sha256: str) -> subprocess.CompletedProcess[str]:
    arguments = {"BASE": BASE, "DEBS_SHA256": debs_sha256, "ROLE": context.name,
                 "KEEPER": "keeper.example:7000"}  # fmt: skip
    if context.name == "collaborator":
        arguments["NAME"] = "site-1"
    command = [*BUILDAH, "bud", "--no-cache", "--pull-never", "--timestamp", "0", "-t", tag]
    for name, value in arguments.items():
        command += ["--build-arg", f"{name}={value}"]
    options = shlex.split(os.environ.get("BUILD_OPTIONS", ""))
    command += [*options, "-f", "Containerfile.enclave", "."]
    return subprocess.run(command, cwd=context, capture_output=True, text=True, check=False)


def test_two_builds_are_one_image(context: Path) -> None:
    listed = hashlib.sha256((context / "debs" / "SHA256SUMS").read_bytes()).hexdigest()
    built = [build(context, f"{context.name}-{number}", listed) for number in range(2)]
    for done in built:
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        assert "/enclave/party.manifest: 0 findings" in done.stdout
    images = [
        run(*BUILDAH, "inspect", "--type", "image", "--format", "{{.FromImageDigest}}", each)
        for each in (f"localhost/{context.name}-0", f"localhost/{context.name}-1")
    ]
    assert images[0].startswith("sha256:")
    assert images[0] == images[1]


def test_a_list_of_packages_that_nobody_named_ends_the_build(context: Path) -> None:
    done = build(context, f"{context.name}-refused", "0" * 64)
    assert done.returncode != 0
    assert "SHA256SUMS: FAILED" in done.stdout
    assert "Setting up gramine" not in done.stdout
