"""An experiment: everything that a run needs, built from plain configuration."""

import pkgutil
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from openfl_flows.flows.federated import FederatedFlow
from openfl_flows.flows.simulation import Runtime, simulate
from openfl_flows.joins.base import Join
from openfl_flows.joins.ema import Ema
from openfl_flows.joins.recipes import build_ema, build_join
from openfl_flows.learners.base import Budget, Task
from openfl_flows.ops.run import RunDirectory

_PARTS = frozenset({"model", "data", "partition", "join", "ema", "federation", "runtime", "seed"})
_NAMES = frozenset({"name", "out", "resume"})
_FEDERATION = frozenset({"sites", "rounds", "epochs", "steps", "match"})


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """A task and how it is federated.

    Attributes:
        task: The model with its data at the sites.
        flow: The OpenFL flow.
        join: How updates become the next model.
        ema: Moving average of the model, or None.
        rounds: Number of the last round.
        budget: How long a site trains in each round.
        runtime: Where it runs.
        config: What all this was built from.
    """

    task: Task
    flow: type[FederatedFlow]
    join: Join
    ema: Ema | None
    rounds: int
    budget: Budget
    runtime: Runtime
    config: Mapping[str, Any]

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "Experiment":
        """Build from a composed plan, a mapping of plain values.

        Raises:
            ValueError: A value cannot be used; the message names its key.
        """
        check_keys("the plan", config, required=_PARTS, optional=_NAMES)
        federation = config["federation"]
        check_keys("federation", federation, required=_FEDERATION)
        check("federation.match", Literal["samples", "steps"], federation["match"])
        amounts = {"epochs": federation["epochs"], "steps": federation["steps"]}
        budget = check("federation", Budget, amounts)
        model = dict(config["model"])
        task_class, flow = _resolve(model.pop("task")), _resolve(model.pop("flow"))
        parts = {"data": config["data"], "partition": config["partition"]}
        options = {
            **model,
            **{name: part for name, part in parts.items() if part},
            "sites": site_names(federation["sites"]),
            "seed": check_count("seed", config["seed"], least=0),
        }
        return cls(
            task=check("model", task_class, options),
            flow=flow,
            join=_built("join", build_join, config["join"]),
            ema=_built("ema", build_ema, config["ema"]),
            rounds=check_count("federation.rounds", federation["rounds"], least=1),
            budget=budget,
            runtime=check("runtime", Runtime, config["runtime"]),
            config=config,
        )

    def simulate(self, out: Path | str, *, resume: bool = False) -> RunDirectory:
        """Run it through OpenFL's local runtime; see :func:`openfl_flows.flows.simulate`."""
        return simulate(
            self.task,
            join=self.join,
            rounds=self.rounds,
            budget=self.budget,
            out=out,
            ema=self.ema,
            flow=self.flow,
            runtime=self.runtime,
            config=self.config,
            resume=resume,
        )


def site_names(sites: int | list[str]) -> tuple[str, ...]:
    """Names of the sites, from their number or as given.

    Raises:
        ValueError: There is none, or a name is not a plain word or occurs twice.
    """
    if isinstance(sites, int) and not isinstance(sites, bool):
        if sites < 1:
            raise ValueError(f"federation.sites={sites}, expected at least 1")
        return tuple(f"site-{number}" for number in range(1, sites + 1))
    names = tuple(check("federation.sites", list[str], sites))
    for name in names:
        if not name.replace("-", "").replace("_", "").replace(".", "").isalnum():
            raise ValueError(
                f"federation.sites has {name!r}, expected letters, digits, '-', '_' and '.'"
            )
    if "global" in names:
        raise ValueError("federation.sites has 'global', the name of the model of all sites")
    if len(set(names)) != len(names) or not names:
        raise ValueError(f"federation.sites={list(names)}, expected names that differ")
    return names


def check_keys(
    where: str, mapping: Mapping[str, Any], *, required: Set[str], optional: Set[str] = frozenset()
) -> None:
    """Refuse a mapping that lacks a key or has one that nothing reads.

    Raises:
        ValueError: There is such a key; the message names it.
    """
    for key in sorted(required - mapping.keys()):
        raise ValueError(f"{where} has no {key!r}, expected {', '.join(sorted(required))}")
    for key in sorted(mapping.keys() - required - optional):
        raise ValueError(f"{where} has {key}={mapping[key]!r}, which means nothing there")


def check_count(key: str, value: Any, *, least: int) -> int:
    """``value`` as an integer of at least ``least``.

    Raises:
        ValueError: It is none.
    """
    number: int = check(key, int, value)
    if number < least:
        raise ValueError(f"{key}={number}, expected at least {least}")
    return number


def check(key: str, kind: Any, value: Any) -> Any:
    """``value`` as ``kind``, a type or a dataclass, converted and checked.

    Raises:
        ValueError: One line that names the key, the value and what was expected.
    """
    try:
        return TypeAdapter(kind).validate_python(value)
    except ValidationError as error:
        first = error.errors()[0]
        path = ".".join([key, *(str(part) for part in first["loc"])])
        message = first["msg"].removeprefix("Value error, ")
        # A whole group would bury the message, which names the value in it.
        shown = "" if isinstance(first["input"], Mapping) else f"={first['input']!r}"
        raise ValueError(f"{path}{shown}: {message}") from None


def _built(key: str, build: Callable[..., Any], options: Mapping[str, Any]) -> Any:
    try:
        return build(**options)
    except TypeError as error:
        raise ValueError(f"{key}={dict(options)}: {error}") from None


def _resolve(name: str) -> Any:
    try:
        return pkgutil.resolve_name(name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"{name!r} does not name a class that can be imported: {error}") from None
