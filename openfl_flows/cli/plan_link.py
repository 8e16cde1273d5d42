"""plan-link: which codec, how many steps between syncs and how many fragments a thin link asks for.

Nothing is trained and nothing is fetched.
"""

import argparse
import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, Literal

from openfl_flows.cli.plan import compose, plan_folder

if TYPE_CHECKING:
    from openfl_flows.ops.link import Link
    from openfl_flows.ops.link_plan import CodecCost, Load, Pace
    from openfl_flows.ops.run import RunDirectory
    from openfl_flows.state import State

MULTIPLES = (1, 2, 4, 8)
"""Times the plan's H that are tried."""

FRAGMENTS = (1, 2, 4, 8)
"""Fragments that are tried."""

_AGGREGATOR = "aggregator"
_UNITS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "B": 10**9}
_EPILOG = """\
examples:
  openfl-flows plan-link experiment=of3_finetune --parameters 571.5M \\
      --bandwidth 10mbit --step-seconds 12 --idle 10%
  openfl-flows plan-link experiment=demo --bandwidth 10mbit --bandwidth site-2=2mbit/20mbit \\
      --bandwidth aggregator=100mbit --run runs/rehearsal-demo/aggregator/run

A bandwidth is UP or UP/DOWN as the site sees it, with +LATENCY one way: 10mbit/100mbit+20ms.
"""


def add_plan_link(commands: Any) -> None:
    """Add the command to a parser's."""
    text = "advise codec, steps between syncs and fragments for a link: plan-link [KEY=VALUE ...]"
    command = commands.add_parser(
        "plan-link",
        help=text,
        description=text,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("words", nargs="*", metavar="KEY=VALUE")
    text = "of every site, or SITE=LINK, also aggregator=LINK; repeated (federation.link)"
    command.add_argument("--bandwidth", action="append", default=[], metavar="LINK", help=text)
    text = "take bandwidths from what the sites measured before round 1, in this status.json"
    command.add_argument("--status", type=Path, metavar="FILE", help=text)
    text = "values that travel, e.g. 571.5M (those of the plan's model)"
    command.add_argument("--parameters", metavar="N", help=text)
    pace = command.add_mutually_exclusive_group()
    pace.add_argument("--step-seconds", metavar="S", help="seconds of one step at every site")
    pace.add_argument(
        "--round-seconds", metavar="S", help="seconds that a site computes in a round"
    )
    text = "take seconds and bytes from this run, and its plan if no other is given"
    command.add_argument("--run", dest="measured", type=Path, metavar="DIR", help=text)
    text = "share of a round that may not be computation (10%%)"
    command.add_argument("--idle", default="10%", metavar="SHARE", help=text)
    command.add_argument("--json", action="store_true", help="print JSON for machines")
    command.set_defaults(run=_plan_link)


def _plan_link(options: argparse.Namespace) -> None:
    from openfl_flows.experiment import codec_of, traffic_of
    from openfl_flows.ops.link_plan import choices, predict
    from openfl_flows.ops.run import RunDirectory
    from openfl_flows.report.link_advice import plan_record, plan_text

    share = _share(options.idle)
    run = RunDirectory.open(options.measured) if options.measured is not None else None
    config = compose(options.words) if run is None or options.words else run.record["config"]
    load, codecs = _load(config, options, run), _codecs(config, run)
    _, streaming = traffic_of(config)
    planned = predict(
        load,
        codecs[codec_of(config)["name"]],
        fragments=streaming.fragments,
        delay=streaming.delay,
    )
    all_ = list(choices(load, list(codecs.values()), MULTIPLES, FRAGMENTS))
    if options.json:
        record = plan_record(load, list(codecs.values()), planned, all_, share)
        print(json.dumps(record, indent=2))
    else:
        print(plan_text(load, planned, all_, share))


def _load(
    config: Mapping[str, Any], options: argparse.Namespace, run: "RunDirectory | None"
) -> "Load":
    """What the plan moves and computes, as far as options and the run do not say otherwise."""
    from openfl_flows.experiment import check_count, site_names
    from openfl_flows.ops.link import site_links
    from openfl_flows.ops.link_plan import Load

    federation = config["federation"]
    sites = site_names(federation["sites"])
    planned = site_links(federation.get("link"), sites)
    if options.status is not None:
        planned |= _measured_links(options.status, sites)
    links, own_line = _links(options.bandwidth, planned, sites)
    unit: Literal["steps", "epochs"] = "epochs" if federation["steps"] is None else "steps"
    amount = check_count(f"federation.{unit}", federation[unit], least=1)
    fragments = _fragments(config)
    paces = _paces(options, run, sites, unit, amount)
    values, exact = _size(config, options, run)
    return Load(
        values=values,
        exact_bytes=exact,
        period=amount * fragments,
        unit=unit,
        paces=paces,
        links=links,
        aggregator=own_line,
        join=0.0 if run is None else _join_seconds(run),
    )


def _measured_links(file: Path, sites: Sequence[str]) -> dict[str, "Link"]:
    """Links of the sites whose verdicts in an aggregator's status file measured them."""
    from openfl_flows.ops.link import Link

    try:
        found = json.loads(file.read_text())["readiness"]["sites"]
        measured = {site: found[site]["measured"] for site in sites if site in found}
        return {
            site: Link(
                up_bits=8 * rates["upload_bytes_per_second"],
                down_bits=8 * rates["download_bytes_per_second"],
            )
            for site, rates in measured.items()
            if rates.keys() >= {"upload_bytes_per_second", "download_bytes_per_second"}
        }
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(
            f"--status={file}: {type(error).__name__}: {error}, expected the status.json of an "
            "aggregator whose plan has network.readiness.required=true"
        ) from None


def _links(
    said: Sequence[str], planned: Mapping[str, "Link"], sites: Sequence[str]
) -> tuple[dict[str, "Link"], "Link | None"]:
    """Links by site, and the aggregator's own line."""
    from openfl_flows.ops.link import parse_link, site_links

    links, own_line = dict(planned), None
    # What is said of one site stands, in whatever order it is said.
    for text in sorted(said, key=lambda text: "=" in text):
        site, named, link = text.rpartition("=")
        if site == _AGGREGATOR:
            own_line = parse_link(link, key=f"--bandwidth {_AGGREGATOR}")
        else:
            links |= site_links({site: link} if named else link, sites, key="--bandwidth")
    for site in sites:
        if site not in links:
            raise ValueError(
                f"{site} has no link: expected federation.link, --status with a measured one, or "
                "--bandwidth, e.g. --bandwidth 10mbit"
            )
    return links, own_line


def _paces(
    options: argparse.Namespace,
    run: "RunDirectory | None",
    sites: Sequence[str],
    unit: str,
    amount: int,
) -> dict[str, "Pace"]:
    """How fast the sites compute: as said, or as the run measured."""
    from openfl_flows.ops.link_plan import Pace

    if options.step_seconds is not None:
        step = _seconds("--step-seconds", options.step_seconds)
        if unit != "steps":
            raise ValueError(
                f"--step-seconds={options.step_seconds}, but federation.epochs={amount}: expected "
                "federation.steps, or --round-seconds"
            )
        return dict.fromkeys(sites, Pace(step=step))
    if options.round_seconds is not None:
        step = _seconds("--round-seconds", options.round_seconds) / amount
        return dict.fromkeys(sites, Pace(step=step))
    if run is None:
        raise ValueError(
            "how long a site computes is missing, expected --step-seconds S, --round-seconds S or "
            "--run DIR"
        )
    return {site: _measured_pace(run, site, unit) for site in sites}


def _measured_pace(run: "RunDirectory", site: str, unit: str) -> "Pace":
    """Medians over a run's rounds."""
    from openfl_flows.ops.link_plan import Pace
    from openfl_flows.ops.spans import task_seconds

    parts = [entry["sites"][site] for entry in run.record["rounds"] if site in entry["sites"]]
    parts = [part for part in parts if part["num_steps"] and "train" in part["seconds"]]
    if not parts:
        raise ValueError(
            f"--run={run.path} has no round of {site}, expected every site of the plan"
        )
    epochs = run.record["config"].get("federation", {}).get("epochs")
    if unit == "epochs" and not epochs:
        raise ValueError(
            f"--run={run.path} counts steps, but the plan epochs: expected one of both"
        )
    steps = [part["seconds"]["train"] / (epochs or 1 if unit == "epochs" else part["num_steps"])
             for part in parts]  # fmt: skip
    fixed = [task_seconds(part) - part["seconds"]["train"] for part in parts]
    return Pace(step=median(steps), fixed=median(fixed))


def _size(
    config: Mapping[str, Any], options: argparse.Namespace, run: "RunDirectory | None"
) -> tuple[int, int]:
    """Floating point values that travel, and bytes of integers that do."""
    if options.parameters is not None:
        return _count(options.parameters), 0
    if run is not None:
        return _travelling(run.model())
    from openfl_flows.experiment import Experiment

    # What a model is made of may be in a cache; nothing is fetched for a plan.
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    try:
        return _travelling(Experiment.from_config(config).task.initial_state())
    except (ValueError, OSError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{reason} (--parameters N needs no model)") from None


def _travelling(state: "State") -> tuple[int, int]:
    moved = state.travelling()
    floats = [array for array in moved.values() if array.dtype.kind == "f"]
    return sum(array.size for array in floats), moved.nbytes - sum(a.nbytes for a in floats)


def _codecs(config: Mapping[str, Any], run: "RunDirectory | None") -> dict[str, "CodecCost"]:
    """Each codec of the plan's group as it is measured here; the plan's own with its options."""
    from omegaconf import OmegaConf

    from openfl_flows.codecs.recipes import build_compression
    from openfl_flows.experiment import codec_of
    from openfl_flows.ops.link_plan import measure_codec

    files = sorted((plan_folder() / "codec").glob("*.yaml"))
    options = [OmegaConf.to_container(OmegaConf.load(file)) for file in files]
    by_name = {str(one["name"]): one for one in options if isinstance(one, dict)}
    by_name[codec_of(config)["name"]] = dict(codec_of(config))
    costs = {
        name: measure_codec(build_compression(**{str(key): value for key, value in one.items()}))
        for name, one in by_name.items()
    }
    if run is not None and run.round:
        used = codec_of(run.record["config"])
        if by_name.get(used["name"]) == used:
            costs[used["name"]] = _measured_codec(costs[used["name"]], run)
    return costs


def _measured_codec(cost: "CodecCost", run: "RunDirectory") -> "CodecCost":
    """The codec of a run as the run measured it, without the frames' headers."""
    from openfl_flows.codecs.frame import HEADER_BYTES
    from openfl_flows.state import bucket_forms

    rounds = [entry for entry in run.record["rounds"] if entry["sites"]]
    fragments, model = _fragments(run.record["config"]), run.model().travelling()
    values, exact = _travelling(model)
    beside = exact + HEADER_BYTES * max(fragments, len(bucket_forms(model.spec)))
    sent = median(entry["bytes_up"] / len(entry["sites"]) for entry in rounds) * fragments
    parts = [part["seconds"] for entry in rounds for part in entry["sites"].values()]
    found: dict[str, Any] = {"sent_bytes": (sent - beside) / values, "measured": str(run.path)}
    for key in ("encode", "decode"):
        spent = [seconds[key] for seconds in parts if key in seconds]
        if spent:
            found[f"{key}_seconds"] = median(spent) * fragments / values
    return replace(cost, **found)


def _join_seconds(run: "RunDirectory") -> float:
    """Of a whole model: a round joins one fragment."""
    spent = [entry.get("join_seconds", 0.0) for entry in run.record["rounds"]]
    return median(spent) * _fragments(run.record["config"]) if spent else 0.0


def _fragments(config: Mapping[str, Any]) -> int:
    from openfl_flows.experiment import traffic_of

    return traffic_of(config)[1].fragments


def _count(text: str) -> int:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([kMGB]?)", text)
    if found is None or float(found[1]) <= 0:
        raise ValueError(f"--parameters={text!r}, expected a number above 0, e.g. 571.5M")
    return round(float(found[1]) * _UNITS[found[2]])


def _seconds(option: str, text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise ValueError(f"{option}={text}, expected seconds above 0")
    return seconds


def _share(text: str) -> float:
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?(%?)", text)
    share = float(found[1]) / (100 if found[2] else 1) if found else math.nan
    if not 0 < share < 1:
        raise ValueError(f"--idle={text}, expected a share between 0 and 1, e.g. 10% or 0.1")
    return share
