"""A release from the run to its verifier: whole, the same every time, and read by others too."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from openfl_flows.cli import main
from openfl_flows.ops.files import load_state, save_state
from openfl_flows.ops.run import RunDirectory
from openfl_flows.release.keys import Signers, make_key, read_private, read_signers
from openfl_flows.release.make import make_release
from openfl_flows.release.tensors import read_model
from openfl_flows.release.verify import collect_signature, sign_release, verify_release
from openfl_flows.state import State
from tests.unit.release.conftest import Consortium, make_run
from tests.unit.release.conftest import card as make_card

BLOCKED = """
import importlib.abc, sys
HEAVY = {"torch", "openfl", "hydra", "omegaconf", "numpy", "safetensors", "pydantic", "google"}
class Blocker(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.partition(".")[0] in HEAVY:
            raise ImportError(f"{name} is not there")
sys.meta_path.insert(0, Blocker())
"""


def files(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


def test_a_release_is_accepted_and_says_what_it_holds(release, consortium, finished) -> None:
    verified = verify_release(release, consortium.signers)
    record = RunDirectory.open(finished).record
    assert verified.signers == ("alice", "bob")
    assert verified.contents.model_digest == record["digest"]
    assert verified.contents.ledger.head == record["ledger"]["head"]
    assert load_state(verified.model).digest() == record["digest"]
    assert verified.contents.manifest["evaluation"]["baseline"] == "0" * 64
    assert verified.contents.manifest["cards"].keys() == {"north.json"}
    plan = json.loads((release / "config.json").read_text())
    assert plan == {"name": "tiny", "seed": 1, "join": {"name": "fedavg"}}


def test_the_same_run_gives_the_same_bytes(consortium, finished, tmp_path) -> None:
    for name in ("a", "b"):
        make_release(finished, tmp_path / name, signers=consortium.signers)
    assert files(tmp_path / "a") == files(tmp_path / "b")
    for name in ("a", "b"):
        sign_release(tmp_path / name, read_private(consortium.keys / "carol"))
    assert files(tmp_path / "a") == files(tmp_path / "b")


@pytest.mark.parametrize(
    ("weights", "round_", "file"),
    [("model", 3, "model"), ("best", 1, "best"), ("ema", 3, "ema")],
)
def test_any_of_the_weights_can_be_released(
    consortium, finished, tmp_path, weights, round_, file
) -> None:
    contents = make_release(finished, tmp_path / "r", signers=consortium.signers, weights=weights)
    assert contents.manifest["model"]["round"] == round_
    assert contents.model_digest == load_state(finished / f"{file}.safetensors").digest()


def test_parties_sign_where_they_are_and_send_a_small_file(
    consortium: Consortium, finished, tmp_path
) -> None:
    make_release(finished, tmp_path / "r", signers=consortium.signers)
    for name in ("carol", "alice"):
        own = shutil.copytree(tmp_path / "r", tmp_path / name)
        before = files(own)
        sent = sign_release(
            own, read_private(consortium.keys / name), out=tmp_path / f"from {name}"
        )
        assert files(own) == before
        assert collect_signature(tmp_path / "r", sent, consortium.signers) == name
    assert verify_release(tmp_path / "r", consortium.signers).signers == ("alice", "carol")


def test_every_kind_of_key_signs(finished, tmp_path) -> None:
    keys = {kind: make_key(tmp_path / kind, kind) for kind in ("ed25519", "p256", "p384")}
    signers = Signers(need=3, keys=keys)
    make_release(finished, tmp_path / "r", signers=signers)
    for kind in keys:
        sign_release(tmp_path / "r", read_private(tmp_path / kind))
    assert verify_release(tmp_path / "r", signers).signers == ("ed25519", "p256", "p384")
    command = shutil.which("model_signing")
    if command is None:
        pytest.skip("the command of the package model-signing is not there to verify it, too")
    for kind, status in (("p256", 0), ("p384", 0), ("ed25519", 1)):
        words = [command, "verify", "key", str(tmp_path / "r"), "--public_key",
                 str(tmp_path / f"{kind}.pub"), "--signature",
                 str(tmp_path / "r" / "signatures" / f"{kind}.sig")]  # fmt: skip
        assert subprocess.run(words, capture_output=True, check=False).returncode == status


def test_what_cannot_be_released_is_refused_and_leaves_nothing(
    consortium, finished, tmp_path
) -> None:
    def refused(match: str, run: Path = finished, **options: object) -> None:
        with pytest.raises(ValueError, match=match):
            make_release(run, tmp_path / "r", signers=consortium.signers, **options)
        assert not (tmp_path / "r").exists()
        assert not list(tmp_path.glob(".r*"))

    own = shutil.copytree(finished, tmp_path / "run")
    refused("no run in it", tmp_path / "run" / "checkpoints")
    card = tmp_path / "card.json"
    refused("card.json: No such file", evaluation=card)
    card.write_text(make_card(format="openfl_flows.evaluation/1", candidate="abc"))
    refused("of the model abc, expected", evaluation=card)
    refused("there is another card", cards=[card, card])
    card.write_text('{"rows": 3}')
    refused("card.json: digest=None, expected [0-9a-f]{64} of its content", cards=[card])
    card.write_text("[")
    refused("not readable as JSON", cards=[card])
    model = load_state(own / "model.safetensors")
    other = np.array([0.0, np.nan, 0.0], np.float32)
    save_state(own / "model.safetensors", model.with_arrays({"bias": other}))
    refused("'bias' has NaN or infinite", own)
    save_state(own / "model.safetensors", model.with_arrays({"bias": np.zeros(3, np.float32)}))
    refused("model.safetensors has digest", own)
    (own / "ledger.jsonl").write_bytes(b"")
    refused("ledger.jsonl: no lines", own)
    (own / "run.json").write_text((own / "run.json").read_text().replace("finished", "running"))
    refused("the run is running", own)
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / "mine").touch()
    with pytest.raises(ValueError, match="r exists and is not empty"):
        make_release(finished, tmp_path / "r", signers=consortium.signers)


def test_an_older_release_is_not_taken_for_a_newer_one(consortium, tmp_path) -> None:
    signers = consortium.signers

    def made(name: str, **options: object) -> Path:
        make_release(
            make_run(tmp_path / f"run-{name}", **options), tmp_path / name, signers=signers
        )
        for signer in ("alice", "bob"):
            sign_release(tmp_path / name, read_private(consortium.keys / signer))
        return tmp_path / name

    older, newer, other = made("older", rounds=2), made("newer", rounds=4), made("other", seed=2)
    tuned = made("tuned", first=2.0, seed=3)
    verify_release(newer, signers, after=older / "manifest.json")
    verify_release(tuned, signers, after=older / "manifest.json")
    for folder, before in ((older, newer), (older, older), (other, older), (older, tuned)):
        with pytest.raises(ValueError, match="the ledger neither goes on from line"):
            verify_release(folder, signers, after=before / "manifest.json")


finite = st.floats(allow_nan=False, allow_infinity=False, width=16)


@given(
    arrays=st.dictionaries(
        st.text(min_size=1, max_size=8),
        st.tuples(
            st.sampled_from(["f2", "f4", "f8", "i1", "i8", "u4", "?"]),
            st.lists(finite, max_size=5),
        ),
        min_size=1,
        max_size=4,
    ),
    frozen=st.booleans(),
)
def test_digests_are_those_of_the_state(tmp_path_factory, arrays, frozen) -> None:
    with np.errstate(all="ignore"):
        found = {name: np.array(values).astype(kind) for name, (kind, values) in arrays.items()}
    state = State(found, frozen=sorted(found)[:1] if frozen else ())
    file = tmp_path_factory.mktemp("state") / "s.safetensors"
    try:
        save_state(file, state)
    except UnicodeEncodeError:
        return
    model = read_model(file)
    assert model.digest == state.digest()
    assert [tuple(t["shape"]) for t in model.tensors.values()] == [a.shape for a in state.values()]


@pytest.mark.parametrize("kind", ["f2", "f4", "f8"])
@pytest.mark.parametrize("bad", [np.nan, -np.nan, np.inf, -np.inf])
def test_a_number_that_is_none_is_found_anywhere(tmp_path, kind, bad) -> None:
    large = np.finfo(kind).max
    values = np.full(2**19 + 3, large, kind)
    values[1::2] = -np.finfo(kind).tiny
    save_state(tmp_path / "s", State({"a": values.copy()}))
    read_model(tmp_path / "s")
    for position in (0, 2**18 - 1, len(values) - 1):
        spoiled = values.copy()
        spoiled[position] = bad
        save_state(tmp_path / "s", State({"a": spoiled}))
        with pytest.raises(ValueError, match="tensor 'a' has NaN or infinite values"):
            read_model(tmp_path / "s")


def test_keys_stay_with_their_owner(tmp_path, consortium) -> None:
    key = tmp_path / "key"
    make_key(key)
    assert key.stat().st_mode & 0o777 == 0o600
    with pytest.raises(ValueError, match="key exists: a key is never replaced"):
        make_key(key)
    key.chmod(0o640)
    with pytest.raises(ValueError, match="rights 640: others can read it"):
        read_private(key)
    assert read_signers(consortium.file).need == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d | {"need": 0}, "need=0, expected 1 to 3"),
        (lambda d: d | {"need": 4}, "need=4, expected 1 to 3"),
        (lambda d: d | {"need": "2"}, "need='2', expected a whole number"),
        (lambda d: d | {"need": True}, "need=True"),
        (lambda d: d | {"more": 1}, "and nothing else"),
        (lambda d: d | {"signers": {"a": "x"}}, "signer 'a': not a readable public key"),
        (lambda d: d | {"signers": {"../a": d["signers"]["bob"]}, "need": 1}, "signer '../a'"),
        (lambda d: d | {"format": "x"}, "expected format"),
    ],
)
def test_signers_who_cannot_be_are_refused(consortium, tmp_path, change, message) -> None:
    file = tmp_path / "signers.json"
    file.write_text(json.dumps(change(json.loads(consortium.file.read_text()))))
    with pytest.raises(ValueError, match=f"signers.json: .*{re.escape(message)}"):
        read_signers(file)
    file.write_text(consortium.file.read_text().replace("{", '{"need": 1,', 1))
    with pytest.raises(ValueError, match="'need' occurs twice"):
        read_signers(file)


def test_it_is_verified_without_anything_heavy(release, consortium) -> None:
    words = ["release", "verify", str(release), "--signers", str(consortium.file)]
    code = f"{BLOCKED}\nfrom openfl_flows.cli import main\nsys.exit(main({words!r}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "accepted: " in done.stdout


def test_the_commands_go_from_keys_to_an_accepted_model(
    finished, tmp_path, capsys, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b"):
        assert main(["release", "key", f"{name}.key"]) == 0
    listed = ["a=a.key.pub", "b=b.key.pub"]
    assert main(["release", "signers", "signers.json", "--need", "2", *listed]) == 0
    signers = ("--signers", "signers.json")
    assert main(["release", "make", str(finished), "--out", "R", *signers]) == 0
    assert main(["release", "verify", "R", *signers]) == 1
    for name in ("a", "b"):
        words = ["release", "sign", "R", "--key", f"{name}.key", "--out", f"{name}.sig"]
        assert main(words) == 0
    assert main(["release", "collect", "R", "a.sig", "b.sig", *signers]) == 0
    capsys.readouterr()
    assert main(["release", "verify", "R", *signers]) == 0
    out = capsys.readouterr().out
    assert f"accepted: {os.path.join('R', 'model.safetensors')}" in out
    assert "sites north, south" in out
    assert main(["release", "verify", "R", *signers, "--need", "1"]) == 1
    assert main(["release", "verify", "R", *signers, "--after", "R/manifest.json"]) == 1
