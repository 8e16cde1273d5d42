import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openfl_flows.ops.link import Link, parse_link
from openfl_flows.ops.round_time import SiteWork, predicted_round

TEN = parse_link("10mbit")
WORK = SiteWork(bytes_down=5e6, bytes_up=2.5e6, compute=30, decode=0.5, encode=1)


def test_a_round_by_hand():
    links = {"a": TEN, "b": parse_link("5mbit/20mbit")}
    round_ = predicted_round({"a": WORK, "b": WORK}, links, join=3)
    a, b = round_.sites["a"], round_.sites["b"]
    assert (a.download, a.upload, a.exposed, a.busy) == (4, 2, 6, 37.5)
    assert (b.download, b.upload, b.exposed, b.busy) == (2, 4, 6, 37.5)
    assert round_.total == 40.5
    assert a.wait == b.wait == 3
    assert round_.idle == 1 - 30 / 40.5
    assert round_.slowest == "a"


def test_latency_is_paid_for_every_request_there_and_back():
    work = SiteWork(bytes_down=0, bytes_up=0, compute=1, requests=7)
    far = predicted_round({"a": work}, {"a": parse_link("10mbit+20ms")})
    assert far.sites["a"].download == pytest.approx(7 * 0.04)
    assert far.sites["a"].upload == pytest.approx(0.04)
    farther = predicted_round(
        {"a": work}, {"a": parse_link("10mbit+20ms")}, aggregator=parse_link("1gbit+5ms")
    )
    assert farther.sites["a"].upload == pytest.approx(0.05)


def test_what_travels_while_a_site_computes_costs_nothing():
    def exposed(hidden: float) -> float:
        work = SiteWork(bytes_down=5e6, bytes_up=5e6, compute=30, hidden=hidden)
        round_ = predicted_round({"a": work}, {"a": TEN})
        assert round_.total == 30 + round_.sites["a"].exposed
        return round_.sites["a"].exposed

    assert [exposed(hidden) for hidden in (0, 3, 8, 30)] == [8, 5, 0, 0]


def test_all_sites_share_the_aggregators_line():
    work = {f"site-{i}": WORK for i in range(8)}
    links = dict.fromkeys(work, TEN)
    # 8 x 5 MB through 40 Mbit/s down to the sites, 8 x 2.5 MB through 16 Mbit/s from them.
    narrow = predicted_round(work, links, aggregator=Link(up_bits=40e6, down_bits=16e6))
    assert narrow.sites["site-0"].download == 8
    assert narrow.sites["site-0"].upload == 10
    wide = predicted_round(work, links, aggregator=Link(up_bits=80e6, down_bits=80e6))
    assert wide == predicted_round(work, links)


def test_a_site_without_a_link_is_near():
    round_ = predicted_round({"a": WORK, "b": WORK}, {"a": TEN})
    assert round_.sites["b"].exposed == 0
    assert round_.sites["b"].wait == 6


def test_no_site_is_refused():
    with pytest.raises(ValueError, match="no site takes part"):
        predicted_round({}, {})


SECONDS = st.floats(0, 1e4)
WORKS = st.builds(
    SiteWork,
    bytes_down=st.floats(0, 1e10),
    bytes_up=st.floats(0, 1e10),
    compute=SECONDS,
    decode=SECONDS,
    encode=SECONDS,
    hidden=SECONDS,
    requests=st.integers(1, 60),
)
LINKS = st.builds(
    Link, up_bits=st.floats(1e4, 1e9), down_bits=st.floats(1e4, 1e9),
    latency_seconds=st.floats(0, 1),
)  # fmt: skip


@given(st.lists(st.tuples(WORKS, LINKS), min_size=1, max_size=5), SECONDS, st.none() | LINKS)
def test_the_parts_of_every_site_make_up_the_round(parties, join, aggregator):
    work = {f"site-{i}": mine for i, (mine, _) in enumerate(parties)}
    links = {f"site-{i}": link for i, (_, link) in enumerate(parties)}
    round_ = predicted_round(work, links, join=join, aggregator=aggregator)
    for site, time in round_.sites.items():
        assert time.busy + time.wait == pytest.approx(round_.total)
        assert time.wait >= join * (1 - 1e-9) - 1e-6
        assert 0 <= time.exposed <= time.download + time.upload
        assert time.download >= 8 * work[site].bytes_down / links[site].down_bits * (1 - 1e-9)
    assert round_.sites[round_.slowest].busy == max(time.busy for time in round_.sites.values())
    assert 0 <= round_.idle <= 1
    if aggregator is not None:
        through = 8 * sum(mine.bytes_up for mine in work.values()) / aggregator.down_bits
        assert all(time.upload >= through * (1 - 1e-9) for time in round_.sites.values())


@given(WORKS, LINKS, st.floats(1, 100))
def test_a_wider_link_is_never_slower(work, link, times):
    wider = Link(
        up_bits=times * link.up_bits,
        down_bits=times * link.down_bits,
        latency_seconds=link.latency_seconds,
    )
    before = predicted_round({"a": work}, {"a": link}).total
    after = predicted_round({"a": work}, {"a": wider}).total
    assert after <= before * (1 + 1e-12)
    assert math.isfinite(after)
