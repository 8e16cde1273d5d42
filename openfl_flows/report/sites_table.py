"""What a federation gains each site: its own model, the federated one, and that one tuned there.

One table for each metric, test set and combination of the study's other choices: a row for each
site, the average, and the federated model against the best site and against the pooled data.
"""

import csv
import io
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from openfl_flows.metrics.class_scores import SCORES
from openfl_flows.report.intervals import Summary, summarise
from openfl_flows.report.metric_names import metric
from openfl_flows.report.site_contrasts import Contrast, Scored, Values, average_values
from openfl_flows.report.site_groups import Group, read_groups
from openfl_flows.report.study_tables import ABSENT, Finished, Grid

_LEVEL = 0.05


class SitesSection(NamedTuple):
    """One group in the report: its table of accuracy, and those of the other metrics."""

    title: str
    accuracy: Grid
    others: tuple[Grid, ...]


def score_groups(finished: Finished) -> tuple[Scored, ...]:
    """All groups of a study; none where it has no local runs, or nothing that predicts classes.

    Raises:
        ValueError: As :func:`openfl_flows.report.site_groups.read_groups`.
    """
    return tuple(Scored(group) for group in read_groups(finished))


def section(scored: Scored, finished: Finished) -> SitesSection:
    """The tables of one group."""
    title = _title(scored.group, finished)
    grids = [sites_grid(scored, name, title) for name in SCORES]
    return SitesSection(title, grids[0], tuple(grids[1:]))


def sites_grid(scored: Scored, name: str, title: str) -> Grid:
    """The table of one metric, rounded for reading.

    Args:
        scored: The group.
        name: One of ``SCORES``.
        title: Of the group.
    """
    group = scored.group
    points = ", points" if metric(name).scale > 1 else ""
    columns = ["site", "training proteins", "local", "federated", f"gain{points}"]
    if name == "accuracy":
        columns += [f"McNemar: seeds with p < {_LEVEL}", "largest p"]
    if group.has_tuned:
        columns += ["tuned", f"gain over federated{points}"]
    rows = [_site_row(scored, name, site) for site in group.sites]
    rows.append(_average_row(scored, name))
    rows += _summary_rows(scored, name)
    width = len(columns)
    return Grid(
        f"{metric(name).title}: {title}",
        tuple(columns),
        tuple((*row, *[""] * (width - len(row))) for row in rows),
        _note(group) if name == "accuracy" else "",
    )


def to_csv(groups: Sequence[Scored]) -> str:
    """All scores and differences, one line each, in recorded units and at full precision.

    A line with a seed is one run's score, or McNemar's p of two runs; a line without is the mean
    difference over seeds with its interval over proteins. The site is empty for models of all
    sites, and for the average over sites.
    """
    axes = tuple(dict.fromkeys(axis for scored in groups for axis in scored.group.at))
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    columns = ("seed", "site", "kind", "metric", "value", "low", "high", "train", "test")
    writer.writerow(("run", "baseline", "test_set", *axes, *columns))
    for scored in groups:
        group = scored.group
        choices = (group.at.get(axis, "") for axis in axes)
        start = (group.run, group.base, group.test_set, *choices)
        for line in (*_score_lines(scored), *_contrast_lines(scored)):
            writer.writerow((*start, *line, len(group.names)))
    return buffer.getvalue()


def _score_lines(scored: Scored) -> Iterable[tuple[Any, ...]]:
    def lines(kind: str, site: str, values: Values) -> Iterable[tuple[Any, ...]]:
        for seed, found in values.items():
            train = scored.group.num_train.get(site, {}).get(seed, "")
            for name, value in found.items():
                yield seed, site, kind, name, value, "", "", train

    for site in scored.group.sites:
        yield from lines("local", site, scored.local[site])
        yield from lines("tuned", site, scored.tuned[site])
    yield from lines("federated", "", scored.federated)
    yield from lines("centralized", "", scored.centralized)


def _contrast_lines(scored: Scored) -> Iterable[tuple[Any, ...]]:
    kinds = {"federated - local": scored.gains, "tuned - federated": scored.tuning_gains}
    for kind, contrasts in kinds.items():
        for site, contrast in contrasts.items():
            if contrast is None:
                continue
            for seed, test in contrast.tests.items():
                yield seed, site, kind, "mcnemar_p", test.p, "", "", ""
            for name, value in contrast.means.items():
                yield "", site, kind, name, value, *contrast.intervals[name], ""


def _site_row(scored: Scored, name: str, site: str) -> list[str]:
    group, gain = scored.group, scored.gains[site]
    row = [
        site,
        _whole(group.num_train.get(site, {})),
        _over_seeds({seed: found[name] for seed, found in scored.local[site].items()}, name),
        _over_seeds({seed: found[name] for seed, found in scored.federated.items()}, name),
        _gain(gain, name),
    ]
    if name == "accuracy":
        row += _tests(gain)
    if group.has_tuned:
        tuned = {seed: found[name] for seed, found in scored.tuned[site].items()}
        row += [_over_seeds(tuned, name), _gain(scored.tuning_gains[site], name)]
    return row


def _average_row(scored: Scored, name: str) -> list[str]:
    row = [
        "average",
        "",
        _over_seeds(average_values(scored.local, name), name),
        _over_seeds({seed: found[name] for seed, found in scored.federated.items()}, name),
        _gain(scored.gains[""], name),
    ]
    if name == "accuracy":
        row += ["", ""]
    if scored.group.has_tuned:
        tuned = average_values(scored.tuned, name)
        row += [_over_seeds(tuned, name), _gain(scored.tuning_gains[""], name)]
    return row


def _summary_rows(scored: Scored, name: str) -> list[list[str]]:
    federated = _over_seeds({seed: found[name] for seed, found in scored.federated.items()}, name)
    compared = [("best local", "{}", scored.above_best_local(name))]
    if scored.group.has_centralized:
        compared.append(("centralized", "({})", scored.above_centralized(name)))
    rows = []
    for label, form, found in compared:
        row = [f"federated − {label}", "", ABSENT, federated, ABSENT]
        if found is not None:
            difference, reference = found
            row[2] = form.format(_text(reference, name))
            row[4] = _text(difference, name, signed=True)
        rows.append(row)
    return rows


def _tests(contrast: Contrast | None) -> list[str]:
    if contrast is None:
        return [ABSENT, ABSENT]
    values = [test.p for test in contrast.tests.values()]
    below = sum(p < _LEVEL for p in values)
    return [f"{below} of {len(values)}", f"{max(values):.2g}"]


def _gain(contrast: Contrast | None, name: str) -> str:
    if contrast is None:
        return ABSENT
    low, high = contrast.intervals[name]
    ends = f"{_number(low, name, signed=True)} to {_number(high, name, signed=True)}"
    return f"{_number(contrast.means[name], name, signed=True)} ({ends})"


def _over_seeds(values: Mapping[int, float], name: str) -> str:
    if not values:
        return ABSENT
    summary = summarise(list(values.values()))
    spread = "" if summary.sd is None else f" ± {_number(summary.sd, name)}"
    return _number(summary.mean, name) + spread


def _text(summary: Summary, name: str, *, signed: bool = False) -> str:
    """Mean and deviation; where it is a difference, its interval, too."""
    text = _number(summary.mean, name, signed=signed)
    if summary.sd is not None:
        text += f" ± {_number(summary.sd, name)}"
    if signed and summary.interval is not None:
        low, high = (_number(end, name, signed=True) for end in summary.interval)
        text += f" ({low} to {high})"
    return text


def _number(value: float, name: str, *, signed: bool = False) -> str:
    """Two decimals of a percentage, three of a plain number."""
    scale = metric(name).scale
    digits = 2 if scale > 1 else 3
    shown = round(value * scale, digits) + 0.0  # no minus before nothing
    return f"{shown:{'+' if signed else ''}.{digits}f}"


def _whole(values: Mapping[int, int]) -> str:
    """A count, or its mean where the seeds differ in it."""
    return f"{statistics.fmean(values.values()):,.0f}" if values else ABSENT


def _title(group: Group, finished: Finished) -> str:
    """The choices, and the names of the runs and of the test set where there are several."""
    plans = finished.study.runs.values()
    parts = [f"{axis} {choice}" for axis, choice in group.at.items()]
    if sum(plan.command == "simulate" for plan in plans) > 1:
        parts.insert(0, group.run)
    if sum(plan.command == "local" and plan.start is None for plan in plans) > 1:
        parts.insert(0, f"against {group.base}")
    set_name = f"set “{group.test_set}”, {len(group.names):,} proteins"
    return ", ".join([*parts, set_name])


def _note(group: Group) -> str:
    note = (
        "Mean ± standard deviation over seeds, 95 % intervals. A gain's interval is that of the "
        "paired bootstrap over proteins, its differences averaged over seeds; McNemar's test is "
        "exact, of each seed's two models on the same proteins. The last rows are differences by "
        "seed with Student's interval over seeds; the best local model is the best on these test "
        "proteins, which favours it, and in parentheses is the centralized one."
    )
    if group.has_tuned:
        note += " Tuned: the federated model after training at the site alone."
    return note
