"""Codecs by name: what the plan's ``codec`` group can ask for."""

from pathlib import Path

import pytest
import yaml

from openfl_flows.codecs.recipes import COMPRESSIONS, build_compression

PLAN = Path(__file__).resolve().parents[3] / "plan" / "codec"


@pytest.mark.parametrize("name", COMPRESSIONS)
def test_the_plan_writes_every_default_out(name):
    options = yaml.safe_load((PLAN / f"{name}.yaml").read_text())
    written, by_name = build_compression(**options), build_compression(name)
    assert written.codec.name == by_name.codec.name == name
    assert written.error_feedback == by_name.error_feedback
    assert written.codec.num_bytes(100_000) == by_name.codec.num_bytes(100_000)


def test_the_plan_names_every_codec():
    assert {path.stem for path in PLAN.glob("*.yaml")} == set(COMPRESSIONS)


def test_what_loses_most_remembers_it():
    remembers = {name for name in COMPRESSIONS if build_compression(name).error_feedback}
    assert remembers == {"int4", "int2", "topk"}
    assert not build_compression("int2", error_feedback=False).error_feedback
    assert build_compression("bf16", error_feedback=True).error_feedback


def test_where_general_compression_pays():
    assert {n for n in COMPRESSIONS if build_compression(n).codec.compress} == {"int4", "int2"}
    assert {n for n in COMPRESSIONS if build_compression(n).codec.exact} == {"identity"}


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"name": "int3"}, "codec.name='int3' is unknown, expected one of identity, "),
        ({"name": "bf16", "block": 64}, "codec.name='bf16': .*'block'"),
        ({"name": "bf16", "rounding": "nearest"}, "codec.name='bf16': .*'rounding'"),
        ({"name": "identity", "error_feedback": True}, "codec.name='identity': .*'error_feedback'"),
        ({"name": "topk", "block": 8}, "codec.name='topk': .*'block'"),
        ({"name": "int4", "fraction": 0.1}, "codec.name='int4': .*'fraction'"),
        ({"name": "int4", "block": 0}, "codec.name='int4': block=0, expected a multiple of 8"),
        ({"name": "int4", "block": -8}, "codec.name='int4': block=-8, expected a multiple of 8"),
        ({"name": "int4", "block": 12}, "codec.name='int4': block=12, expected a multiple of 8"),
        ({"name": "int4", "block": 4104}, "codec.name='int4': block=4104, expected .* to 4096"),
        ({"name": "int8", "rounding": "up"}, "rounding='up', expected nearest or stochastic"),
        ({"name": "topk", "fraction": 0}, "codec.name='topk': fraction=0, expected above 0"),
        ({"name": "topk", "fraction": 0.6}, "codec.name='topk': fraction=0.6, expected above 0"),
        ({"name": "topk", "fraction": float("nan")}, "fraction=nan, expected above 0"),
    ],
)
def test_wrong_options_are_refused(options, reason):
    with pytest.raises(ValueError, match=reason):
        build_compression(**options)
