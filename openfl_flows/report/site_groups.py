"""Which runs of a study are compared site by site, with what they predict for the same proteins.

A group is one federation (command ``simulate``) with its sites' own models (``local``, a grid axis
``site``), those models that go on from the federated one (``local`` with ``start``), and the model
of the pooled data (``centralize``), all at the same choices on the axes that they share.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openfl_flows.metrics.classification import Indices
from openfl_flows.metrics.predictions import Predictions
from openfl_flows.ops.run import RunDirectory
from openfl_flows.report.classification import find_test_sets, read_predictions
from openfl_flows.report.study_tables import Finished
from openfl_flows.study.plan import Choices, Study

SITE = "site"
"""The grid axis of the sites; its choices are named as they are."""

Seeds = Mapping[int, NDArray[np.intp]]
"""By seed: (N,) predicted classes, in the order of the group's names."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Group:
    """Predictions of one federation and what it is compared with, for one test set.

    Attributes:
        run: Name of the study's federated run.
        base: Name of the study's local run.
        at: Choices on the axes other than ``site``.
        test_set: The set's name.
        names: N proteins, sorted.
        classes: C names.
        true: (N,) indices.
        local: By site, of the model of the site's own data; empty where no run is finished.
        federated: Of the federated model.
        tuned: By site, of the federated model after training at the site.
        centralized: Of the model of the pooled data.
        has_tuned: Whether the study has such runs at all.
        has_centralized: Whether it has such a run at all.
        num_train: By site and seed: training proteins, where the local run says so.
    """

    run: str
    base: str
    at: Choices
    test_set: str
    names: tuple[str, ...]
    classes: tuple[str, ...]
    true: Indices
    local: Mapping[str, Seeds]
    federated: Seeds
    tuned: Mapping[str, Seeds]
    centralized: Seeds
    has_tuned: bool
    has_centralized: bool
    num_train: Mapping[str, Mapping[int, int]]

    @property
    def sites(self) -> tuple[str, ...]:
        """The sites in the study's order."""
        return tuple(self.local)


def read_groups(finished: Finished) -> tuple[Group, ...]:
    """All groups of a study that have a finished run with predictions of classes.

    Raises:
        ValueError: Predictions that belong together are of other proteins, targets or classes, or
            a file cannot be read.
    """
    study = finished.study
    federated = [name for name, run in study.runs.items() if run.command == "simulate"]
    local = [
        name for name, run in study.runs.items() if run.command == "local" and SITE in run.grid
    ]
    return tuple(
        group
        for run in federated
        for base in local
        if study.runs[base].start is None
        for at in _choices(study, run, base)
        for group in _read_groups(finished, run, base, at)
    )


def _choices(study: Study, run: str, base: str) -> Iterator[dict[str, str]]:
    """Every combination of both runs' choices, but for the site."""
    seen: list[dict[str, str]] = []
    for cell in (cell for cell in study.cells() if cell.run == run):
        for other in (other for other in study.cells() if other.run == base):
            rest = {axis: choice for axis, choice in other.at.items() if axis != SITE}
            at = {**cell.at, **rest}
            if all(at[axis] == choice for axis, choice in cell.at.items()) and at not in seen:
                seen.append(at)
    yield from seen


def _read_groups(finished: Finished, run: str, base: str, at: Choices) -> Iterator[Group]:
    """The group of each test set; none without predictions."""
    plans = finished.study.runs
    tuned = next((n for n, p in plans.items() if p.start == run and SITE in p.grid), None)
    pooled = next((n for n, p in plans.items() if p.command == "centralize"), None)
    sites = tuple(plans[base].grid[SITE])
    runs = {("federated", ""): _runs(finished, run, at)}
    runs |= {("centralized", ""): _runs(finished, pooled, at)}
    for site in sites:
        here = {**at, SITE: site}
        runs |= {("local", site): _runs(finished, base, here)}
        runs |= {("tuned", site): _runs(finished, tuned, here)}
    folders = [_samples(one) for found in runs.values() for one in found.values()]
    sets = dict.fromkeys(name for folder in folders for name in find_test_sets(folder))
    for test_set in sorted(sets, key=lambda name: (name != "test", name)):
        aligned = _Aligned(test_set)
        predicted = {
            key: {
                seed: aligned.add(_samples(one))
                for seed, one in found.items()
                if test_set in find_test_sets(_samples(one))
            }
            for key, found in runs.items()
        }
        yield Group(
            run=run,
            base=base,
            at=at,
            test_set=test_set,
            names=aligned.names,
            classes=aligned.classes,
            true=aligned.true,
            local={site: predicted["local", site] for site in sites},
            federated=predicted["federated", ""],
            tuned={site: predicted["tuned", site] for site in sites},
            centralized=predicted["centralized", ""],
            has_tuned=tuned is not None,
            has_centralized=pooled is not None,
            num_train={site: _num_train(site, runs["local", site]) for site in sites},
        )


def _runs(finished: Finished, run: str | None, at: Choices) -> Mapping[int, RunDirectory]:
    """Finished runs by seed of the cell whose choices are among ``at``; none where none is."""
    for cell, runs in finished.cells():
        if cell.run == run and all(at.get(axis) == choice for axis, choice in cell.at.items()):
            return {one.record["config"]["seed"]: one for one in runs}
    return {}


class _Aligned:
    """Puts the predictions of all runs in one order, and refuses what is of other proteins."""

    def __init__(self, test_set: str) -> None:
        self._test_set = test_set
        self._first: tuple[Path, dict[str, str]] | None = None
        self.names: tuple[str, ...] = ()
        self.classes: tuple[str, ...] = ()
        self.true: Indices = np.array([], np.intp)

    def add(self, folder: Path) -> NDArray[np.intp]:
        """A run's predicted classes (N,) in the order of the names."""
        found = read_predictions(folder, self._test_set)
        targets = {n: found.classes[i] for n, i in zip(found.names, found.true, strict=True)}
        if self._first is None:
            self._first = folder, targets
            self.names, self.classes = tuple(sorted(targets)), tuple(found.classes)
            self.true = _ordered(found, found.true)
        self._check(folder, found, targets)
        return _ordered(found, found.predicted)

    def _check(self, folder: Path, found: Predictions, targets: Mapping[str, str]) -> None:
        assert self._first is not None
        first, known = self._first
        where = f"{folder}: predictions of the set {self._test_set!r}"
        if tuple(found.classes) != self.classes:
            raise ValueError(
                f"{where} are of the classes {', '.join(found.classes)}, expected those of "
                f"{first}: {', '.join(self.classes)}"
            )
        for name in sorted(targets.keys() ^ known.keys()):
            state = "have" if name in targets else "lack"
            raise ValueError(f"{where} {state} {name!r}, expected the proteins of {first}")
        for name in self.names:
            if targets[name] != known[name]:
                raise ValueError(
                    f"{where} have {name!r} as {targets[name]}, expected {known[name]} as in "
                    f"{first}"
                )


def _ordered(found: Predictions, values: Indices) -> NDArray[np.intp]:
    order = sorted(range(len(found.names)), key=lambda i: found.names[i])
    return np.asarray(values[order], np.intp)


def _num_train(site: str, runs: Mapping[int, RunDirectory]) -> dict[int, int]:
    """Training proteins of a site as its runs' ``partition.json`` has them."""
    found = {}
    for seed, run in runs.items():
        file = run.path / "partition.json"
        if file.is_file():
            table: dict[str, Any] = json.loads(file.read_text())
            rows = [dict(zip(table["columns"], row, strict=True)) for row in table["rows"]]
            num = next((row.get("train") for row in rows if row.get("site") == site), None)
            if num is not None:
                found[seed] = int(num)
    return found


def _samples(run: RunDirectory) -> Path:
    return run.path / "samples"
