"""A site remembers how far its federation has come, and lets it go back by a signed word alone."""

import logging
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openfl_flows.ops.seen import FILE, Memory, Seen, WentBackError

HERE, OTHER = "a" * 96, "b" * 96
ONE, TWO = "1" * 64, "2" * 64


def refused(seen: Seen) -> str:
    raise ValueError("nobody has signed anything")


def test_forward_and_again_are_taken(tmp_path):
    for _ in range(2):
        memory = Memory(tmp_path, HERE, refused)
        memory.see(3, ONE)
    memory.see(5, TWO)
    with pytest.raises(WentBackError, match="after 3 rounds"):
        memory.see(3, ONE)
    with pytest.raises(WentBackError, match="nobody has signed"):
        memory.see(5, ONE)
    memory.see(5, TWO)


@given(st.lists(st.tuples(st.integers(0, 4), st.sampled_from([ONE, TWO])), max_size=12))
def test_what_was_refused_changes_nothing(tmp_path_factory, walk):
    folder = tmp_path_factory.mktemp("site")
    memory, last = Memory(folder, HERE, refused), None
    for round_, digest in walk:
        forward = last is None or round_ > last[0] or (round_, digest) == last
        if forward:
            memory.see(round_, digest)
            last = round_, digest
            continue
        before = (folder / FILE).read_bytes()
        with pytest.raises(WentBackError):
            memory.see(round_, digest)
        assert (folder / FILE).read_bytes() == before


def test_a_statement_serves_once(tmp_path):
    memory = Memory(tmp_path, HERE, lambda seen: f"statement on {seen.round}")
    memory.see(4, ONE)
    memory.see(2, TWO)
    memory.see(4, ONE)
    with pytest.raises(WentBackError, match="has served before"):
        memory.see(2, TWO)


def test_another_plan_is_another_federation(tmp_path):
    Memory(tmp_path, HERE, refused).see(4, ONE)
    Memory(tmp_path, OTHER, refused).see(0, TWO)


def test_without_attestation_it_is_told(tmp_path, caplog):
    memory = Memory(tmp_path, HERE)
    memory.see(4, ONE)
    with caplog.at_level(logging.WARNING):
        memory.see(1, TWO)
    assert "The federation went back: after 1 rounds" in caplog.text
    memory.see(2, ONE)


@pytest.mark.parametrize("content", [b"", b"{}", b'{"federation":1,"round":"x"}', b"[]"])
def test_a_broken_file_is_no_excuse(tmp_path: Path, content: bytes):
    (tmp_path / FILE).write_bytes(content)
    with pytest.raises(ValueError, match="seen.json: not readable"):
        Memory(tmp_path, HERE, refused).see(1, ONE)
