"""What in an OpenFL plan would harm its parties, found before anyone runs it.

OpenFL takes ``use_tls: false`` from a plan without a word, asks for no client certificate over
REST, and imports and calls whatever a plan names as a template; so a party reads the plan first.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from openfl_flows.pki.plan import NAME_RULE, is_address, is_site_name, read_yaml

_SECTIONS = {
    *("aggregator", "assigner", "collaborator", "compression_pipeline", "data_loader"),
    *("network", "straggler_handling_policy", "task_runner", "tasks"),
}
# The reviewed code: this package, the workspace's own src, and OpenFL's components. Only classes:
# elsewhere in OpenFL stand functions that run a command line.
_TEMPLATE = re.compile(
    r"(openfl_flows\.taskrunner"
    r"|openfl\.(component|federation|interface\.aggregation_functions|pipelines)"
    r"|src)(\.\w+)*\.[A-Z]\w*"
)
_ABSOLUTE = re.compile(r"(/[\w.~-]+)+/?|~.*|[A-Za-z]:[\\/].*|\\\\.*|file:.*")
_ABOVE = re.compile(r"(.*[\\/])?\.\.([\\/].*)?")
_NETWORK = {"use_tls": True, "require_client_auth": True, "transport_protocol": "grpc"}
_ATTESTED = ("none", "aggregator", "both")
_EXPERIMENT = ("task_runner", "settings", "experiment")
_MISSING = object()


def check_plan(path: Path) -> None:
    """Refuse a plan that has findings.

    Args:
        path: ``plan/plan.yaml``; ``cols.yaml`` stands beside it.

    Raises:
        ValueError: The first finding, with its file and key.
    """
    for finding in findings(path):
        raise ValueError(finding)


def findings(path: Path) -> list[str]:
    """All findings of a plan on disk, each with its file.

    Args:
        path: ``plan/plan.yaml``; ``cols.yaml`` stands beside it.

    Raises:
        ValueError: A file is missing or is not YAML.
    """
    cols_path = path.with_name("cols.yaml")
    plan, cols = read_yaml(path), read_yaml(cols_path).get("collaborators")
    of_plan = [*_plan_findings(plan), *_quoter_findings(plan, cols)]
    return [f"{path}: {finding}" for finding in of_plan] + [
        f"{cols_path}: {finding}" for finding in _cols_findings(cols)
    ]


def lint_plan(plan: Mapping[str, Any], cols: Sequence[str]) -> list[str]:
    """What is wrong with a plan: key, value and what is expected, a line for each.

    Args:
        plan: The content of ``plan.yaml``.
        cols: The sites that ``cols.yaml`` names.
    """
    return [*_plan_findings(plan), *_quoter_findings(plan, cols), *_cols_findings(cols)]


def _plan_findings(plan: Mapping[str, Any]) -> Iterator[str]:
    for name, section in plan.items():
        if name not in _SECTIONS:
            yield f"{name}: unknown section, expected one of {', '.join(sorted(_SECTIONS))}"
        elif not isinstance(section, Mapping):
            yield f"{name}={section!r}, expected a section"
        elif "defaults" in section:
            yield f"{name}.defaults={section['defaults']}, expected every setting in the plan"
    yield from _network_findings(_settings(plan, "network"))
    yield from _aggregator_findings(_settings(plan, "aggregator"))
    masks = _value(plan, "aggregator", "settings", "secure_aggregation")
    wanted = _value(plan, *_EXPERIMENT, "federation", "secure_aggregation")
    if (masks is True) != (wanted is True):
        yield (
            f"aggregator.settings.secure_aggregation{_said(masks)}, expected "
            f"{_yaml(wanted is True)} as in task_runner.settings.experiment.federation"
        )
    policy = _value(plan, "straggler_handling_policy", "template")
    if policy is not _MISSING and str(policy).rpartition(".")[2] != "WaitForAllPolicy":
        yield (
            f"straggler_handling_policy.template={policy}, expected none or WaitForAllPolicy: "
            "others leave sites out without a word"
        )
    for key, value in _leaves(plan):
        yield from _leaf_findings(key, value)


def _network_findings(network: Mapping[str, Any]) -> Iterator[str]:
    for key, wanted in _NETWORK.items():
        value = network.get(key, _MISSING)
        if value != wanted or type(value) is not type(wanted):
            yield f"network.settings.{key}{_said(value)}, expected {_yaml(wanted)}"
    address = network.get("agg_addr", _MISSING)
    if not is_address(address):
        yield f"network.settings.agg_addr{_said(address)}, expected the aggregator's host name"
    yield from _attestation_findings(network.get("attestation", {"required": "none"}))
    port = network.get("agg_port", _MISSING)
    if type(port) is not int or not 1 <= port <= 65535:
        yield f"network.settings.agg_port{_said(port)}, expected a port from 1 to 65535"


def _attestation_findings(found: Any) -> Iterator[str]:
    key = "network.settings.attestation"
    if not isinstance(found, Mapping):
        yield f"{key}={found}, expected who has to prove what runs there"
        return
    required = found.get("required", _MISSING)
    if required not in _ATTESTED:
        yield f"{key}.required{_said(required)}, expected one of {', '.join(_ATTESTED)}"
    signers = found.get("signers")
    if required in _ATTESTED[1:] and not (
        isinstance(signers, Mapping) and isinstance(signers.get("signers"), Mapping)
    ):
        yield f"{key}.signers, expected those whose signatures a policy needs"


def _quoter_findings(plan: Mapping[str, Any], cols: Any) -> Iterator[str]:
    """Sites that get a quoter, and are none."""
    found = _value(plan, "network", "settings", "attestation", "site_quoter")
    if isinstance(found, Mapping) and isinstance(cols, Sequence):
        for name in sorted(found.keys() - set(cols), key=str):
            yield (
                f"network.settings.attestation.site_quoter.{name}={found[name]}, expected one of "
                f"{', '.join(map(str, cols))}"
            )


def _aggregator_findings(aggregator: Mapping[str, Any]) -> Iterator[str]:
    shared = aggregator.get("single_col_cert_common_name")
    if shared:
        yield (
            f"aggregator.settings.single_col_cert_common_name={shared}, expected none: "
            "with one certificate for all, each site can speak for the others"
        )
    kept = aggregator.get("persist_checkpoint", _MISSING)
    if kept is not False:
        yield (
            f"aggregator.settings.persist_checkpoint{_said(kept)}, expected false: "
            "OpenFL's database grows by a model every round"
        )
    rounds = aggregator.get("rounds_to_train", _MISSING)
    if type(rounds) is not int or rounds < 1:
        yield (
            f"aggregator.settings.rounds_to_train{_said(rounds)}, expected at least 1: "
            "the last round only measures"
        )


def _leaf_findings(key: str, value: Any) -> Iterator[str]:
    if key.rpartition(".")[2] == "template" and not (
        isinstance(value, str) and _TEMPLATE.fullmatch(value)
    ):
        yield f"{key}={value}, expected a class of openfl, openfl_flows.taskrunner or src"
    if isinstance(value, str) and _ABSOLUTE.fullmatch(value):
        yield f"{key}={value}, expected a path relative to the workspace"
    if isinstance(value, str) and _ABOVE.fullmatch(value):
        yield f"{key}={value}, expected a path inside the workspace"


def _cols_findings(cols: Any) -> Iterator[str]:
    if not isinstance(cols, Sequence) or isinstance(cols, str) or not cols:
        yield f"collaborators={cols}, expected a list of sites' names"
        return
    for number, name in enumerate(cols):
        if not is_site_name(name):
            yield f"collaborators: {name!r}, expected {NAME_RULE}"
        if name in cols[:number]:
            yield f"collaborators: {name!r} twice, expected each site once"


def _settings(plan: Mapping[str, Any], section: str) -> Mapping[str, Any]:
    found = _value(plan, section, "settings")
    return found if isinstance(found, Mapping) else {}


def _value(tree: Any, *keys: str) -> Any:
    for key in keys:
        tree = tree.get(key, _MISSING) if isinstance(tree, Mapping) else _MISSING
    return tree


def _leaves(tree: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Every value that is not a container, by its dotted key."""
    if isinstance(tree, Mapping):
        for name, inner in tree.items():
            yield from _leaves(inner, f"{key}.{name}" if key else str(name))
    elif isinstance(tree, list):
        for number, inner in enumerate(tree):
            yield from _leaves(inner, f"{key}[{number}]")
    else:
        yield key, tree


def _said(value: Any) -> str:
    return " is missing" if value is _MISSING else f"={_yaml(value)}"


def _yaml(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
