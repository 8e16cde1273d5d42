"""A link is written as tc writes it, for all sites or for each."""

import re

import pytest

from openfl_flows.cli.plan import compose
from openfl_flows.experiment import Experiment
from openfl_flows.ops.link import Link, parse_link, site_links

SITES = ("site-1", "site-2")


@pytest.mark.parametrize(
    ("text", "up", "down", "latency"),
    [
        ("10mbit", 1e7, 1e7, 0),
        ("256kbit", 256_000, 256_000, 0),
        ("9600bit", 9600, 9600, 0),
        ("1.5mbit/1gbit", 1.5e6, 1e9, 0),
        ("10mbit+20ms", 1e7, 1e7, 0.02),
        ("10mbit/100mbit+1.5s", 1e7, 1e8, 1.5),
        ("10mbit+500us", 1e7, 1e7, 0.0005),
    ],
)
def test_a_text_is_a_link(text: str, up: float, down: float, latency: float) -> None:
    assert parse_link(text) == Link(up_bits=up, down_bits=down, latency_seconds=latency)


@pytest.mark.parametrize(
    "text",
    ["", "10", "10 mbit", "10MB", "mbit", "-1mbit", "0mbit", "1mbit/0.0kbit", "1mbit+2", "1mbit/"],
)
def test_another_text_is_refused_with_the_key_and_what_is_expected(text: str) -> None:
    with pytest.raises(
        ValueError, match=re.escape(f"federation.link={text!r}, expected")
    ) as refused:
        parse_link(text)
    assert "\n" not in str(refused.value)


def test_sites_share_one_text_or_have_their_own() -> None:
    assert site_links(None, SITES) == {}
    assert site_links("1mbit", SITES) == dict.fromkeys(SITES, parse_link("1mbit"))
    own = site_links({"site-2": "2mbit/1mbit"}, SITES)
    assert own == {"site-2": Link(up_bits=2e6, down_bits=1e6)}


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (10, "^federation.link=10, expected e.g. 10mbit, .* for each site by name$"),
        ({"site-1": 10}, "^federation.link=.*, expected e.g. 10mbit, .* for each site by name$"),
        ({"site-3": "1mbit"}, "^federation.link.site-3=1mbit, expected one of site-1, site-2$"),
        ({"site-1": "fast"}, "^federation.link.site-1='fast', expected e.g. 10mbit"),
    ],
)
def test_what_is_no_link_of_a_site_is_refused(value: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        site_links(value, SITES)


def test_a_plan_has_links_which_are_checked_when_it_is_composed() -> None:
    def links(*overrides: str) -> object:
        return Experiment.from_config(compose(["experiment=toy", *overrides])).link

    assert links() == {}
    assert links("federation.link=10mbit/1gbit") == dict.fromkeys(SITES, parse_link("10mbit/1gbit"))
    assert links("federation.link={site-2: 1mbit}") == {"site-2": parse_link("1mbit")}
    with pytest.raises(ValueError, match="^federation.link='quick', expected"):
        links("federation.link=quick")
