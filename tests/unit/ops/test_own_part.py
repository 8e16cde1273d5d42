"""A site that knows what it gave finds out a ledger that says another thing."""

import pytest

from openfl_flows.ops.ledger import Ledger
from openfl_flows.ops.own_part import OWN_PART, check_own_part, note_own_part, read_own_part

START = Ledger().append("start", {"round": 0, "after": "m0"})


def line(round_: int, **sites: int) -> dict[str, object]:
    return {
        "round": round_,
        "before": f"m{round_ - 1}",
        "after": f"m{round_}",
        "left_out": {} if "north" in sites else {"north": "not in plan/cols.yaml"},
        "sites": {name: {"num_samples": n, "num_steps": 2} for name, n in sites.items()},
    }


def ledger(*lines: dict[str, object]) -> Ledger:
    made = START
    for body in lines:
        made = made.append("round", body)
    return made


@pytest.fixture
def north(tmp_path):
    """The site took part in rounds 1 and 3; in round 2 it trained and was left out."""
    for round_ in (1, 2, 3):
        part = {"model": f"m{round_ - 1}", "num_samples": 10 * round_, "num_steps": 2}
        note_own_part(tmp_path / "north", round_, part)
    return tmp_path / "north"


def test_what_was_noted_is_read_again_and_the_last_time_counts(north) -> None:
    assert read_own_part(north)[2]["num_samples"] == 20
    note_own_part(north, 3, {"model": "m2", "num_samples": 31, "num_steps": 2})
    assert [part["num_samples"] for part in read_own_part(north).values()] == [10, 20, 31]


def test_a_true_ledger_is_accepted(north) -> None:
    true = ledger(line(1, north=10, south=4), line(2, south=4), line(3, north=30))
    assert check_own_part(true, north, "north") == 2


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([line(1, north=11)], "of round 1 north knows"),
        ([line(1, north=10) | {"before": "m0"}, line(2, north=20) | {"before": "m1"},
          line(3, north=30), line(4, north=40)], "of round 4 north knows None"),
        ([line(1, south=4) | {"left_out": {}}], "trained round 1, the ledger is silent"),
    ],
)  # fmt: skip
def test_a_ledger_that_says_another_thing_is_refused(north, lines, message) -> None:
    with pytest.raises(ValueError, match=message):
        check_own_part(ledger(*lines), north, "north")


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"rounds": {"x": {}}}', '{"rounds": 1}'])
def test_a_damaged_file_is_named(north, content) -> None:
    (north / OWN_PART).write_text(content)
    with pytest.raises(ValueError, match="own_part.json: not readable"):
        read_own_part(north)
