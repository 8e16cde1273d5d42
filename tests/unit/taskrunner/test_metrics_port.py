"""Where Prometheus may ask: nowhere unless the plan says so, and never where the sites call."""

import pytest

from openfl_flows.cli.plan import compose
from openfl_flows.experiment import Experiment
from openfl_flows.taskrunner.export import render_plan


def settings(*overrides: str) -> dict:
    config = compose(["experiment=toy", *overrides])
    return render_plan(config, Experiment.from_config(config), None)["aggregator"]["settings"]


def test_a_plan_without_a_port_opens_none() -> None:
    assert "metrics_port" not in settings()
    assert settings("network.metrics_port=9464")["metrics_port"] == 9464


@pytest.mark.parametrize("value", ["0", "65536", "50051", "here"])
def test_other_ports_are_refused_by_name(value: str) -> None:
    with pytest.raises(ValueError, match=rf"network.metrics_port='?{value}'?\b"):
        settings(f"network.metrics_port={value}")
