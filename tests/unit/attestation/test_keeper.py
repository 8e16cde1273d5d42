"""An enclave's start and its keeper, over real sockets: who gets the key, and who does not."""

import asyncio
import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from openfl_flows.attestation import keeper as keepers
from openfl_flows.attestation.keeper import Keeper, serve
from openfl_flows.attestation.key_release import LARGEST_ANSWER, LARGEST_REQUEST
from openfl_flows.attestation.signed_policy import pinned_policy
from openfl_flows.cli import main
from openfl_flows.pki.plan import party_of
from openfl_flows.release.keys import make_key, read_private, write_signers
from openfl_flows.taskrunner import start
from openfl_flows.taskrunner.workspace import read_workspace
from tests.quoted_bytes import ENCLAVE, Enclave
from tests.quoting_authority import Authority, agreed, write_party, write_quoter

ROOT = Path(__file__).parents[3]
SECRET = bytes(range(200, 216))
FX = """\
import sys
from pathlib import Path
print("fx runs", __name__, *sys.argv[1:], Path({keys!r}, "party").read_bytes().hex())
"""


class Company:
    """One site: its keeper's folder, its enclave's, and the files of both."""

    def __init__(self, folder: Path, authority: Authority) -> None:
        self.folder, self.authority = folder, authority
        self.board = {"board": Ed25519PrivateKey.generate()}
        write_signers(folder / "signers.json", agreed(self.board))
        for name in ("outside", "inside"):
            workspace = folder / name
            (workspace / "plan").mkdir(parents=True)
            for file in (ROOT / "workspaces" / "toy" / "plan").iterdir():
                text = file.read_text().replace("quoter: gramine", "quoter: synthetic")
                (workspace / "plan" / file.name).write_text(text)
            write_party(workspace, authority, self.board)
        make_key(folder / "keeper.key")
        (folder / "secret").touch(0o600)
        (folder / "secret").write_bytes(SECRET)
        (folder / "keys").mkdir()
        (folder / "fx").write_text(FX.format(keys=str(folder / "keys")))

    def keeper(self, **changes: Any) -> Keeper:
        outside = self.folder / "outside"
        policy, digest = pinned_policy(outside, agreed(self.board))
        key = read_private(self.folder / "keeper.key")
        assert isinstance(key, Ed25519PrivateKey)
        found = Keeper(
            party=party_of(outside, "site-1"), federation=read_workspace(outside).hash,
            policy=policy, policy_digest=digest, workspace=outside, secret=SECRET, key=key,
            log=self.folder / "keeper.jsonl",
        )  # fmt: skip
        return replace(found, **changes)

    def arguments(self, port: int, site: str = "site-1") -> list[str]:
        key = read_private(self.folder / "keeper.key").public_key()
        raw = key.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
        return [
            "--keeper", f"127.0.0.1:{port}", "--keeper-key", raw.hex(),
            "--keys", str(self.folder / "keys"), str(self.folder / "fx"),
            "collaborator", "start", "-n", site,
        ]  # fmt: skip

    def quoter(self, enclave: Enclave = ENCLAVE) -> str:
        folder = self.folder / f"quoter-{enclave.mrenclave[:2].hex()}-{enclave.attributes}"
        if not folder.exists():
            folder.mkdir()
            write_quoter(folder, self.authority, of=enclave)
        return str(folder)

    def log(self) -> list[dict[str, str]]:
        return [json.loads(line) for line in (self.folder / "keeper.jsonl").open()]

    @property
    def given(self) -> list[bytes]:
        return [file.read_bytes() for file in (self.folder / "keys").iterdir()]


@pytest.fixture
def company(tmp_path: Path, authority: Authority) -> Company:
    return Company(tmp_path, authority)


@contextlib.contextmanager
def serving(keeper: Keeper) -> Iterator[tuple[int, list[str]]]:
    """The keeper in a thread: its port, and the lines that it tells."""
    told: list[str] = []
    loop = asyncio.new_event_loop()
    task = loop.create_task(serve(keeper, "127.0.0.1", 0, told.append))

    def run() -> None:
        with contextlib.suppress(asyncio.CancelledError):
            loop.run_until_complete(task)
        loop.run_until_complete(asyncio.sleep(0.05))

    thread = threading.Thread(target=run)
    thread.start()
    while not told:
        time.sleep(0.01)
    try:
        yield int(told[0].rpartition(":")[2]), told
    finally:
        loop.call_soon_threadsafe(task.cancel)
        thread.join()
        loop.close()


@contextlib.contextmanager
def answering(*answers: Callable[[bytes], bytes]) -> Iterator[int]:
    """Somebody else at the keeper's address, who answers each connection as told."""

    def run() -> None:
        for answer in answers:
            connection, _ = server.accept()
            with connection:
                size = int.from_bytes(connection.recv(4, socket.MSG_WAITALL), "big")
                connection.sendall(answer(connection.recv(size, socket.MSG_WAITALL)))

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=run)
        thread.start()
        yield server.getsockname()[1]
        thread.join()


def framed(content: bytes) -> bytes:
    return len(content).to_bytes(4, "big") + content


def starts(
    company: Company, monkeypatch: pytest.MonkeyPatch, port: int, site: str = "site-1",
    enclave: Enclave = ENCLAVE,
) -> str:  # fmt: skip
    """Start the enclave here; what it ends with, "" where it became ``fx``."""
    monkeypatch.chdir(company.folder / "inside")
    monkeypatch.syspath_prepend(company.quoter(enclave))
    monkeypatch.delitem(sys.modules, "synthetic_quoter_synthetic", raising=False)
    monkeypatch.setattr(sys, "argv", ["start"])
    monkeypatch.setattr(start, "PAUSE_SECONDS", 0.05)
    try:
        start.main(company.arguments(port, site))
    except SystemExit as error:
        return str(error.code)
    return ""


def test_an_accepted_enclave_gets_its_key_and_becomes_fx(
    company: Company, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving(company.keeper()) as (port, told):
        assert starts(company, monkeypatch, port) == ""
    assert (
        capsys.readouterr().out == f"fx runs __main__ collaborator start -n site-1 {SECRET.hex()}\n"
    )
    assert company.given == [SECRET]
    (line,) = company.log()
    assert line["verdict"] == "released"
    assert line["measurement"] == ENCLAVE.mrenclave.hex()
    assert (line["status"], line["caller"]) == ("UpToDate", "127.0.0.1")
    assert len(line["evidence"]) == len(line["policy"]) == 64
    assert told[1].startswith("released to collaborator site-1 at 127.0.0.1")
    kept = (company.folder / "keeper.jsonl").read_bytes() + "".join(told).encode()
    assert SECRET not in kept
    assert SECRET.hex().encode() not in kept
    assert (company.folder / "keeper.jsonl").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("enclave", "site", "changes", "said"),
    [
        (Enclave(mrenclave=bytes(32)), "site-1", {}, "0" * 64),
        (Enclave(attributes=0x7), "site-1", {}, "DEBUG"),
        (ENCLAVE, "site-2", {}, "of the party site-2, expected site-1"),
        (ENCLAVE, "site-1", {"policy_digest": "00" * 32}, "expected " + "00" * 32),
        (ENCLAVE, "site-1", {"federation": "00" * 48}, "expected " + "00" * 48),
        (ENCLAVE, "site-1", {"workspace": Path("/nowhere")}, "collateral"),
    ],
    ids=["measurement", "debug", "name", "policy", "plan", "no collateral"],
)
def test_a_refused_enclave_has_no_key_and_says_why(
    enclave: Enclave, site: str, changes: dict[str, Any], said: str, company: Company,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    with serving(company.keeper(**changes)) as (port, told):
        ended = starts(company, monkeypatch, port, site, enclave)
    assert ended.startswith("No key: the keeper gives no key: ")
    assert said in ended
    assert len(ended.splitlines()) == 1
    assert company.given == []
    assert "fx runs" not in capsys.readouterr().out
    (line,) = company.log()
    assert line["verdict"] == "refused"
    assert line["reason"] in ended
    assert told[1] == f"refused 127.0.0.1: {line['reason']}"


def test_nobody_else_gives_a_key(
    company: Company, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The host answers in the keeper's place."""
    keeper = company.keeper()
    other = company.keeper(key=Ed25519PrivateKey.generate(), secret=bytes(16))
    old: list[bytes] = []

    def released(asked: bytes) -> bytes:
        old.append(keeper.answer(asked, "a")[0])
        return framed(old[0])

    with answering(released) as port:
        assert starts(company, monkeypatch, port) == ""
    (company.folder / "keys" / "party").unlink()
    capsys.readouterr()
    for answer, said in (
        (lambda asked: framed(other.answer(asked, "a")[0]), "not signed by the keeper"),
        (lambda asked: framed(old[0]), "not signed by the keeper for this request"),
        (lambda asked: framed(b"{}"), "expected the format"),
        (lambda asked: framed(asked), "expected the format"),
        (lambda asked: framed(b"\xff" * 100), "not readable as UTF-8"),
        (lambda asked: framed(b"[" * 10_000), "nested too deeply"),
        (lambda asked: (2**32 - 1).to_bytes(4, "big"), f"expected at most {LARGEST_ANSWER}"),
        (lambda asked: b"HTTP/1.1 400 Bad Request", "bytes, expected at most"),
    ):
        with answering(answer) as port:
            ended = starts(company, monkeypatch, port)
        assert ended.startswith("No key: ")
        assert said in ended
        assert len(ended.splitlines()) == 1
        assert company.given == []
    assert "fx runs" not in capsys.readouterr().out


def test_half_an_answer_is_a_keeper_that_went_away(
    company: Company, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    keeper = company.keeper()
    whole: Callable[[bytes], bytes] = lambda asked: framed(keeper.answer(asked, "a")[0])  # noqa: E731
    with answering(lambda _: b"", lambda asked: whole(asked)[:-1], lambda _: b"\0", whole) as port:
        assert starts(company, monkeypatch, port) == ""
    assert company.given == [SECRET]
    assert capsys.readouterr().err.count("is away, waiting for it") == 1


def test_callers_that_hold_on_cost_others_nothing(
    company: Company, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keepers, "SECONDS", 1.0)
    with serving(company.keeper()) as (port, told), contextlib.ExitStack() as idle:
        for number in range(keepers.CALLERS - 2):
            caller = idle.enter_context(socket.create_connection(("127.0.0.1", port)))
            caller.sendall((b"", b"\0\0", framed(b"x" * 50)[:-1])[number % 3])
        for content in (b"garbage", framed(b"{}"), (LARGEST_REQUEST + 1).to_bytes(4, "big")):
            with socket.create_connection(("127.0.0.1", port), timeout=10) as caller:
                caller.sendall(content)
                caller.shutdown(socket.SHUT_WR)
                answer = caller.recv(2**16)
                assert b"refused" in answer or not answer
        assert starts(company, monkeypatch, port) == ""
        deadline = time.monotonic() + 20
        while len(told) < 3 + keepers.CALLERS and time.monotonic() < deadline:
            time.sleep(0.05)
    assert len(told) == 3 + keepers.CALLERS
    assert company.given == [SECRET]
    assert [line["verdict"] for line in company.log()] == ["refused", "released"]


def test_too_many_callers_are_hung_up_on(
    company: Company, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(keepers, "SECONDS", 1.0)
    with serving(company.keeper()) as (port, _), contextlib.ExitStack() as idle:
        for _ in range(keepers.CALLERS):
            idle.enter_context(socket.create_connection(("127.0.0.1", port)))
        assert starts(company, monkeypatch, port) == ""
    assert "is away, waiting for it: " in capsys.readouterr().err
    assert company.given == [SECRET]


def test_two_processes(company: Company) -> None:
    """The enclave is there before its keeper, and waits."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    environment = {**os.environ, "PYTHONPATH": company.quoter(), "OMP_NUM_THREADS": "1"}
    enclave = subprocess.Popen(
        [sys.executable, "-B", "-m", start.__name__, *company.arguments(port)],
        cwd=company.folder / "inside", env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert enclave.stderr is not None
    assert "is away, waiting for it" in enclave.stderr.readline()
    assert company.given == []
    keep = [
        "attest", "keep", "outside", "--role", "collaborator", "--name", "site-1",
        "--secret", "secret", "--key", "keeper.key", "--signers", "signers.json",
        "--listen", f"127.0.0.1:{port}",
    ]  # fmt: skip
    keeper = subprocess.Popen(
        [sys.executable, "-m", "openfl_flows", *keep], cwd=company.folder, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    try:
        said, errors = enclave.communicate(timeout=60)
        assert (enclave.returncode, errors) == (0, "")
        assert said == f"fx runs __main__ collaborator start -n site-1 {SECRET.hex()}\n"
        assert company.given == [SECRET]
    finally:
        enclave.kill()
        keeper.terminate()
        told, _ = keeper.communicate()
    assert f"the key of collaborator site-1 is kept at 127.0.0.1:{port}\n" in told
    assert "released to collaborator site-1" in told
    assert "released" in (company.folder / "outside" / "logs" / "keeper.jsonl").read_text()


def test_a_secret_is_made_once_and_for_its_owner(
    tmp_path: Path, company: Company, capsys: pytest.CaptureFixture[str]
) -> None:
    made = tmp_path / "made.secret"
    assert main(["attest", "secret", str(made)]) == 0
    content = made.read_bytes()
    assert (len(content), made.stat().st_mode & 0o777) == (16, 0o600)
    assert main(["attest", "secret", str(made)]) == 1
    assert made.read_bytes() == content
    assert content.hex() not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"--secret": "nothing"}, "nothing: no such file, expected a secret"),
        ({"--secret": "open"}, "open has rights 644: others can read it"),
        ({"--secret": "long"}, "long: 17 bytes, expected 16"),
        ({"--key": "p256"}, "p256: a key of another kind, expected Ed25519"),
        ({"--listen": "here"}, "--listen here, expected HOST:PORT"),
        ({"--name": "site-9"}, "no site 'site-9'"),
        ({"--role": "aggregator"}, "expected a site's name with --role collaborator"),
        ({"--signers": "nothing"}, "nothing: no such file, expected the agreed signers"),
    ],
)
def test_what_a_keeper_cannot_use_is_a_line(
    change: dict[str, str], said: str, company: Company, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(company.folder)
    make_key(Path("p256"), "p256")
    for name, mode, size in (("open", 0o644, 16), ("long", 0o600, 17)):
        Path(name).write_bytes(bytes(size))
        Path(name).chmod(mode)
    given = {
        "--role": "collaborator", "--name": "site-1", "--secret": "secret", "--key": "keeper.key",
        "--listen": "127.0.0.1:0", "--signers": "signers.json", **change,
    }  # fmt: skip
    assert main(["attest", "keep", "outside", *(w for pair in given.items() for w in pair)]) == 1
    error = capsys.readouterr().err.strip()
    assert said in error
    assert len(error.splitlines()) == 1


def test_no_key_without_the_library_os(company: Company) -> None:
    arguments = company.arguments(1)
    arguments[5] = "/nowhere"
    with pytest.raises(SystemExit, match="No key: /nowhere: no such folder, expected to run under"):
        start.main(arguments)
