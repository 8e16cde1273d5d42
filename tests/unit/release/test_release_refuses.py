"""What is done to a signed release is refused, and the refusal says where."""

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from openfl_flows.ops.ledger import LEDGER
from openfl_flows.release.folder import sha256_of
from openfl_flows.release.keys import Signers, make_key, read_private
from openfl_flows.release.signature import signed, statement
from openfl_flows.release.tensors import read_model
from openfl_flows.release.verify import collect_signature, sign_release, verify_release
from tests.unit.release.conftest import Consortium, make_run

SIGNATURES = ("signatures/alice.sig", "signatures/bob.sig")


def flip(file: Path, position: int = -1) -> None:
    content = bytearray(file.read_bytes())
    content[position] ^= 1
    file.write_bytes(content)


def rewritten(file: Path) -> None:
    """The same document in another form."""
    file.write_text(json.dumps(json.loads(file.read_text())))


def with_key_twice(file: Path) -> None:
    file.write_text(file.read_text().replace("{", '{"format": "openfl_flows.release/1",', 1))


def lowered(file: Path) -> None:
    document = json.loads(file.read_text())
    document["signers"]["need"] = 1
    file.write_text(json.dumps(document, indent=1, sort_keys=True) + "\n")


def climbing(file: Path) -> None:
    document = json.loads(file.read_text())
    document["files"]["../model.safetensors"] = document["files"].pop("model.safetensors")
    file.write_text(json.dumps(document, indent=1, sort_keys=True) + "\n")


def lines_of(change: Callable[[list[bytes]], list[bytes]]) -> Callable[[Path], None]:
    return lambda file: file.write_bytes(b"".join(change(file.read_bytes().splitlines(True))))


def linked(file: Path) -> None:
    elsewhere = file.parent.parent / file.name
    shutil.move(file, elsewhere)
    file.symlink_to(elsewhere)


DAMAGE = {
    "a tensor's last bit": ("model.safetensors", flip),
    "a tensor's name": ("model.safetensors", lambda f: flip(f, 40)),
    "a byte more": ("model.safetensors", lambda f: f.write_bytes(f.read_bytes() + b"\0")),
    "a byte less": ("model.safetensors", lambda f: f.write_bytes(f.read_bytes()[:-1])),
    "a model that is gone": ("model.safetensors", Path.unlink),
    "a model that is a link": ("model.safetensors", linked),
    "a plan with another seed": (
        "config.json", lambda f: f.write_text(f.read_text().replace('"seed": 1', '"seed": 2'))
    ),
    "a plan that is gone": ("config.json", Path.unlink),
    "a line of the ledger": (
        LEDGER, lambda f: f.write_bytes(f.read_bytes().replace(b":30,", b":31,", 1))
    ),
    "a time in the ledger": (LEDGER, lambda f: f.write_bytes(f.read_bytes().replace(b'Z"', b'Y"'))),
    "the ledger's first line gone": (LEDGER, lines_of(lambda lines: lines[1:])),
    "a line of the middle gone": (LEDGER, lines_of(lambda lines: lines[:2] + lines[3:])),
    "the ledger's last line gone": (LEDGER, lines_of(lambda lines: lines[:-1])),
    "two lines exchanged": (
        LEDGER, lines_of(lambda lines: [lines[0], lines[2], lines[1], lines[3]])
    ),
    "a ledger cut in a line": (LEDGER, lambda f: f.write_bytes(f.read_bytes()[:-9])),
    "the evaluation": (
        "evaluation.json", lambda f: f.write_text(f.read_text().replace("0.25", "0.15"))
    ),
    "a card": ("cards/north.json", lambda f: f.write_text('{"rows": 31}')),
    "a card that is gone": ("cards/north.json", Path.unlink),
    "the manifest in another form": ("manifest.json", rewritten),
    "a key that is there twice": ("manifest.json", with_key_twice),
    "fewer signers in the manifest": ("manifest.json", lowered),
    "a path out of the folder": ("manifest.json", climbing),
    "a manifest that is gone": ("manifest.json", Path.unlink),
    "a signature in another form": ("signatures/alice.sig", rewritten),
    "an empty signature": ("signatures/alice.sig", lambda f: f.write_bytes(b"")),
    "a signature that is gone": ("signatures/alice.sig", Path.unlink),
    "a signature that is a link": ("signatures/alice.sig", linked),
    "a signature that is too deep": (
        "signatures/alice.sig", lambda f: f.write_bytes(b"[" * 10**6)
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", DAMAGE)
def test_a_change_is_refused(release, consortium, what) -> None:
    name, damage = DAMAGE[what]
    damage(release / name)
    with pytest.raises(ValueError, match=r"\A[^\n]*\Z") as refused:
        verify_release(release, consortium.signers)
    named = str(refused.value)
    assert str(release) in named
    assert Path(name).name in named or Path(name).parent.name in named or "a signature" in what


@pytest.mark.parametrize(
    "name",
    ["extra.txt", ".hidden", "cards/south.json", "a/b.json", "signatures/x/a.sig",
     "signatures/readme", "signatures/mallory.sig", "mo\ndel"],
)  # fmt: skip
def test_a_file_more_is_refused(release, consortium, name) -> None:
    (release / name).parent.mkdir(exist_ok=True)
    shutil.copyfile(release / SIGNATURES[0], release / name)
    with pytest.raises(ValueError, match="not part of|unexpected|none of the agreed"):
        verify_release(release, consortium.signers)


def test_a_pipe_or_an_empty_folder_is_refused(release, consortium) -> None:
    os.mkfifo(release / "pipe")
    with pytest.raises(ValueError, match="pipe: a link or no file"):
        verify_release(release, consortium.signers)
    (release / "pipe").unlink()
    (release / "empty").mkdir()
    with pytest.raises(ValueError, match="empty: an empty folder"):
        verify_release(release, consortium.signers)


def test_files_that_changed_places_are_refused(release, consortium) -> None:
    a, b = release / "config.json", release / "evaluation.json"
    one, other = a.read_bytes(), b.read_bytes()
    a.write_bytes(other)
    b.write_bytes(one)
    with pytest.raises(ValueError, match=r"config.json: not what was signed.*\(signature of alice"):
        verify_release(release, consortium.signers)


def test_a_stranger_does_not_count(release, consortium, tmp_path) -> None:
    make_key(tmp_path / "mallory")
    with pytest.raises(ValueError, match="asks for signatures of alice, bob, carol, none of whom"):
        sign_release(release, read_private(tmp_path / "mallory"))
    digests = {"manifest.json": "0" * 64}
    sent = tmp_path / "carol.sig"
    sent.write_bytes(signed(statement(digests), read_private(tmp_path / "mallory")))
    with pytest.raises(ValueError, match="which is none of the agreed signers'"):
        collect_signature(release, sent, consortium.signers)
    shutil.copyfile(sent, release / "signatures" / "carol.sig")
    with pytest.raises(ValueError, match="carol.sig: it is not signed with the signer's key"):
        verify_release(release, consortium.signers)


def test_one_signer_is_one_under_any_name(release, consortium) -> None:
    (release / SIGNATURES[1]).unlink()
    shutil.copyfile(release / SIGNATURES[0], release / "signatures" / "carol.sig")
    with pytest.raises(ValueError, match="carol.sig: it is not signed with the signer's key"):
        verify_release(release, consortium.signers)
    (release / "signatures" / "carol.sig").unlink()
    with pytest.raises(ValueError, match="signed by alice, expected at least 2"):
        verify_release(release, consortium.signers)
    keys = consortium.signers.keys
    with pytest.raises(ValueError, match="'alice' and 'anna' have one key"):
        Signers(need=2, keys={"alice": keys["alice"], "anna": keys["alice"]})


def test_signatures_of_another_release_are_refused(
    release, consortium: Consortium, tmp_path
) -> None:
    from openfl_flows.release.make import make_release

    make_release(
        make_run(tmp_path / "run", rounds=2), tmp_path / "other", signers=consortium.signers
    )
    for name in ("alice", "bob"):
        sign_release(tmp_path / "other", read_private(consortium.keys / name))
    shutil.rmtree(release / "signatures")
    shutil.copytree(tmp_path / "other" / "signatures", release / "signatures")
    with pytest.raises(ValueError, match="not part of what was signed|not what was signed"):
        verify_release(release, consortium.signers)
    sent = release / SIGNATURES[0]
    with pytest.raises(ValueError, match="not part of what was signed|not what was signed"):
        collect_signature(release, sent, consortium.signers)


def test_the_verifier_alone_says_how_many(release, consortium: Consortium) -> None:
    assert verify_release(release, consortium.signers).signers == ("alice", "bob")
    with pytest.raises(ValueError, match="signed by alice, bob, expected at least 3"):
        verify_release(release, consortium.signers, need=3)
    with pytest.raises(ValueError, match="need=1, expected at least the 2"):
        verify_release(release, consortium.signers, need=1)
    # A minority that lowers the number for itself, and signs that, is still one.
    shutil.rmtree(release / "signatures")
    lowered(release / "manifest.json")
    sign_release(release, read_private(consortium.keys / "alice"))
    with pytest.raises(ValueError, match="signed by alice, expected at least 2"):
        verify_release(release, consortium.signers)


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("config.json", '"seed": 1', "config.json"),
        ("evaluation.json", '"mae": 0.2', "evaluation.json: digest="),
        ("cards/north.json", '"rows": 3', "north.json: digest="),
        (LEDGER, '"num_samples":30', "ledger.jsonl: line 3"),
    ],
)
def test_what_contradicts_itself_is_refused_whoever_signs(
    release, consortium, file, change, message
) -> None:
    """All parties sign what nobody looked at: the files are as listed, their contents disagree."""
    from openfl_flows.release.folder import files_of

    target = release / file
    target.write_text(target.read_text().replace(change, f"{change}1", 1))
    manifest = json.loads((release / "manifest.json").read_text())
    manifest["files"][file] = sha256_of(target)
    (release / "manifest.json").write_text(json.dumps(manifest))
    digests = {name: sha256_of(release / name) for name in files_of(release)[0]}
    for name in ("alice", "bob"):
        content = signed(statement(digests), read_private(consortium.keys / name))
        (release / "signatures" / f"{name}.sig").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        verify_release(release, consortium.signers)
    with pytest.raises(ValueError, match=message):
        sign_release(release, read_private(consortium.keys / "carol"))


@pytest.mark.parametrize(
    "name",
    ["manifest.json", "config.json", "evaluation.json", "cards/north.json", LEDGER,
     "model.safetensors"],
)  # fmt: skip
def test_a_file_that_changes_once_it_was_hashed_is_refused(
    release, consortium, monkeypatch, name
) -> None:
    from openfl_flows.release import verify

    def hashed_then_changed(path: Path) -> str:
        found = sha256_of(path)
        if path == release / name:
            content = path.read_bytes()
            changes = {
                "model.safetensors": content[:-1] + bytes([content[-1] ^ 1]),
                # Beside the chain, which stays intact.
                LEDGER: content.replace(b'"time":"2', b'"time":"3', 1),
            }
            path.write_bytes(changes.get(name, content + b" "))
        return found

    monkeypatch.setattr(verify, "sha256_of", hashed_then_changed)
    with pytest.raises(ValueError, match="changed while it was verified|content has digest"):
        verify_release(release, consortium.signers)


@pytest.mark.parametrize("length", [2**24 + 1, 2**40, 2**63])
def test_a_header_without_measure_is_refused_before_it_is_read(tmp_path, length) -> None:
    file = tmp_path / "model.safetensors"
    with file.open("wb") as sparse:
        sparse.write(length.to_bytes(8, "little"))
        sparse.truncate(2**41)
    with pytest.raises(ValueError, match=f"a header of {length} bytes"):
        read_model(file)


def test_names_that_no_release_has_are_refused_in_one_line(release, consortium) -> None:
    for name in ("mo\ndel", "modèl.json", "a\x1b[2J", "b\u202eexe.json", "Manifest.json"):
        (release / name).touch()
        with pytest.raises(ValueError, match=r"\A[ -~]*\Z") as refused:
            verify_release(release, consortium.signers)
        assert re.search("unexpected name|differ in case only", str(refused.value))
        (release / name).unlink()


@pytest.mark.timeout(600)
def test_no_byte_can_be_changed(release, consortium) -> None:
    draw = np.random.default_rng(7)
    files = sorted(file for file in release.rglob("*") if file.is_file())
    verify_release(release, consortium.signers)
    for number in range(1000):
        file = files[number % len(files)]
        whole = file.read_bytes()
        content = bytearray(whole)
        content[draw.integers(len(content))] ^= int(draw.integers(1, 256))
        file.write_bytes(content)
        with pytest.raises(ValueError, match=r"\A[^\n]*\Z"):
            verify_release(release, consortium.signers)
        file.write_bytes(whole)
    verify_release(release, consortium.signers)
