"""Parties confined to what their compose.yaml grants, by namespaces of Linux: is it enough?"""

import contextlib
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from openfl_flows.cli import main
from openfl_flows.cli.plan import compose
from openfl_flows.ops.run import RunDirectory
from openfl_flows.taskrunner import rehearsal
from openfl_flows.taskrunner.export import export_workspace
from tests.fx_processes import TOY, launch
from tests.unit.deploy.test_render import composed

ROOT = Path(__file__).parents[2]
ADDRESS = "fl.example.org"
SITES = ("site-1", "site-2")
SECONDS = 200

BWRAP = shutil.which("bwrap")


def works(*command: str) -> bool:
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


pytestmark = pytest.mark.skipif(
    BWRAP is None or not works(BWRAP, "--unshare-all", "--ro-bind", "/", "/", "true"),
    reason="bubblewrap is not installed, or the machine allows no namespaces",
)


class Container:
    """What an image and its compose.yaml come to, but for the network, which is this machine's."""

    def __init__(self, deployment: Path, hosts: Path) -> None:
        self.folder = deployment
        self.party: dict[str, Any] = composed(deployment)["services"]["party"]
        self._secrets: dict[str, Any] = composed(deployment)["secrets"]
        self._hosts = hosts

    def volume(self, name: str) -> Path:
        return self.folder / "volumes" / name

    def command(self, *words: str) -> list[str]:
        """``words`` in the container."""
        image = self.folder / "workspace"
        user, group = self.party["user"].split(":")
        found = [str(BWRAP), "--unshare-all", "--share-net", "--die-with-parent", "--new-session"]
        found += ["--uid", user, "--gid", group]
        found += [word for name in self.party["cap_drop"] for word in ("--cap-drop", name)]
        found += ["--proc", "/proc", "--dev", "/dev"]
        for tmpfs in self.party["tmpfs"]:
            found += ["--tmpfs", tmpfs.partition(":")[0]]
        # The image: a system, Python's environment, the workspace.
        for path in ("/usr", "/etc", sys.base_prefix, sys.prefix, str(ROOT)):
            found += ["--ro-bind", path, path]
        for name in ("bin", "lib", "lib64"):
            found += ["--symlink", f"usr/{name}", f"/{name}"]
        found += ["--ro-bind", str(self._hosts), "/etc/hosts"]
        found += ["--ro-bind", str(image), "/federation", "--tmpfs", "/federation/cert"]
        for volume in self.party["volumes"]:
            if isinstance(volume, str):
                name, target = volume.split(":")
                found += ["--bind", str(self._filled(name, image / Path(target).name)), target]
            else:
                (image / volume["target"].removeprefix("/federation/")).parent.mkdir(exist_ok=True)
                found += ["--ro-bind", volume["source"], volume["target"]]
        for secret in self.party["secrets"]:
            file = self._secrets[secret["source"]]["file"]
            found += ["--ro-bind", file, secret["target"]]
        found += ["--remount-ro", "/federation/cert", "--remount-ro", "/"]
        found += ["--clearenv", "--setenv", "PATH", "/usr/bin:/bin", "--chdir", "/federation"]
        for name, value in {"HOME": "/tmp", "TMPDIR": "/tmp", "OMP_NUM_THREADS": "1"}.items():
            found += ["--setenv", name, value]
        return [*found, *words]

    def start(self) -> subprocess.Popen[bytes]:
        fx = str(Path(sys.executable).with_name("fx"))
        with (self.folder / "log").open("wb") as log:
            return subprocess.Popen(
                self.command(fx, *self.party["command"]), stdout=log, stderr=log
            )

    def says(self, script: str) -> str:
        done = subprocess.run(
            self.command("sh", "-c", script), capture_output=True, text=True, check=False
        )
        return done.stdout + done.stderr

    def _filled(self, name: str, image: Path) -> Path:
        """A named volume begins with what the image has in its place."""
        folder = self.volume(name)
        image.mkdir(exist_ok=True)
        if not folder.exists():
            shutil.copytree(image, folder)
        return folder


@pytest.fixture
def containers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Container]:
    monkeypatch.setattr(rehearsal, "ADDRESS", ADDRESS)
    export_workspace(compose(TOY), tmp_path / "workspace")
    rehearsal.prepare(tmp_path / "workspace", tmp_path / "parties", launch=launch)
    hosts = tmp_path / "hosts"
    hosts.write_text(f"127.0.0.1 localhost {ADDRESS}\n")
    made = {}
    for name in ("aggregator", *SITES):
        out = tmp_path / "deploy" / name
        role = ("aggregator",) if name == "aggregator" else ("site", "--site", name)
        arguments = ("deploy", str(tmp_path / "parties" / name), "--kind", "compose")
        out.parent.mkdir(exist_ok=True)
        assert main([*arguments, "--role", *role, "--out", str(out)]) == 0
        # What the Containerfile makes.
        (out / "workspace" / "cert").mkdir()
        (out / "workspace" / "data" / name).mkdir(parents=True)
        made[name] = Container(out, hosts)
    return made


@contextlib.contextmanager
def running(containers: dict[str, Container]) -> Iterator[dict[str, subprocess.Popen[bytes]]]:
    processes = {name: container.start() for name, container in containers.items()}
    try:
        yield processes
    finally:
        for process in processes.values():
            process.kill()
            process.wait()


@pytest.mark.slow
def test_a_federation_of_confined_parties(containers: dict[str, Container]) -> None:
    with running(containers) as processes:
        for name, process in processes.items():
            log = containers[name].folder / "log"
            assert process.wait(SECONDS) == 0, log.read_text()[-3000:]
    run = RunDirectory.open(containers["aggregator"].volume("local-state") / "run")
    assert run.finished
    assert run.round == 3
    assert (containers["aggregator"].volume("save") / "last.pbuf").is_file()


def test_a_site_can_write_nothing_else(containers: dict[str, Container]) -> None:
    site = containers["site-1"]
    status = dict(
        line.split(":\t", 1) for line in site.says("cat /proc/self/status").splitlines()
        if ":\t" in line
    )  # fmt: skip
    assert {status[name] for name in ("CapEff", "CapPrm", "CapBnd")} == {"0" * 16}
    assert status["NoNewPrivs"] == "1"
    assert set(status["Uid"].split()) == {"10001"}
    for place in ("", "plan/", "src/", "data/site-1/", "cert/", "cert/client/", "../"):
        said = site.says(f"echo x > /federation/{place}written")
        assert "Read-only file system" in said, (place, said)
    for place in ("/federation/local_state/", "/federation/logs/", "/tmp/"):
        assert not site.says(f"echo x > {place}written")
    # Other parties' keys are not even there.
    assert site.says("cd /federation/cert && find . -name '*.key'").split() == [
        "./client/col_site-1.key"
    ]
