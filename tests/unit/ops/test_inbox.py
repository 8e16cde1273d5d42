"""What sites sent is there again after a restart, whole, until its round is over."""

import logging
from pathlib import Path

import numpy as np
import pytest

from openfl_flows.ops.inbox import Inbox, Result

KEY = '["bucket-0000", false, ["trained"]]'


def result(site: str, task: str = "train") -> Result:
    return Result(site, task, {KEY: np.arange(1000, dtype=np.float32), "n": np.array([7])})


def names(inbox: Inbox, round_: int) -> list[tuple[str, str]]:
    return [(found.site, found.task) for found in inbox.results(round_)]


def test_results_come_back_bit_for_bit_in_the_order_of_sites_and_tasks(tmp_path: Path) -> None:
    inbox = Inbox(tmp_path / "inbox")
    for sent in (result("b"), result("a", "validate"), result("a")):
        kept = inbox.put(3, sent)
        assert (kept.site, kept.task) == (sent.site, sent.task)
    found = list(Inbox(tmp_path / "inbox").results(3))
    assert [(r.site, r.task) for r in found] == [("a", "train"), ("a", "validate"), ("b", "train")]
    for one in found:
        assert {k: (v.dtype, v.tobytes()) for k, v in one.tensors.items()} == {
            k: (v.dtype, v.tobytes()) for k, v in result("a").tensors.items()
        }
    assert names(inbox, 2) == []


def test_a_result_is_forgotten_alone_or_with_its_round(tmp_path: Path) -> None:
    inbox = Inbox(tmp_path)
    for round_ in range(3):
        inbox.put(round_, result("a"))
        inbox.put(round_, result("b"))
    inbox.remove(2, "a", "train")
    inbox.remove(2, "c", "train")
    inbox.clear(before=2)
    assert [names(inbox, round_) for round_ in range(3)] == [[], [], [("b", "train")]]
    assert [path.name for path in tmp_path.iterdir()] == ["00002"]
    inbox.clear()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("where", ["end", "middle", "header", "all"])
def test_a_damaged_result_is_removed_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, where: str
) -> None:
    inbox = Inbox(tmp_path)
    inbox.put(0, result("a"))
    inbox.put(0, result("b"))
    file = tmp_path / "00000" / "a" / "train.safetensors"
    content = bytearray(file.read_bytes())
    if where in ("end", "all"):
        content = content[: -20 if where == "end" else 0]
    else:
        content[2000 if where == "middle" else 20] ^= 0x80
    file.write_bytes(content)
    with caplog.at_level(logging.WARNING):
        assert names(inbox, 0) == [("b", "train")]
    assert str(file) in caplog.text
    assert "its site is asked for it again" in caplog.text
    assert not file.exists()


def test_what_a_kill_left_half_written_is_removed(tmp_path: Path) -> None:
    Inbox(tmp_path).put(0, result("a"))
    stray = tmp_path / "00000" / "b" / ".train.safetensors.123.tmp"
    stray.parent.mkdir()
    stray.write_bytes(b"half")
    assert names(Inbox(tmp_path), 0) == [("a", "train")]
    assert not stray.exists()
