from dataclasses import replace

import pytest

from openfl_flows.codecs.recipes import build_compression
from openfl_flows.ops.link import Link, parse_link
from openfl_flows.ops.link_plan import (
    CodecCost,
    Load,
    Pace,
    advised,
    choices,
    fitting,
    measure_codec,
    needed,
    predict,
)

OPENFOLD3 = 571_500_000


def codec(name: str, sent: float, error: float) -> CodecCost:
    return CodecCost(
        name=name, raw_bytes=sent, sent_bytes=sent, error=error,
        encode_seconds=0.0, decode_seconds=0.0,
    )  # fmt: skip


CODECS = (
    codec("int4", 0.482, 0.1),
    codec("identity", 4.0, 0.0),
    codec("bf16", 2.0, 0.002),
    codec("int2", 0.171, 0.5),
    codec("int8", 1.003, 0.006),
    codec("topk", 0.094, 0.9),
)


def load(period: int = 40, step: float = 12, link: str = "10mbit", sites: int = 2) -> Load:
    names = [f"site-{i}" for i in range(1, sites + 1)]
    return Load(
        values=OPENFOLD3,
        period=period,
        paces=dict.fromkeys(names, Pace(step=step)),
        links=dict.fromkeys(names, parse_link(link)),
    )


@pytest.mark.parametrize(
    ("name", "megabytes", "minutes"),
    [("identity", 2286, 30.5), ("bf16", 1143, 15.2), ("int8", 573, 7.6), ("int4", 276, 3.7),
     ("int2", 98, 1.3)],
)  # fmt: skip
def test_openfold3_over_ten_megabits(name, megabytes, minutes):
    (cost,) = [one for one in CODECS if one.name == name]
    choice = predict(load(), cost)
    # Within what the table was rounded to.
    assert choice.num_bytes / 1e6 == pytest.approx(megabytes, abs=0.7)
    for way in (choice.round.sites["site-1"].download, choice.round.sites["site-1"].upload):
        assert way / 60 == pytest.approx(minutes, abs=0.06)
    assert choice.round.total == pytest.approx(40 * 12 + choice.transfer)
    assert choice.delay == 0


def test_fragments_divide_a_round_and_hide_its_transfer():
    (int4, *_) = CODECS
    whole, parts = predict(load(), int4), predict(load(), int4, fragments=4)
    assert parts.steps == 10
    assert parts.num_bytes == pytest.approx(whole.num_bytes / 4, rel=1e-4)
    assert whole.exposed > 400
    assert parts.exposed <= 0.1 * whole.exposed / 4
    # A steps' delay less and a part of the transfer would show.
    less = predict(load(), int4, fragments=4, delay=parts.delay - 1)
    assert less.exposed > parts.exposed
    assert 0 < parts.delay < parts.steps


def test_a_delay_ends_before_the_next_sync():
    identity = CODECS[1]
    slow = predict(load(), identity, fragments=8)
    assert slow.delay == slow.steps - 1 == 4
    assert slow.exposed == pytest.approx(slow.transfer - 4 * 12)


def test_what_does_not_divide_is_not_offered():
    offered = {(c.multiple, c.fragments) for c in choices(load(5), CODECS, (1, 2, 4), (1, 2, 4))}
    assert offered == {(1, 1), (2, 1), (2, 2), (4, 1), (4, 2), (4, 4)}
    with pytest.raises(ValueError, match="2 fragments of 5 steps between syncs"):
        predict(load(5), CODECS[0], fragments=2)
    epochs = replace(load(4), unit="epochs")
    assert {choice.fragments for choice in choices(epochs, CODECS, (1, 2), (1, 2, 4))} == {1}


@pytest.mark.parametrize("share", [0.01, 0.1, 0.3, 0.6])
@pytest.mark.parametrize("step", [3, 12, 60])
def test_the_advice_is_the_least_that_fits(step, share):
    all_ = list(choices(load(step=step), CODECS, (1, 2, 4, 8), (1, 2, 4, 8)))
    fit = fitting(all_, share)
    best = advised(fit)
    right = [choice for choice in all_ if choice.idle <= share]
    assert set(fit) == {choice.codec.name for choice in right}
    if best is None:
        assert not right
        return
    key = (best.codec.error > 0.8, best.multiple, best.codec.error, best.fragments)
    assert key == min((c.codec.error > 0.8, c.multiple, c.codec.error, c.fragments) for c in right)
    for name, choice in fit.items():
        same = [(c.multiple, c.fragments) for c in right if c.codec.name == name]
        assert (choice.multiple, choice.fragments) == min(same)


def test_what_is_needed_would_do_and_half_of_it_would_not():
    thin = load(step=0.1)
    all_ = list(choices(thin, CODECS, (1, 2), (1, 2)))
    assert advised(fitting(all_, 0.1)) is None
    need = needed(thin, all_, 0.1)
    assert need.choice.codec.name == "topk"
    assert need.multiple is not None
    assert need.width is not None

    def idle(multiple: int, width: float) -> float:
        wide = Link(up_bits=1e7 * width, down_bits=1e7 * width)
        links = dict.fromkeys(thin.links, wide)
        at = replace(thin, links=links)
        return predict(
            at, need.choice.codec, multiple=multiple, fragments=need.choice.fragments
        ).idle

    now = need.choice.multiple
    assert idle(need.multiple, 1) <= 0.1 < idle(need.multiple // 2, 1)
    assert idle(now, need.width) <= 0.1 < idle(now, need.width / 2)


def test_no_link_makes_up_for_a_slow_codec():
    slow = replace(CODECS[0], encode_seconds=1e-6)
    at = load(step=1)
    need = needed(at, [predict(at, slow)], 0.1)
    assert need.width is None
    assert need.multiple is not None


def test_the_slowest_link_decides():
    at = load(sites=3)
    at = replace(at, links={**at.links, "site-2": parse_link("1mbit/2mbit")})
    choice = predict(at, CODECS[0])
    assert choice.round.slowest == "site-2"
    assert choice.transfer == pytest.approx(8 * choice.num_bytes * (1 / 1e6 + 1 / 2e6))


@pytest.mark.parametrize("name", ["identity", "bf16", "fp16", "int8", "int4", "int2", "topk"])
def test_a_codec_is_measured_on_numbers(name):
    compression = build_compression(name)
    cost = measure_codec(compression, num=2**16)
    assert cost.name == name
    assert cost.raw_bytes == compression.codec.num_bytes(2**16) / 2**16
    assert 0 < cost.sent_bytes <= cost.raw_bytes
    assert (cost.sent_bytes < cost.raw_bytes) == compression.codec.compress
    assert (cost.error == 0) == compression.codec.exact
    assert cost.error < 1
    assert cost.encode_seconds > 0


def test_fewer_bits_lose_more():
    costs = [measure_codec(build_compression(n), num=2**16) for n in ("int8", "int4", "int2")]
    assert costs[0].error < costs[1].error < costs[2].error
    assert costs[0].sent_bytes > costs[1].sent_bytes > costs[2].sent_bytes


def test_what_loses_most_of_an_update_is_the_last_to_be_advised():
    at = load(period=10)
    fit = fitting(list(choices(at, CODECS, (1, 2), (1, 2))), 0.1)
    best = advised(fit)
    assert fit["topk"].multiple == 1
    assert best is not None
    assert (best.codec.name, best.multiple) == ("int2", 2)
    assert advised({"topk": fit["topk"]}) == fit["topk"]
