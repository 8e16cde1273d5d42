"""What a Task Runner workspace says: its plan read back as an experiment, with the plan's hash."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from hashlib import sha384
from pathlib import Path
from typing import Any

import yaml
from pydantic import ConfigDict

from openfl_flows.experiment import check, site_names
from openfl_flows.pki.plan import is_address, read_yaml
from openfl_flows.readiness.rules import Readiness
from openfl_flows.taskrunner.attested import Attestation

PLAN = Path("plan") / "plan.yaml"
COLS = Path("plan") / "cols.yaml"
DATA = Path("plan") / "data.yaml"
_WAITS = ("client_reconnect_interval", "poll_seconds", "patience_seconds", "stall_seconds")
_KINDS = {Mapping: "keys with values", list: "a list", int: "a whole number", str: "a file"}


@dataclass(frozen=True, kw_only=True)
class Network:
    """Where the aggregator is reached, and how patient the parties are.

    Attributes:
        agg_addr: Host name or IPv4 address of the aggregator, as in its certificate.
        agg_port: The one port that is open, at the aggregator.
        client_reconnect_interval: Seconds between a site's attempts to reach the aggregator.
        poll_seconds: Seconds that a site waits before it asks again for something to do.
        patience_seconds: Seconds without a word from a site after which the aggregator says so.
        stall_seconds: How long nothing may move of a transfer until the parties say so.
        max_norm_ratio: An update is refused whose norm is more than this many times the sites'
            lower median in the round before; None to take any.
        readiness: When a round may begin.
        attestation: Who has to prove what runs there.
        metrics_port: Port of the loopback device where the aggregator shows its figures to
            Prometheus; None for nowhere.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    agg_addr: str = "localhost"
    agg_port: int = 50051
    client_reconnect_interval: int = 5
    poll_seconds: int = 5
    patience_seconds: int = 600
    stall_seconds: int = 120
    max_norm_ratio: float | None = 10.0
    metrics_port: int | None = None
    readiness: Readiness = field(default_factory=Readiness)
    attestation: Attestation = field(default_factory=Attestation)

    def __post_init__(self) -> None:
        """Refuse what no site could dial, and waits of no length."""
        if not is_address(self.agg_addr):
            raise ValueError(
                f"network.agg_addr={self.agg_addr!r}, expected a host name or an IPv4 address"
            )
        if not 1 <= self.agg_port <= 65535:
            raise ValueError(f"network.agg_port={self.agg_port}, expected 1 to 65535")
        if self.metrics_port is not None and not 1 <= self.metrics_port <= 65535:
            raise ValueError(f"network.metrics_port={self.metrics_port}, expected 1 to 65535")
        if self.metrics_port == self.agg_port:
            raise ValueError(
                f"network.metrics_port={self.metrics_port}, expected another than network.agg_port"
            )
        for name in _WAITS:
            if getattr(self, name) < 1:
                raise ValueError(f"network.{name}={getattr(self, name)}, expected at least 1")
        if self.max_norm_ratio is not None and not self.max_norm_ratio > 1:
            raise ValueError(f"network.max_norm_ratio={self.max_norm_ratio}, expected above 1")
        if self.attestation.asked and not self.readiness.required:
            raise ValueError(
                f"network.attestation.required={self.attestation.required} with "
                "network.readiness.required=false, expected true: who takes part has to be known"
            )


@dataclass(frozen=True, kw_only=True)
class WorkspacePlan:
    """A workspace's plan.

    Attributes:
        hash: SHA-384 of the plan in hexadecimal, as ``fx`` prints it; OpenFL names the federation
            by its first eight digits.
        sites: Names of the sites that may take part.
        config: The plan as :meth:`openfl_flows.experiment.Experiment.from_config` takes it.
    """

    hash: str
    sites: tuple[str, ...]
    config: Mapping[str, Any]


def read_workspace(folder: Path) -> WorkspacePlan:
    """Read ``plan/plan.yaml`` and ``plan/cols.yaml``.

    A checkpoint that the plan starts from is named as seen from here, not from the workspace.

    Raises:
        ValueError: A file is missing or is not YAML, a key is missing, or two places of the plan
            contradict each other; the message names file and key.
    """
    path, cols_path = folder / PLAN, folder / COLS
    plan = read_yaml(path)
    config = dict(_found(f"{path}: ", plan, "task_runner.settings.experiment", Mapping))
    joining = _found(f"{path}: ", plan, "tasks.train.aggregation_type.settings", Mapping)
    at_sites = config.get("ema")
    for group in ("join", "ema"):
        where = f"{path}: tasks.train.aggregation_type.settings."
        config[group] = _found(where, joining, group, Mapping)
    if at_sites not in (None, config["ema"]):
        raise ValueError(
            f"{path}: task_runner.settings.experiment.ema={at_sites}, expected {config['ema']} as "
            "in tasks.train.aggregation_type.settings: sites compute the aggregator's average"
        )
    settings = {
        **_found(f"{path}: ", plan, "network.settings", Mapping),
        **_found(f"{path}: ", plan, "aggregator.settings", Mapping),
    }
    known = {
        field.name: settings[field.name] for field in fields(Network) if field.name in settings
    }
    # Of before there were verdicts: its aggregator asks for none.
    known.setdefault("readiness", {"required": False})
    config["network"] = asdict(check(f"{path}: network", Network, known))
    where = f"{path}: task_runner.settings.experiment."
    if config.get("initial") is not None:
        config["initial"] = str(folder / _found(where, config, "initial", str))
    if config.get("evaluation"):
        named = {key: config["evaluation"].get(key) for key in ("candidate", "baseline")}
        found = {key: str(folder / file) for key, file in named.items() if file is not None}
        config["evaluation"] = {**config["evaluation"], **found}

    sites = site_names(_found(where, config, "federation.sites", list))
    cols = _found(f"{cols_path}: ", read_yaml(cols_path), "collaborators", list)
    taking_part = tuple(site for site in sites if site in cols)
    if len(taking_part) != len(cols) or not cols:
        raise ValueError(
            f"{cols_path}: collaborators={cols}, expected some of {list(sites)}, which "
            f"task_runner.settings.experiment.federation.sites in {path} names"
        )
    rounds = _found(where, config, "federation.rounds", int)
    if settings.get("rounds_to_train") != rounds + 1:
        raise ValueError(
            f"{path}: aggregator.settings.rounds_to_train={settings.get('rounds_to_train')}, "
            f"expected {rounds + 1}: federation.rounds={rounds}, and one to measure the last model"
        )
    return WorkspacePlan(hash=_hash(path, plan), sites=taking_part, config=config)


def federation_id(short: str, folder: Path = Path()) -> str:
    """OpenFL's name of a federation with all digits of the plan's hash in place of the first eight.

    Args:
        short: OpenFL's name, e.g. ``plan.yaml_0a1b2c3d``.
        folder: The workspace.

    Raises:
        ValueError: The plan in the workspace cannot be read or is another one.
    """
    name, _, digits = short.rpartition("_")
    whole = read_workspace(folder).hash
    if not whole.startswith(digits):
        raise ValueError(
            f"{folder / PLAN} has the hash {whole[:8]}, expected {digits} as in {short}"
        )
    return f"{name}_{whole}"


def data_folder(folder: Path, site: str) -> Path | None:
    """The folder of a site's data, as its line of ``plan/data.yaml`` says; None without one."""
    file = folder / DATA
    for line in file.read_text().splitlines() if file.is_file() else ():
        name, _, path = line.partition(",")
        if name.strip() == site and path.strip():
            return folder / path.strip()
    return None


def _hash(path: Path, plan: Mapping[str, Any]) -> str:
    """The hash of ``openfl.federated.Plan``, which fills in empty settings first."""
    for name, section in plan.items():
        if not isinstance(section, Mapping):
            raise ValueError(f"{path}: {name}={section!r}, expected a section")
        if "defaults" in section:
            raise ValueError(f"{path}: {name}.defaults is set, expected every setting in the plan")
    filled = {
        name: {**section, "settings": section.get("settings") or {}}
        for name, section in plan.items()
    }
    return sha384(yaml.dump(filled).encode()).hexdigest()


def _found(where: str, tree: Mapping[str, Any], key: str, kind: type) -> Any:
    """The value of a dotted key, of the given kind."""
    value: Any = tree
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    if not isinstance(value, kind):
        raise ValueError(f"{where}{key}={value!r}, expected {_KINDS[kind]}")
    return value
