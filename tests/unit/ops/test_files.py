"""Files are whole or absent, and a State comes back as it was or not at all."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from openfl_flows.atomic import put_copy, replacing, write_atomically, write_json
from openfl_flows.ops.files import let_go, load_state, map_state, save_state
from openfl_flows.state import State

DTYPES = ("float32", "float64", "float16", "int64", "int32", "uint8", "int8", "bool")
STATE = State(
    {"b": np.arange(6, dtype=np.float32).reshape(2, 3), "a": np.array(3), "c": np.zeros(0)},
    frozen=("b",),
)

states = st.dictionaries(
    st.text(min_size=1, max_size=5),
    st.sampled_from(DTYPES).flatmap(
        lambda dtype: arrays(dtype, array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3))
    ),
    max_size=4,
).flatmap(
    lambda found: st.builds(
        lambda frozen: State(found, frozen=sorted(frozen)),
        st.sets(st.sampled_from(sorted(found))) if found else st.just(set()),
    )
)


class Stopped(BaseException):
    """Ends a process, as an interrupt does."""


def write_half(file: Path) -> None:
    with replacing(file) as temporary:
        temporary.write_bytes(b"half of the n")
        raise Stopped


def test_a_failure_while_writing_leaves_the_old_file(tmp_path: Path) -> None:
    file = tmp_path / "file"
    write_atomically(file, b"old")
    with pytest.raises(Stopped):
        write_half(file)
    assert file.read_bytes() == b"old"
    assert [found.name for found in tmp_path.iterdir()] == ["file"]


def test_a_crash_before_the_replacement_leaves_the_old_file(tmp_path: Path, monkeypatch) -> None:
    def crash(self: Path, target: Path) -> None:
        assert self.read_bytes() == b"new"
        assert target.read_bytes() == b"old"
        raise Stopped

    file = tmp_path / "file"
    write_atomically(file, b"old")
    monkeypatch.setattr(Path, "replace", crash)
    with pytest.raises(Stopped):
        write_atomically(file, b"new")
    assert file.read_bytes() == b"old"


def test_content_is_on_disk_before_it_is_in_place(tmp_path: Path, monkeypatch) -> None:
    done = []
    fsync, replace = "os.fsync", Path.replace
    monkeypatch.setattr(fsync, lambda descriptor: done.append("fsync"))
    monkeypatch.setattr(Path, "replace", lambda *paths: (done.append("replace"), replace(*paths)))
    write_atomically(tmp_path / "file", b"new")
    assert done == ["fsync", "replace"]


def test_what_is_written_replaces_what_was_there(tmp_path: Path) -> None:
    file = tmp_path / "folder" / "file.json"
    for document in ({"a": [1, 2]}, {"b": "ü"}):
        write_json(file, document)
        assert json.loads(file.read_text()) == document
    assert [found.name for found in file.parent.iterdir()] == ["file.json"]


@given(state=states)
@settings(max_examples=60, deadline=None)
def test_a_state_comes_back_as_it_was(tmp_path_factory: pytest.TempPathFactory, state) -> None:
    file = tmp_path_factory.mktemp("state") / "state.safetensors"
    save_state(file, state)
    for read in (load_state, map_state):
        again = read(file)
        assert again == state
        assert again.spec == state.spec
        assert again.frozen == state.frozen


def test_a_mapped_state_survives_deletion_and_replacement(tmp_path: Path) -> None:
    file = tmp_path / "state.safetensors"
    save_state(file, STATE)
    mapped = map_state(file)
    save_state(file, STATE.with_arrays({"b": np.ones((2, 3), np.float32)}))
    np.testing.assert_array_equal(mapped["b"], STATE["b"])
    replaced = map_state(file)
    file.unlink()
    np.testing.assert_array_equal(replaced["b"], 1)
    assert mapped == STATE


def test_a_mapped_state_cannot_be_written_to(tmp_path: Path) -> None:
    file = tmp_path / "state.safetensors"
    save_state(file, STATE)
    with pytest.raises(ValueError, match="read-only"):
        map_state(file)["b"][0, 0] = 1


def test_every_flipped_byte_of_the_content_is_noticed(tmp_path: Path) -> None:
    file = tmp_path / "state.safetensors"
    save_state(file, STATE)
    content = file.read_bytes()
    for position in range(len(content) - STATE.nbytes, len(content)):
        damaged = bytearray(content)
        damaged[position] ^= 1
        file.write_bytes(damaged)
        with pytest.raises(ValueError, match="state.safetensors: content has digest"):
            load_state(file)


@pytest.mark.parametrize("length", [0, 4, 60, -1])
def test_a_truncated_state_is_refused(tmp_path: Path, length: int) -> None:
    file = tmp_path / "state.safetensors"
    save_state(file, STATE)
    file.write_bytes(file.read_bytes()[:length])
    with pytest.raises(ValueError, match="state.safetensors: not a readable safetensors file"):
        load_state(file)


def test_a_state_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="absent: no such file"):
        load_state(tmp_path / "absent")


def test_safetensors_of_other_origin_need_no_digest(tmp_path: Path) -> None:
    file = tmp_path / "other.safetensors"
    safetensors.numpy.save_file({"w": np.ones(2, np.float32)}, file)
    assert load_state(file) == State({"w": np.ones(2, np.float32)})


def test_a_copy_outlives_its_source(tmp_path):
    source, copy = tmp_path / "source", tmp_path / "folder" / "copy"
    write_atomically(source, b"first")
    put_copy(source, copy)
    write_atomically(source, b"second")
    assert copy.read_bytes() == b"first"
    put_copy(source, copy)
    assert copy.read_bytes() == b"second"


def test_a_copy_needs_no_links(tmp_path, monkeypatch):
    def refuse(*_: object) -> None:
        raise PermissionError("no links here")

    monkeypatch.setattr(os, "link", refuse)
    write_atomically(tmp_path / "source", b"content")
    put_copy(tmp_path / "source", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == b"content"


def test_pages_that_were_let_go_are_read_again(tmp_path):
    save_state(tmp_path / "state", STATE)
    mapped = map_state(tmp_path / "state")
    assert mapped == STATE
    let_go(mapped)
    assert State(dict(mapped), frozen=mapped.frozen) == STATE
    let_go(STATE)
