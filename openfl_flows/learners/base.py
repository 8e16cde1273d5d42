"""The contracts: what a learner does for one site, and what a task knows of all sites."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from openfl_flows.metrics.mean import Means
from openfl_flows.state import Spec, State

LocalState = Mapping[str, Any]
"""What never leaves a site: optimizer, step counters, loader position. ``torch.save`` writes it."""

Progress = Callable[[int, int, float], None]
"""``progress(step, num_steps, loss)``, called after every optimizer step."""


@dataclass(frozen=True, kw_only=True)
class Budget:
    """How long a site trains in one round: optimizer steps, or passes over its training data.

    Raises:
        ValueError: Not exactly one of the two is given, or it is not positive.
    """

    steps: int | None = None
    epochs: float | None = None

    def __post_init__(self) -> None:
        """Require exactly one positive amount."""
        amounts = [amount for amount in (self.steps, self.epochs) if amount is not None]
        if len(amounts) != 1 or amounts[0] <= 0:
            raise ValueError(
                "a budget needs exactly one of steps and epochs, above 0; "
                f"got steps={self.steps}, epochs={self.epochs}"
            )

    def num_steps(self, steps_per_epoch: int) -> int:
        """The budget in optimizer steps, at least one."""
        if self.steps is not None:
            return self.steps
        assert self.epochs is not None
        return max(1, round(self.epochs * steps_per_epoch))


@dataclass(frozen=True, kw_only=True)
class TrainReport:
    """What a training did.

    Attributes:
        metrics: Means over the training samples, e.g. of the loss.
        num_samples: Training samples seen, with repetition.
        num_steps: Optimizer steps taken.
    """

    metrics: Means
    num_samples: int
    num_steps: int


class Learner(Protocol):
    """One model at one site, with the site's data.

    A learner is told the global model, trains for a budget and says what it has become. It does not
    know whether a simulation or a federation asks. Its randomness is a pure function of the seed,
    the site and its own step counter, so that a restored learner goes on bit for bit.
    """

    @property
    def spec(self) -> Spec:
        """Names, shapes and element types of what travels."""
        ...

    def receive(self, state: State) -> None:
        """Make ``state`` the model, by copying; the local optimizer is kept."""
        ...

    def train(self, budget: Budget, progress: Progress) -> TrainReport:
        """Train from where the model and the local state are."""
        ...

    def validate(self) -> Means:
        """Measure the model on the site's validation data."""
        ...

    def test(self) -> Means:
        """Measure the model on the site's test data: once, at the end."""
        ...

    def send(self) -> State:
        """The model as it is now, copied."""
        ...

    def local_state(self) -> LocalState:
        """What must be restored to go on, beside the model."""
        ...

    def restore(self, local_state: LocalState) -> None:
        """Take back what :meth:`local_state` gave."""
        ...


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table for the report: how the data lie at the sites.

    Attributes:
        columns: Their names, ``site`` first.
        rows: One per site.
        note: What else there is to say.
        facts: Columns that describe a site's data; the others count it by part and by class.
        skew: How far each site's data are from those of all sites, one column per quantity; None
            where the task measures none.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[str | int | float, ...], ...]
    note: str = ""
    facts: tuple[str, ...] = ()
    skew: "Table | None" = None


class Task(Protocol):
    """A model with its data at named sites: all that a run needs to know of a modality.

    A task is built from plain configuration, so that every process of a simulation, and every
    machine of a federation, can build the same one.
    """

    @property
    def sites(self) -> tuple[str, ...]:
        """Names of the sites."""
        ...

    def initial_state(self) -> State:
        """The model before round 1, equal at every call."""
        ...

    def learner(self, site: str) -> Learner:
        """The learner of one site on that site's data.

        Raises:
            ValueError: The site's data cannot be used; the message says why.
        """
        ...

    def pooled_learner(self) -> Learner:
        """The learner of the centralized baseline, on the data of all sites."""
        ...

    def composition(self) -> Table:
        """What each site holds."""
        ...

    def write_rejected(self, folder: Path) -> int:
        """List the samples that could not be used in ``folder``; return how many there are."""
        ...

    def evaluate(self, state: State, folder: Path) -> Means:
        """Measure what only the finished model can show; write samples to ``folder``."""
        ...

    @property
    def best_metric(self) -> tuple[str, Literal["min", "max"]]:
        """The validation metric that tells the best model, and whether less or more is better."""
        ...

    def agreement(self) -> Mapping[str, Any]:
        """What is measured on data and yet must be equal everywhere, as keys of the plan's `model`.

        Plain values that survive YAML and JSON bit for bit: a task that is configured with them in
        place of the way to measure them has the same initial state. Empty where nothing is.
        """
        ...

    def at_site(self, site: str, folder: Path) -> "Task":
        """This task as one site of a federation runs it: on its own data, and no other.

        Its ``learner(site)`` is, to the last bit, that of this task where ``folder`` holds what
        :meth:`write_site_data` wrote.

        Args:
            site: The site's name, one of :attr:`sites`.
            folder: The site's data.

        Raises:
            ValueError: The site is unknown, or what the parties agree on is not in the
                configuration yet (see :meth:`agreement`).
        """
        ...

    def write_site_data(self, site: str, folder: Path) -> None:
        """Write a site's share of the data as data of its own, to rehearse a federation."""
        ...

    def load_checkpoint(self, path: Path) -> State:
        """Read a model to begin with: one of this package's, or of the model's own publication.

        Raises:
            ValueError: It is none, or is of another model; the message names file and tensor.
        """
        ...

    def save_native(self, state: State, path: Path) -> None:
        """Write a model as its own community stores it, with torch, for use without this package.

        ``torch.load(path, weights_only=True)`` reads it.
        """
        ...


def check_site(site: str, sites: Sequence[str]) -> None:
    """Refuse a site that the plan does not name.

    Raises:
        ValueError: ``site`` is none of ``sites``.
    """
    if site not in sites:
        raise ValueError(f"site {site!r} is unknown, expected one of {', '.join(sites)}")
