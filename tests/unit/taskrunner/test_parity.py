"""Two runs side by side."""

from pathlib import Path

from openfl_flows.ops.run import RunDirectory
from openfl_flows.taskrunner.parity import compare_rounds, to_text


def run(initial: str, *digests: str) -> RunDirectory:
    rounds = [{"digest": digest, "sites": {}} for digest in digests]
    return RunDirectory(Path(), {"initial": {"digest": initial}, "rounds": rounds})


def test_a_round_of_other_frames_is_another_round():
    a, b = run("a" * 64, "b" * 64), run("a" * 64, "b" * 64)
    b.record["rounds"][0]["sites"] = {"site-1": {"frames": "c" * 64}}
    assert [row.equal for row in compare_rounds(a, b)] == [True, False]


def test_rounds_are_compared_to_the_end_of_the_longer_run():
    rows = compare_rounds(run("a" * 64, "b" * 64), run("a" * 64, "c" * 64, "d" * 64))
    assert [(row.round, row.equal) for row in rows] == [(0, True), (1, False), (2, False)]
    assert rows[2].a is None
    assert to_text(rows, a="simulation", b="federation").splitlines() == [
        "round  simulation        federation",
        f"    0  {'a' * 16}  {'a' * 16}  equal",
        f"    1  {'b' * 16}  {'c' * 16}  DIFFERENT",
        f"    2  -                 {'d' * 16}  DIFFERENT",
    ]
