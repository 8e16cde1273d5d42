"""What a study is made of: runs, the cells of their grids, and which are compared with which."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import product
from typing import Any

from pydantic import ConfigDict, field_validator

from openfl_flows.experiment import check

Choices = Mapping[str, str]
"""Choice by axis."""


@dataclass(frozen=True, kw_only=True)
class RunPlan:
    """One kind of run.

    Attributes:
        command: The command that makes it, such as ``simulate``.
        overrides: Of the plan, for all of its cells.
        grid: Axis -> choice -> overrides of the plan; every combination is a cell. A choice that
            is null is left out, as a plan does with one that it inherits.
        start: Another run. Each cell begins with the model that was tested in the cell of that run
            with the same choices, and seed: the last, or the best with federation.tested=best.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    command: str
    overrides: tuple[str, ...] = ()
    grid: Mapping[str, Mapping[str, tuple[str, ...]]] = field(default_factory=dict)
    start: str | None = None

    @field_validator("grid", mode="before")
    @classmethod
    def _without_null(cls, grid: Any) -> Any:
        """Take out the choices that are null."""
        if not isinstance(grid, Mapping):
            return grid
        return {
            axis: {name: words for name, words in choices.items() if words is not None}
            if isinstance(choices, Mapping)
            else choices
            for axis, choices in grid.items()
        }


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Each cell of one run compared with a cell of another, or of the same.

    Attributes:
        run: The run whose cells are compared.
        reference: The run compared with.
        at: Choices of the reference's cell; on its other axes it is where the compared cell is.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    run: str
    reference: str
    at: Choices = field(default_factory=dict)

    @property
    def title(self) -> str:
        """The pair in words."""
        at = ", ".join(f"{axis} {choice}" for axis, choice in self.at.items())
        if self.run == self.reference:
            return f"{self.run} against {at}"
        return f"{self.run} against {self.reference}" + (f" ({at})" if at else "")


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One point of a run's grid: what is run with every seed.

    Attributes:
        run: Name of the run.
        at: Its choices.
        command: The command that makes it.
        overrides: Of the plan.
    """

    run: str
    at: Choices
    command: str
    overrides: tuple[str, ...]

    @property
    def name(self) -> str:
        """The run and its choices in one word."""
        return "-".join([self.run, *self.at.values()])


@dataclass(frozen=True, kw_only=True)
class Study:
    """Runs of one plan and what is made of them.

    Attributes:
        runs: By name.
        seeds: Every cell is run with each.
        title: Of the report.
        note: What the report says above the results.
        jobs: Runs at once.
        compare: Pairs, each a table of differences.
        metrics: Final metrics of the tables; the usual ones where None.
        curves: Validated metrics that are drawn; all where None.
        published: Published values, by run and metric.
        limits: Largest published differences in percent, by metric.

    Raises:
        ValueError: There is no run or no seed, a name is not a plain word, a pair names a run, an
            axis or a choice that does not exist, or a run cannot begin where it should.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    runs: Mapping[str, RunPlan]
    seeds: tuple[int, ...]
    title: str = "Study"
    note: str = ""
    jobs: int = 1
    compare: tuple[Pair, ...] = ()
    metrics: tuple[str, ...] | None = None
    curves: tuple[str, ...] | None = None
    published: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    limits: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse what cannot be run or compared."""
        if not self.runs:
            raise ValueError("study.runs is empty, expected at least one run")
        if not self.seeds or len(set(self.seeds)) != len(self.seeds) or min(self.seeds) < 0:
            raise ValueError(
                f"study.seeds={list(self.seeds)}, expected distinct numbers of 0 or more"
            )
        if self.jobs < 1:
            raise ValueError(f"study.jobs={self.jobs}, expected at least 1")
        for name, run in self.runs.items():
            _check_words(f"study.runs.{name}", [name, *run.grid])
            for axis, choices in run.grid.items():
                _check_words(f"study.runs.{name}.grid.{axis}", list(choices))
        for name, run in self.runs.items():
            self._check_start(name, run)
        for name in self.published:
            self._run("study.published", name)
        for pair in self.compare:
            self._check_pair(pair)
        names = [cell.name for cell in self.cells()]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"study.runs has two cells that are named {name!r}")

    def cells(self) -> tuple[Cell, ...]:
        """Every combination of choices of every run."""
        return tuple(
            Cell(
                run=name,
                at=dict(zip(run.grid, (choice for choice, _ in combination), strict=True)),
                command=run.command,
                overrides=(*run.overrides, *(o for _, more in combination for o in more)),
            )
            for name, run in self.runs.items()
            for combination in product(*(choices.items() for choices in run.grid.values()))
        )

    def compared(self, pair: Pair) -> tuple[tuple[Cell, Cell], ...]:
        """Each cell of a pair's run with its reference; a cell is not compared with itself."""
        matched = []
        for cell in self.cells():
            if cell.run != pair.run:
                continue
            reference = self._cell_at(pair.reference, {**cell.at, **pair.at})
            if reference is not None and reference != cell:
                matched.append((cell, reference))
        return tuple(matched)

    def start_of(self, cell: Cell) -> Cell | None:
        """The cell whose model another begins with, None for one that begins by itself."""
        start = self.runs[cell.run].start
        return None if start is None else self._cell_at(start, cell.at)

    def _cell_at(self, run: str, at: Choices) -> Cell | None:
        """The cell of a run with the given choices on the axes that the run has."""
        wanted = {axis: choice for axis, choice in at.items() if axis in self.runs[run].grid}
        found = (cell for cell in self.cells() if cell.run == run and cell.at == wanted)
        return next(found, None)

    def _check_start(self, name: str, run: RunPlan) -> None:
        if run.start is None:
            return
        key = f"study.runs.{name}.start"
        start = self._run(key, run.start)
        if start.start is not None:
            raise ValueError(
                f"{key}={run.start}, which begins with the model of {start.start!r} itself: "
                "expected a run without a start"
            )
        choices = (words for axis in run.grid.values() for words in axis.values())
        for word in (*run.overrides, *(word for words in choices for word in words)):
            if word.partition("=")[0] == "initial":
                raise ValueError(f"{key}={run.start} and {word}, expected one of the two")
        for axis, known in start.grid.items():
            if axis not in run.grid:
                raise ValueError(
                    f"{key}={run.start}, which has the axis {axis!r} in its grid, but {name!r} "
                    "has not"
                )
            for choice in run.grid[axis].keys() - known.keys():
                raise ValueError(
                    f"{key}={run.start}, which has no {axis} {choice!r}, expected one of "
                    + ", ".join(known)
                )

    def _check_pair(self, pair: Pair) -> None:
        run, reference = (self._run("study.compare", n) for n in (pair.run, pair.reference))
        for axis, choice in pair.at.items():
            if axis not in reference.grid:
                raise ValueError(
                    f"study.compare: at.{axis}, but {pair.reference!r} has no such axis in its grid"
                )
            if choice not in reference.grid[axis]:
                raise ValueError(
                    f"study.compare: at.{axis}={choice}, expected one of "
                    + ", ".join(reference.grid[axis])
                )
        for axis in reference.grid.keys() - run.grid.keys() - pair.at.keys():
            raise ValueError(
                f"study.compare: {pair.run} against {pair.reference} needs at.{axis}, one of "
                + ", ".join(reference.grid[axis])
            )

    def _run(self, key: str, name: str) -> RunPlan:
        if name not in self.runs:
            raise ValueError(f"{key} names {name!r}, expected one of {', '.join(self.runs)}")
        return self.runs[name]


def read_study(values: Mapping[str, Any]) -> Study:
    """A study from plain values.

    Raises:
        ValueError: A value cannot be used; the message names its key.
    """
    study: Study = check("study", Study, dict(values))
    return study


def _check_words(key: str, names: list[str]) -> None:
    for name in names:
        if not name.replace("-", "").replace("_", "").replace(".", "").isalnum():
            raise ValueError(f"{key}: name {name!r}, expected letters, digits, '-', '_' and '.'")
        if name.startswith("."):
            raise ValueError(f"{key}: name {name!r} starts with a dot")
