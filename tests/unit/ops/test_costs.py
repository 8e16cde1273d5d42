"""What slow sites cost, and why: the arithmetic, and properties that any rounds keep."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openfl_flows.ops.costs import round_cost, summed
from openfl_flows.ops.spans import PARTS, path, spans, turn_seconds

COMPUTE = {"aggregated_model_validation": 1.0, "train": 9.0, "local_model_validation": 1.0}


def part(*, samples: int = 100, up: int = 0, down: int = 0, **seconds: float) -> dict:
    spent = {**COMPUTE, "download": 0.0, "decode": 0.0, "encode": 0.0, "upload": 0.0, **seconds}
    return {
        "num_samples": samples, "num_steps": 10, "seconds": spent, "bytes_up": up,
        "bytes_down": down, "metrics": {},
    }  # fmt: skip


def entry(round_: int = 1, **sites: dict) -> dict:
    named = {name.replace("_", "-"): own for name, own in sites.items()}
    return {"round": round_, "seconds": 50.0, "sites": named}


def test_a_site_on_a_thin_link_cost_forty_minutes_in_a_hundred_rounds() -> None:
    slow, usual = 3.1e6, 9.8e6
    # As many bytes as take 24 s longer over the thin link.
    count = round(24 / (1 / slow - 1 / usual))
    rounds = [
        entry(
            number,
            site_1=part(up=count, upload=count / usual),
            site_2=part(up=count, upload=count / usual),
            site_3=part(up=count, upload=count / slow),
        )
        for number in range(1, 101)
    ]
    (cost,) = summed(found for e in rounds if (found := round_cost(e)))
    assert cost.seconds == pytest.approx(2400, abs=0.01)
    assert cost.over_median == pytest.approx(2400, abs=0.01)
    assert cost.sentence() == (
        "site-3 cost the federation 24 s × 100 rounds = 40 min, cause: upload 3.1 MB/s against a "
        "median of 9.8"
    )


@pytest.mark.parametrize(
    ("more", "cause", "words"),
    [
        ({"train": 21.0}, "compute", "compute 23 s a round against a median of 11 s"),
        ({"upload": 12.0}, "upload", "upload 0.833 MB/s against a median of 10"),
        ({"download": 12.0}, "download", "download 0.833 MB/s against a median of 10"),
        ({"decode": 12.0}, "decode", "decode 12 s a round against a median of 0 s"),
        ({"encode": 12.0}, "encode", "encode 12 s a round against a median of 0 s"),
        ({"absent": 12.0}, "absent", "absent for 12 s a round"),
    ],
)
def test_the_cause_is_what_was_slow(more: dict, cause: str, words: str) -> None:
    moved = {"up": 10_000_000, "down": 10_000_000, "upload": 1.0, "download": 1.0}
    cost = round_cost(entry(a=part(**moved), b=part(**moved), c=part(**{**moved, **more})))
    assert cost is not None
    (found,) = summed([cost])
    assert (found.site, found.cause) == ("c", cause)
    assert found.reason() == words
    # A fast link to start with: what it had is not what it lost.
    assert cost.seconds == pytest.approx(sum(more.values()) - (9 if "train" in more else 0) -
                                         (1 if cause in ("upload", "download") else 0))  # fmt: skip


def test_costs_go_to_whoever_was_slowest_and_the_highest_comes_first() -> None:
    rounds = [
        entry(1, a=part(upload=3.0), b=part(), c=part()),
        entry(2, a=part(), b=part(absent=30.0), c=part(upload=2.0)),
        entry(3, a=part(upload=3.0), b=part(), c=part(upload=2.0)),
    ]
    costs = summed(found for e in rounds if (found := round_cost(e)))
    assert [(c.site, c.seconds, c.rounds, c.cause) for c in costs] == [
        ("b", 28.0, 1, "absent"), ("a", 4.0, 2, "upload"),
    ]  # fmt: skip
    assert costs[0].over_median == 29.0
    assert "28 s × 1 round = 28 s (29 s against the median site), cause:" in costs[0].sentence()


def test_sites_of_one_process_and_a_site_alone_cost_nothing() -> None:
    bare = part()
    del bare["seconds"]["upload"]
    assert round_cost(entry(a=bare, b=part())) is None
    assert round_cost(entry(a=part())) is None


SECONDS = st.floats(0, 1e4)
SITE = st.fixed_dictionaries({name: SECONDS for name in (*PARTS, "train") if name != "compute"})


@given(st.dictionaries(st.sampled_from("abcdef"), SITE, min_size=2), st.floats(0.1, 100))
def test_a_rounds_cost_is_what_it_gains_and_follows_the_clock(sites: dict, scale: float) -> None:
    parts = {name: part(**seconds) for name, seconds in sites.items()}
    cost = round_cost(entry(**parts))
    assert cost is not None
    paths = sorted(path(own) for own in parts.values())
    assert cost.seconds == pytest.approx(paths[-1] - paths[-2])
    assert 0 <= cost.seconds <= cost.over_median
    assert sum(cost.spans.values()) == pytest.approx(paths[-1])
    for own in parts.values():
        own["seconds"] = {name: s * scale for name, s in own["seconds"].items()}
    slower = round_cost(entry(**parts))
    assert slower is not None
    assert slower.seconds == pytest.approx(scale * cost.seconds, rel=1e-6, abs=1e-6)


@given(SITE, st.integers(0, 20))
def test_what_computation_hides_is_on_no_path(seconds: dict, delay: int) -> None:
    own = part(**seconds)
    hidden, whole = spans(own, delay), spans(own)
    travel = seconds["download"] + seconds["upload"]
    exposed = max(0.0, travel - delay * seconds["train"] / 10)
    assert hidden["download"] + hidden["upload"] == pytest.approx(exposed)
    others = [name for name in PARTS if name not in ("download", "upload")]
    assert all(hidden[name] == whole[name] for name in others)


def test_silence_is_absence_only_beyond_what_polls_and_calls_take() -> None:
    own = part(upload=2.0)  # 13 s
    late = turn_seconds(own, arrived=43.5, polled=0.5, last=43.5, least=5.0)
    assert late == {"absent": 30.0, "wait": 0.5}
    present = turn_seconds(own, arrived=18.0, polled=4.0, last=43.5, least=5.0)
    assert present == {"absent": 0.0, "wait": 29.5}
    assert math.isclose(18.0 - 4.0 - 13.0, 1.0)
