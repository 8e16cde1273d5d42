"""Under gramine-direct: our manifests run a federation, and a host that changes files is refused.

gramine-direct keeps to a manifest without SGX: measured files, pinned arguments and variables,
encrypted mounts. It gives no isolation and no quotes, so that nothing is attested here.
"""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from openfl_flows.cli.plan import compose
from openfl_flows.experiment import Experiment
from openfl_flows.flows.simulation import simulate_experiment
from openfl_flows.ops.run import RunDirectory
from openfl_flows.taskrunner.export import export_workspace
from openfl_flows.taskrunner.parity import compare_rounds
from openfl_flows.taskrunner.parties import Environment, Process, run_parties
from openfl_flows.taskrunner.rehearsal import parties_of, prepare
from openfl_flows.tee.plan import read_party
from openfl_flows.tee.render import Options, render
from tests.fx_processes import AT_ONCE

GRAMINE = shutil.which("gramine-direct")
pytestmark = [
    pytest.mark.timeout(1800),
    pytest.mark.slow
    if GRAMINE
    else pytest.mark.skip("gramine-direct is not on PATH: manifests are linted, not enforced"),
]

PLAN = (
    "experiment=toy",
    "federation.rounds=2",
    "federation.sites=2",
    "runtime.quiet=true",
    AT_ONCE,
)
SITES = ("site-1", "site-2")
KEY = "00112233445566778899aabbccddeeff"
SECRET = {"aggregator": ("cert/server",), "collaborator": ("cert/client", "data")}
# What every file that Gramine has encrypted begins with.
CIPHERTEXT = b"GRAFS_PF"


def library_os() -> Path:
    assert GRAMINE is not None
    prefix = Path(GRAMINE).resolve().parents[1]
    (found,) = {file.parent for file in prefix.glob("lib*/**/gramine/libsysdb.so")}
    return found


def crypt(action: str, source: Path, target: Path, key: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(
        ["gramine-sgx-pf-crypt", action, "-w", key, "-i", source, "-o", target],
        check=True,
        capture_output=True,
    )


class Enclaves:
    """Starts parties under gramine-direct, as their host would: with a word and a variable more."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.key = folder / "key"
        folder.mkdir(parents=True)
        self.key.write_bytes(bytes.fromhex(KEY))
        (folder / "host").mkdir()
        (folder / "host" / "sitecustomize.py").write_text(
            f"open({str(folder / 'executed')!r}, 'w')\n"
        )

    def seal(self, folder: Path, site: str | None) -> None:
        """Encrypt what the party is given, for the very paths that it has."""
        for name in SECRET["aggregator" if site is None else "collaborator"]:
            for file in sorted((folder / name).rglob("*")):
                if file.is_file() and file.read_bytes()[:8] != CIPHERTEXT:
                    plain = file.rename(self.folder / "plain")
                    crypt("encrypt", plain, file, self.key)
                    plain.unlink()

    def write_manifest(self, folder: Path, site: str | None, key: str = KEY) -> None:
        (folder / "attestation").mkdir(exist_ok=True)
        party = read_party(folder, role="collaborator" if site else "aggregator", site=site)
        options = Options(python=Path(sys.executable), gramine=library_os(), test_key=key)
        (folder / "party.manifest").write_text(render(party, options))

    def start(self, folder: Path, *words: str) -> "subprocess.Popen[bytes]":
        assert GRAMINE is not None
        log = self.folder / f"{folder.name}.log"
        with log.open("ab") as output:
            return subprocess.Popen(
                [GRAMINE, "party", *words],
                cwd=folder,
                env={**os.environ, "PYTHONPATH": str(self.folder / "host"), "PYTHONOPTIMIZE": "1"},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def __call__(self, folder: Path, arguments: Sequence[str], environment: Environment) -> Process:
        site = arguments[-1] if "-n" in arguments else None
        self.seal(folder, site)
        self.write_manifest(folder, site)
        return self.start(folder, "workspace", "create")

    def ended(self, folder: Path, seconds: float = 240.0) -> str:
        """What a party said that is expected to end by itself, and not well."""
        process = self.start(folder)
        end = time.monotonic() + seconds
        while process.poll() is None and time.monotonic() < end:
            time.sleep(0.2)
        status = process.poll()
        process.kill()
        process.wait()
        assert status not in (None, 0), "the party runs on what the host has changed"
        return (self.folder / f"{folder.name}.log").read_text(errors="replace")


@pytest.fixture
def prepared(tmp_path: Path) -> Path:
    export_workspace(compose(PLAN), tmp_path / "workspace")
    prepare(tmp_path / "workspace", tmp_path / "parties")
    return tmp_path / "parties"


def test_a_federation_in_manifests_makes_the_plain_runs_model(
    prepared: Path, tmp_path: Path
) -> None:
    enclaves = Enclaves(tmp_path / "enclaves")
    run_parties(parties_of(prepared, SITES), launch=enclaves)
    assert not (enclaves.folder / "executed").exists(), "the host's code ran inside"
    written = [
        file
        for party, names in (("aggregator", ("local_state", "save")), ("site-1", ("local_state",)))
        for name in names
        for file in (prepared / party / name).rglob("*")
        if file.is_file() and file.name != "init.pbuf" and file.stat().st_size
    ]
    assert len(written) > 5
    assert not [file for file in written if file.read_bytes()[:8] != CIPHERTEXT]
    source = prepared / "aggregator" / "local_state" / "run"
    for file in source.rglob("*"):
        if file.is_file():
            crypt("decrypt", file, tmp_path / "run" / file.relative_to(source), enclaves.key)
    plain = simulate_experiment(Experiment.from_config(compose(PLAN)), tmp_path / "plain")
    compared = compare_rounds(plain, RunDirectory.open(tmp_path / "run"))
    assert [row.equal for row in compared] == [True] * 3


@pytest.mark.parametrize(
    ("party", "file", "before", "after"),
    [
        ("aggregator", "plan/plan.yaml", b"use_tls: true", b"use_tls: false"),
        ("aggregator", "plan/cols.yaml", b"site-2", b"site-3"),
        ("aggregator", "cert/cert_chain.crt", b"BEGIN", b"BEGIM"),
        ("site-1", "src/taskrunner.py", b'"""', b'"""Changed. '),
        ("site-1", "plan/plan.yaml", b"use_tls: true", b"use_tls: false"),
    ],
)
def test_a_file_that_the_host_changes_is_not_read(
    party: str, file: str, before: bytes, after: bytes, prepared: Path, tmp_path: Path
) -> None:
    enclaves, folder = Enclaves(tmp_path / "enclaves"), prepared / party
    site = party if party != "aggregator" else None
    enclaves.seal(folder, site)
    enclaves.write_manifest(folder, site)
    content = (folder / file).read_bytes()
    assert before in content
    (folder / file).write_bytes(content.replace(before, after, 1))
    assert "ermission" in enclaves.ended(folder)


@pytest.mark.parametrize("how", ["flipped", "moved", "plain", "another key"])
def test_data_that_the_host_changes_are_not_read(how: str, prepared: Path, tmp_path: Path) -> None:
    enclaves, folder = Enclaves(tmp_path / "enclaves"), prepared / "site-1"
    key_file = folder / "cert" / "client" / "col_site-1.key"
    plain = key_file.read_bytes()
    enclaves.seal(folder, "site-1")
    other = "ff" * 16 if how == "another key" else KEY
    enclaves.write_manifest(folder, "site-1", key=other)
    sealed = bytearray(key_file.read_bytes())
    assert sealed[:8] == CIPHERTEXT
    if how == "flipped":
        sealed[len(sealed) // 2] ^= 1
        key_file.write_bytes(sealed)
    elif how == "moved":
        key_file.write_bytes((folder / "cert" / "client" / "col_site-1.crt").read_bytes())
    elif how == "plain":
        key_file.write_bytes(plain)
    assert "ermission" in enclaves.ended(folder)
