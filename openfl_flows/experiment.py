"""An experiment: everything that a run needs, built from plain configuration."""

import pkgutil
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, TypeAdapter, ValidationError

from openfl_flows.codecs.base import Compression
from openfl_flows.codecs.recipes import AS_IT_IS, build_compression
from openfl_flows.data.blind.config import RANDOM, SplitConfig
from openfl_flows.data.schema.limits import SCHEMAS, Parts, Schema, StructuresV1
from openfl_flows.evaluation.policy import Evaluation
from openfl_flows.joins.base import Join
from openfl_flows.joins.ema import Ema
from openfl_flows.joins.recipes import build_ema, build_join
from openfl_flows.learners.base import Budget, Task
from openfl_flows.learners.fragments import PLAIN, Streaming
from openfl_flows.ops.link import Link, site_links
from openfl_flows.ops.run import Tested
from openfl_flows.privacy.gaussian import Gaussian
from openfl_flows.privacy.protection import (
    OPEN,
    Protection,
    check_budget,
    check_sum,
    mechanism,
)
from openfl_flows.state import State

_PARTS = frozenset({"model", "data", "partition", "join", "ema", "federation", "runtime", "seed"})
_NAMES = frozenset(
    {
        *("name", "out", "resume", "site", "initial", "initial_digest"),
        *("network", "codec", "evaluation", "privacy", "schema", "split"),
    }
)
_FEDERATION = frozenset({"sites", "rounds", "epochs", "steps", "match"})
_MAY_HAVE = frozenset({"validate", "tested", "samples", "link", "secure_aggregation", "streaming"})
Validate = Literal["model", "average"]


@dataclass(frozen=True, kw_only=True)
class Runtime:
    """Where a run is computed.

    Attributes:
        backend: Of a simulation: ``single_process``, or ``ray`` for one process per group of sites.
        threads: Threads of one process; part of the plan, since it decides the last bits.
        resident_sites: How many sites' learners one process keeps in memory between rounds; the
            others are restored from disk when their turn comes, with the same result.
        ray_address: Cluster to attach to; a new local one is started where it is None. The run
            directory must be on a file system that all its machines see.
        ray_actors: Processes that share the sites; one per site where it is None.
        quiet: Show no progress.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    backend: Literal["single_process", "ray"] = "single_process"
    threads: int = 1
    resident_sites: int = 0
    ray_address: str | None = None
    ray_actors: int | None = None
    quiet: bool = False

    def __post_init__(self) -> None:
        """Refuse counts below one."""
        for name, least in (("threads", 1), ("resident_sites", 0), ("ray_actors", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"runtime.{name}={value}, expected at least {least}")


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """A task and how it is federated.

    Attributes:
        task: The model with its data at the sites.
        flow: The class of the OpenFL flow that simulates it, as ``module:name``.
        join: How updates become the next model.
        ema: Moving average of the model, or None.
        validate: What sites validate at the beginning of each round: the global model, or its
            moving average, which every site computes for itself.
        tested: Which model is measured on test data: the last one, or the one with the best
            validation.
        site: The site that trains alone, None where all of them take part.
        rounds: Number of the last round.
        budget: How long a site trains in each round.
        runtime: Where it runs.
        evaluation: Which finished models are measured at the sites in place of training, if any.
        compression: How models travel between sites and aggregator.
        streaming: How the model is synchronised in fragments.
        protection: How sites hide their updates.
        schema: What each site's data must look like, if the parties agreed on it.
        split: How training, validation and test are told apart.
        link: What a rehearsal narrows each site's connection to; sites that are not in it have all
            that the machine gives.
        initial: Checkpoint to start from, None for the task's own initial model.
        initial_digest: Digest that the checkpoint must have, None where any will do.
        config: What all this was built from.
    """

    task: Task
    flow: str
    join: Join
    ema: Ema | None
    validate: Validate = "model"
    tested: Tested = "last"
    site: str | None = None
    rounds: int
    budget: Budget
    runtime: Runtime
    evaluation: Evaluation | None = None
    compression: Compression = AS_IT_IS
    streaming: Streaming = PLAIN
    protection: Protection = OPEN
    schema: Schema | None = None
    split: SplitConfig = RANDOM
    link: Mapping[str, Link] = field(default_factory=dict)
    initial: Path | None = None
    initial_digest: str | None = None
    config: Mapping[str, Any]

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "Experiment":
        """Build from a composed plan, a mapping of plain values.

        Raises:
            ValueError: A value cannot be used; the message names its key.
        """
        check_keys("the plan", config, required=_PARTS, optional=_NAMES)
        federation = config["federation"]
        check_keys("federation", federation, required=_FEDERATION, optional=_MAY_HAVE)
        check("federation.match", Literal["samples", "steps"], federation["match"])
        amounts = {"epochs": federation["epochs"], "steps": federation["steps"]}
        budget = check("federation", Budget, amounts)
        ema = _built("ema", build_ema, config["ema"])
        validate = check("federation.validate", Validate, federation.get("validate", "model"))
        if validate == "average" and (ema is None or budget.steps is None):
            raise ValueError(
                f"federation.validate=average needs an average and equal steps at all sites, got "
                f"ema.name={config['ema'].get('name')}, federation.steps={budget.steps}"
            )
        tested = check("federation.tested", Tested, federation.get("tested", "last"))
        check_tested(tested, ema, validate)
        compression, streaming = traffic_of(config)
        evaluation = evaluation_of(config)
        least = 1 if evaluation is None else 0
        rounds = check_count("federation.rounds", federation["rounds"], least=least)
        streaming.check(budget, rounds)
        _check_proximal(config["model"], streaming)
        sites = site_names(federation["sites"])
        site = check("site", str | None, config.get("site"))
        if site is not None and site not in sites:
            raise ValueError(f"site={site}, expected one of {', '.join(sites)}")
        model = dict(config["model"])
        task_class, flow = resolve(model.pop("task")), model.pop("flow")
        parts = {name: config[name] for name in ("data", "partition")}
        split = check("split", SplitConfig, config.get("split", {}))
        if split.blind:
            parts["split"] = config["split"]
        options = {
            **model,
            **{name: part for name, part in parts.items() if part},
            "sites": sites,
            "seed": check_count("seed", config["seed"], least=0),
        }
        task = check("model", task_class, options)
        # The schema takes from the groups of model and data what these have to check first.
        schema = schema_of(config)
        _check_schema(schema, task_class)
        return cls(
            task=task,
            flow=flow,
            join=_built("join", build_join, config["join"]),
            ema=ema,
            validate=validate,
            tested=tested,
            site=site,
            rounds=rounds,
            budget=budget,
            runtime=check("runtime", Runtime, config["runtime"]),
            evaluation=evaluation,
            split=split,
            compression=compression,
            streaming=streaming,
            protection=_protection_of(config, compression, rounds, len(sites)),
            schema=schema,
            link=site_links(federation.get("link"), sites),
            initial=check("initial", Path | None, config.get("initial")),
            initial_digest=check("initial_digest", str | None, config.get("initial_digest")),
            config=config,
        )

    def initial_state(self) -> State:
        """The model before round 1: of the checkpoint, or the task's own.

        Raises:
            ValueError: The checkpoint cannot be read, is of another model, or is not the one that
                was agreed on.
        """
        if self.initial is None:
            return self.task.initial_state()
        state = self.task.load_checkpoint(self.initial)
        if self.initial_digest not in (None, state.digest()):
            raise ValueError(
                f"initial={self.initial} has digest {state.digest()}, "
                f"expected {self.initial_digest} as the plan says"
            )
        return state


def codec_of(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Name and options of the codec: values travel as they are where a plan names none."""
    codec: Mapping[str, Any] = config.get("codec") or {"name": "identity"}
    return codec


def traffic_of(config: Mapping[str, Any]) -> tuple[Compression, Streaming]:
    """How models travel, which an aggregator needs to know, who knows nothing else of a model.

    Raises:
        ValueError: ``codec`` or ``federation.streaming`` cannot be used.
    """
    compression = _built("codec", build_compression, codec_of(config))
    streaming = config.get("federation", {}).get("streaming") or {}
    return compression, check("federation.streaming", Streaming, streaming)


def evaluation_of(config: Mapping[str, Any]) -> Evaluation | None:
    """What a plan says of a federated evaluation; None where it trains.

    Raises:
        ValueError: A value of the group ``evaluation`` cannot be used.
    """
    group = config.get("evaluation")
    policy: Evaluation | None = check("evaluation", Evaluation, group) if group else None
    return policy


def schema_of(config: Mapping[str, Any]) -> Schema | None:
    """What a plan says of the sites' data; None where it says nothing.

    With a blind split the sizes of parts are not the schema's: they follow from a key, and the
    split itself refuses a site where one is empty.

    Raises:
        ValueError: A value of the group ``schema`` cannot be used.
    """
    group = config.get("schema") or {"name": "none"}
    name = str(group.get("name"))
    if name == "none":
        check_keys("schema", group, required={"name"})
        return None
    if name not in SCHEMAS:
        raise ValueError(f"schema.name={name!r}, expected none, {', '.join(SCHEMAS)}")
    schema: Schema = check("schema", SCHEMAS[name], group)
    if (config.get("split") or {}).get("name") == "blind" and not isinstance(schema, StructuresV1):
        schema = replace(schema, parts=Parts(train=0))
    return schema


def _check_schema(schema: Schema | None, task: Any) -> None:
    """Refuse a schema of data that the model does not learn from.

    Raises:
        ValueError: It is one.
    """
    wanted = getattr(task, "SCHEMA", None)
    if schema is not None and schema.name != wanted:
        expected = "none" if wanted is None else f"none or {wanted}"
        raise ValueError(
            f"schema.name={schema.name} with model.task={task.__module__}:{task.__name__}, "
            f"expected {expected}"
        )


def check_tested(tested: Tested, ema: Ema | None, validate: Validate) -> None:
    """Refuse to test the best model where a moving average is kept that nobody validates.

    Raises:
        ValueError: That is what is asked for.
    """
    if tested == "best" and ema is not None and validate == "model":
        raise ValueError(
            "federation.tested=best tests what is validated, expected ema=none or "
            "federation.validate=average"
        )


def _check_proximal(model: Mapping[str, Any], streaming: Streaming) -> None:
    """Refuse FedProx with streaming: what a site receives then is no global model to stay near.

    Raises:
        ValueError: Both are asked for.
    """
    proximal = (model.get("training") or {}).get("proximal", 0)
    if proximal and not streaming.plain:
        raise ValueError(
            f"model.training.proximal={proximal} with federation.streaming, expected 0: sites keep "
            "a model of their own, so there is no global one to stay near"
        )


def _protection_of(
    config: Mapping[str, Any], compression: Compression, rounds: int, sites: int
) -> Protection:
    """How sites hide their updates.

    Raises:
        ValueError: A value cannot be used, or something else in the plan does not go with it.
    """
    options = dict(config.get("privacy") or {"name": "none"})
    kind = mechanism(str(options.pop("name", None)), options)
    noise: Gaussian | None = None if kind is None else check("privacy", kind, options)
    if noise is not None:
        check_budget(noise, rounds)
    asked = config["federation"].get("secure_aggregation", False)
    summed: bool = check("federation.secure_aggregation", bool, asked)
    if summed:
        check_sum(config, exact=compression.codec.exact, sites=sites)
    return Protection(noise=noise, summed=summed)


def site_names(sites: int | list[str]) -> tuple[str, ...]:
    """Names of the sites, from their number or as given.

    Raises:
        ValueError: There is none, or a name is not a plain word, is taken or occurs twice.
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
    if "aggregator" in names:
        raise ValueError("federation.sites has 'aggregator', the name of the party that joins")
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


def resolve(name: str) -> Any:
    """The object that ``module:name`` names.

    Raises:
        ValueError: There is none.
    """
    try:
        return pkgutil.resolve_name(name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"{name!r} does not name a class that can be imported: {error}") from None
