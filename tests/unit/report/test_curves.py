import math
import xml.etree.ElementTree as ET

import pytest

from openfl_flows.ops.run import RunDirectory
from openfl_flows.report import curves
from openfl_flows.report.series import Series, series


def parse(svg: str) -> ET.Element:
    return ET.fromstring(svg.replace("xlink:href", "href"))


def lines(svg: str) -> list[ET.Element]:
    groups = [g for g in parse(svg).iter("g") if g.get("id", "").startswith("line2d")]
    paths = [g.find("path") for g in groups]
    return [p for p in paths if p is not None and "fill: none" in p.get("style", "")]


def test_one_line_for_the_global_model_and_two_for_each_site(make_run):
    record = RunDirectory.open(make_run()).record
    nll = next(s for s in series(record) if s.name == "nll")
    palette = curves.colors(("site-a", "site-b"))
    chart = curves.metric_chart(nll, palette)
    styles = [p.get("style", "") for p in lines(chart.svg)]
    assert chart.title == "NLL [nats] ↓"
    for color in palette.values():
        own = [s for s in styles if f"stroke: {color}" in s]
        assert sorted("stroke-dasharray" in s for s in own) == [False, True]
    assert sum("stroke-width: 2.2" in s and "currentColor" in s for s in styles) == 1


def test_fractions_are_drawn_in_percent():
    chart = curves.metric_chart(Series(name="validity", pooled={0: 0.2, 1: 0.9}), {})
    labels = {text.text for text in parse(chart.svg).iter("text")}
    assert {"20", "90", "%"} <= labels


def test_value_that_is_not_a_number_leaves_a_gap():
    points = {0: 1.0, 1: math.nan, 2: 3.0, 3: 4.0}
    chart = curves.metric_chart(Series(name="nll", pooled=points), {})
    thick = next(p for p in lines(chart.svg) if "stroke-width: 2.2" in p.get("style", ""))
    assert thick.get("d", "").count("M") == 2


def test_svg_refers_to_nothing_outside_and_is_the_same_each_time(make_run):
    record = RunDirectory.open(make_run()).record
    first, second = (curves.task_seconds_chart(record).svg for _ in range(2))
    assert first == second
    assert "http" not in first


def test_site_name_is_text_and_never_markup_or_mathematics():
    name = "<b>$x^2$</b>"
    chart = curves.stacked_chart("t", [name], {"train": [3.0]}, unit="items")
    assert name in {text.text for text in parse(chart.svg).iter("text")}


def test_bars_add_up(make_run):
    record = RunDirectory.open(make_run(rounds=3)).record
    chart = curves.task_seconds_chart(record)
    assert [key.label for key in chart.legend] == ["receive", "train"]
    labels = [text.text for text in parse(chart.svg).iter("text")]
    assert "30" in labels  # 3 rounds of 11.27 s
    assert "40" not in labels


@pytest.mark.parametrize("count", [1, 6, 7, 40])
def test_every_name_has_a_colour_of_its_own(count):
    found = curves.colors([f"site-{i}" for i in range(count)])
    assert len(set(found.values())) == count


def test_an_untrained_model_does_not_flatten_the_curve():
    trained = {1: 31.0, 2: 30.0, 3: 29.0}
    far = curves.metric_chart(Series(name="elbo", pooled={0: 300.0, **trained}), {})
    near = curves.metric_chart(Series(name="elbo", pooled={0: 32.0, **trained}), {})
    assert "round 0: 300" in far.svg
    assert "round 0" not in near.svg
