"""What must not leave a site is looked for in every byte that leaves it, and where that arrives."""

import contextlib
import csv
import getpass
import json
import shutil
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from openfl_flows.cli import main
from openfl_flows.cli.plan import compose
from openfl_flows.data.blind.key_file import write_key
from openfl_flows.taskrunner.export import export_workspace
from openfl_flows.taskrunner.rehearsal import prepare
from tests.canaries import (
    NUMBERS,
    PEPTIDE,
    WORD,
    compressed_forms,
    leaked,
    leaked_in,
    needles,
    recorded_site,
)
from tests.e2e.test_federated_evaluation import models
from tests.fx_processes import TOY, aggregator, launch
from tests.processes import Process
from tests.tiny import OVERRIDES

SITES = ("site-1", "site-2")
BLIND = ("split=blind", "split.fractions=[0.6,0.2,0.2]", "federation.rounds=2")
KEY = bytes(range(100, 132))
"""Of the blind split, the same in every run: with another, a part may be empty."""


@dataclass
class Consortium:
    """A federation whose sites' folders, data and surroundings are full of canaries.

    Attributes:
        out: Folder of all.
        folders: Of the sites.
        processes: What runs.
        texts: Of the data, besides the canaries.
    """

    out: Path
    folders: Mapping[str, Path]
    processes: dict[str, Process] = field(default_factory=dict)
    texts: list[str] = field(default_factory=list)

    @property
    def party(self) -> Path:
        """The aggregator's folder."""
        return self.out / "aggregator"

    def record(self, name: str) -> Path:
        return self.out / f"{name}.calls"

    def start(self, name: str, leak: str = "") -> Process:
        folder = self.folders[name]
        home = folder.with_name(f"{WORD}-home")
        home.mkdir(exist_ok=True)
        environment = {"HOME": str(home), "USER": f"{WORD}-user", "PROJECT_TOKEN": f"{WORD}-token"}
        process = recorded_site(folder, name, self.record(name), environment=environment, leak=leak)
        self.processes[name] = process
        return process

    def rounds(self) -> int:
        file = self.party / "local_state" / "run" / "run.json"
        return len(json.loads(file.read_text())["rounds"]) if file.is_file() else 0

    def said(self, name: str) -> str:
        return " ".join((self.folders[name] / "logs" / "fx.log").read_text().split())

    def data(self, name: str) -> Path:
        return self.folders[name] / "data" / f"{WORD}-data"

    def needles(self) -> dict[str, bytes]:
        return needles(self.texts, [secret for each in SITES for secret in self.secrets(each)])

    def secrets(self, name: str) -> list[bytes]:
        """Keys that a site has: of its certificate, of the split, of noise and masks."""
        folder = self.folders[name]
        pem = (folder / "cert" / "client" / f"col_{name}.key").read_bytes()
        key = load_pem_private_key(pem, None)
        assert isinstance(key, EllipticCurvePrivateKey)
        number = key.private_numbers().private_value
        found = [number.to_bytes(key.key_size // 8, "big")]
        if (folder / "private" / "blind.key").exists():
            found.append(KEY)
        local = folder / "local_state" / name
        if (file := local / "masks.json").exists():
            found.append(bytes.fromhex(json.loads(file.read_text())["key"]))
        if (file := local / "privacy.json").exists():
            releases = json.loads(file.read_text())["releases"]
            found += [bytes.fromhex(made["key"]) for made in releases if made["key"]]
        return found

    def assert_kept(self) -> None:
        """Nothing of the sites is in what they sent, in what may leave, or at the aggregator."""
        wanted = self.needles()
        for name, folder in self.folders.items():
            sent = self.record(name).read_bytes()
            assert len(sent) > 5_000
            around = {host: host.encode() for host in (socket.gethostname(), getpass.getuser())}
            assert leaked(sent, wanted) == set()
            assert [host for host, it in around.items() if len(it) > 5 and it in sent] == []
            # gRPC's own connections are not Python's: nothing else connects anywhere.
            assert self.record(name).with_suffix(".hosts").read_text() == ""
            leaving = [folder / "local_state" / "readiness" / f"{name}.json"]
            leaving += [*folder.glob("logs/card.json"), *folder.rglob("disclosed.json")]
            assert leaked_in(leaving, wanted) == {}
            # The search would have found them: they are there.
            assert leaked_in([folder], wanted)
        page = self.out / "status.html"
        assert main(["status", str(self.party), "--html", str(page)]) == 0
        assert leaked_in([self.party, page], wanted) == {}


@contextlib.contextmanager
def consortium(
    out: Path, *overrides: str, fill: Callable[[Path, int], list[str]] | None = None
) -> Iterator[Consortium]:
    """Make the parties, move the sites to folders of other names, and start the aggregator."""
    key = out / f"{WORD}.key"
    write_key(key)
    key.write_text(KEY.hex())
    blind = (f"split.key_file={key}",) if "split=blind" in overrides else ()
    # Random bytes that probe the line might be like a number of four bytes.
    still = "network.readiness.probe_mib=0"
    export_workspace(compose((*overrides, *blind, still)), out / "workspace")
    if blind:
        (out / "workspace" / "private").mkdir()
        shutil.copy2(key, out / "workspace" / "private" / "blind.key")
    prepare(out / "workspace", out / "parties", launch=launch)
    folders = {name: out / f"{WORD}-{name}" for name in SITES}
    made = Consortium(out / "parties", folders)
    for number, (name, folder) in enumerate(folders.items()):
        shutil.move(made.out / name, folder)
        (folder / "data" / name).rename(made.data(name))
        (folder / "plan" / "data.yaml").write_text(f"{name},data/{WORD}-data\n")
        (made.data(name) / f"{WORD}-notes.txt").write_text(f"{WORD} of {PEPTIDE}\n")
        (folder / "local_state").mkdir(exist_ok=True)
        (folder / "local_state" / f"{WORD}.txt").write_text(WORD)
        if fill is not None:
            made.texts += fill(made.data(name), number)
    made.processes["aggregator"] = aggregator(made.out)
    try:
        yield made
    finally:
        for process in made.processes.values():
            process.kill()


def molecules(folder: Path, number: int) -> list[str]:
    """Give a site's table canaries in every cell that may hold any, and a row that is refused."""
    table = folder / "molecules.csv"
    with table.open(newline="") as stream:
        header, *rows = csv.reader(stream)
    dipole, homo, smiles = (header.index(key) for key in ("dipole_debye", "homo_ev", "smiles"))
    for i, row in enumerate(rows):
        row[dipole], row[homo] = str(NUMBERS[i % 2]), str(NUMBERS[2 + i % 2])
        row += [f"{WORD}-{number}-{i}", f"{WORD} project"]
    refused = [f"{WORD}(" if i == smiles else cell for i, cell in enumerate(rows[0])]
    with table.open("w", newline="") as stream:
        csv.writer(stream).writerows([[*header, "mol_name", WORD], *rows, refused])
    return [row[smiles] for row in rows if len(row[smiles]) > 9]


def proteins(folder: Path, number: int) -> list[str]:
    """Give every record of a site a name, a key and a sequence of its own."""
    file = folder / "proteins.fasta"
    lines = []
    for i, line in enumerate(file.read_text().splitlines()):
        if line.startswith(">"):
            line = f">{WORD}-{number}-{i} {line.split(maxsplit=1)[1]} PROJECT={WORD}{i}"
        else:
            line = line[:5] + PEPTIDE + line[5:]
        lines.append(line)
    file.write_text("\n".join(lines) + "\n")
    return []


def wait(reached: Callable[[], object]) -> None:
    end = time.monotonic() + 120
    while not reached():
        assert time.monotonic() < end, "what the test waits for did not come"
        time.sleep(0.02)


def test_nothing_of_molecules_leaves_though_a_site_is_red_refuses_rows_and_crashes(
    tmp_path: Path,
) -> None:
    plan = ("experiment=demo", *OVERRIDES, "data.limit=240", *BLIND)
    with consortium(tmp_path, *plan, fill=molecules) as made:
        made.start("site-2")
        folder = made.folders["site-1"]
        pins = folder / "requirements.txt"
        as_agreed = pins.read_text()
        pins.write_text(as_agreed.replace("numpy==", "numpy==0."))
        assert made.start("site-1").wait() == 1
        assert "site-1 is not ready: versions" in made.said("site-1")
        pins.write_text(as_agreed)

        # Its data are found to be wrong before anything is sent; the verdict is made all the same.
        table = made.data("site-1") / "molecules.csv"
        good = table.read_text()
        table.write_text(good.replace(",1.2345", f",{WORD}1.2345"))
        before = made.record("site-1").stat().st_size
        assert made.start("site-1").wait() == 1
        assert "do not fit the plan's schema" in made.said("site-1")
        assert made.record("site-1").stat().st_size == before
        assert main(["check", str(folder), "--site", "site-1", "--offline"]) == 1
        verdict = folder / "local_state" / "readiness" / "site-1.json"
        assert '"green":false' in verdict.read_text()
        assert leaked_in([verdict, folder / "logs" / "card.json"], made.needles()) == {}
        table.write_text(good)

        made.start("site-1").kill_when(lambda: made.rounds() == 1)
        state = folder / "local_state" / "site-1"
        whole = shutil.copytree(state, tmp_path / "state")
        for file in state.iterdir():
            if file.is_file():
                file.write_text(f"{WORD} instead of {file.name}")
        assert made.start("site-1").wait() == 1
        shutil.rmtree(state)
        shutil.copytree(whole, state)
        assert made.start("site-1").wait() == 0
        assert [made.processes[name].wait() for name in ("aggregator", "site-2")] == [0, 0]
        made.assert_kept()
        sketch, key = tmp_path / "sketch.json", folder / "private" / "blind.key"
        words = ("--key", str(key), "--out", str(sketch), "--floor", "2")
        assert main(["domain", "sketch", *words, str(table)]) == 0
        assert leaked_in([sketch], made.needles()) == {}


@pytest.mark.slow
def test_nothing_of_proteins_leaves_an_evaluation(tmp_path: Path) -> None:
    plan = ("experiment=esm_scl", "federation.sites=2", "evaluation=proteins")
    plan = (*plan, "evaluation.per_site=true", *models(tmp_path, *plan))
    with consortium(tmp_path, *plan, fill=proteins) as made:
        assert [made.start(name) for name in SITES]
        assert [process.wait() for process in made.processes.values()] == [0] * 3
        assert [*made.folders["site-1"].rglob("disclosed.json")]
        made.assert_kept()


@pytest.mark.slow
def test_nothing_of_proteins_leaves(tmp_path: Path) -> None:
    small = ("data.limit=120", "federation.sites=2", "partition=proteins_iid")
    with consortium(tmp_path, "experiment=esm_scl", *small, *BLIND, fill=proteins) as made:
        assert [made.start(name) for name in SITES]
        assert [process.wait() for process in made.processes.values()] == [0] * 3
        made.assert_kept()


def test_no_key_of_noise_or_masks_leaves(tmp_path: Path) -> None:
    hidden = ("privacy=gaussian", "federation.secure_aggregation=true")
    with consortium(tmp_path, *TOY, *hidden, "network.max_norm_ratio=null") as made:
        assert [made.start(name) for name in SITES]
        assert [process.wait() for process in made.processes.values()] == [0] * 3
        assert min(len(made.secrets(name)) for name in SITES) >= 3
        made.assert_kept()


def test_a_leak_is_found_on_the_wire_and_at_the_aggregator(tmp_path: Path) -> None:
    with consortium(tmp_path, *TOY) as made:
        made.start("site-1", leak=f"{WORD}-metric")
        made.start("site-2", leak=f"{WORD}-metric")
        assert [process.wait() for process in made.processes.values()] == [0] * 3
        sent = made.record("site-1").read_bytes()
        assert leaked(sent, made.needles()) >= {f"{WORD} as plain"}
        places = {Path(file).name for file in leaked_in([made.party], made.needles())}
        assert "run.json" in places


def test_every_form_is_found() -> None:
    secret = bytes(range(200, 232))
    wanted = needles(["CCOCC(N)=O"], [secret])
    for name, content in wanted.items():
        for shift in range(3):
            hidden = b"?" * shift + content + b"?" * 9
            assert name in leaked(hidden, wanted)
            for packed in compressed_forms(hidden).values():
                assert name in leaked(b"frame" + packed + b"rest", wanted), name
    assert leaked(b"nothing of it" * 100, wanted) == set()
