"""What the lines of a run's ledger say, and whether they agree with its record."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from openfl_flows.ops.ledger import Ledger, plan_digest

UNWEIGHTED = frozenset({"median", "trimmed_mean"})
"""Joins that take all sites for equal."""


def start_line(config: Mapping[str, Any], *, kind: str, round_: int, model: str) -> dict[str, Any]:
    """The first line: a run begins, or begins to keep a ledger.

    Args:
        config: The plan.
        kind: How the model is trained: ``federated``, ``centralized`` or ``local``.
        round_: The last round before.
        model: Digest of the model there is.
    """
    return {"run": kind, "plan": plan_digest(config), "round": round_, "after": model}


def round_line(
    config: Mapping[str, Any],
    record: Mapping[str, Any],
    *,
    before: str,
    join_state: str,
    average: str | None,
) -> dict[str, Any]:
    """The line of a round.

    ``join``, ``ema`` and ``codec`` are those of the plan, None where it does not say. ``weight`` is
    a site's share in a weighted mean, ``n_i / Σ n``. ``left_out`` are sites of the plan that have
    no part in the round, ``refused`` those of which an update was refused in it, each with the
    reason; an update that came after a refusal counts.

    ``attestation`` is there only where parties are attested: by site, its verdict on the aggregator
    (``aggregator``) and the aggregator's on it (``site``, None where sites are not attested), each
    with measurement, status, digests of policy and evidence, and time; ``signed`` is the SHA-256 of
    what the site has signed, which lies in the run. Evidence is of keys that are made at every
    start, so that two runs of one plan then have ledgers with different heads.

    Args:
        config: The plan.
        record: The round as it stands in ``run.json``.
        before: Digest of the model that the round began with.
        join_state: Digest of the join's state after it.
        average: Digest of the moving average after it, None where none is kept.
    """
    sites: Mapping[str, Mapping[str, Any]] = record["sites"]
    join = config.get("join")
    unweighted = isinstance(join, Mapping) and join.get("name") in UNWEIGHTED
    total = len(sites) if unweighted else sum(site["num_samples"] for site in sites.values())
    attestation = record.get("attestation")
    return {
        **({} if attestation is None else {"attestation": attestation}),
        "plan": plan_digest(config),
        "round": record["round"],
        "before": before,
        "after": record["digest"],
        "frames": record["frames"],
        "join": join,
        "ema": config.get("ema"),
        "codec": config.get("codec"),
        "join_state": join_state,
        "average": average,
        "sites": {
            name: {
                "num_samples": site["num_samples"],
                "num_steps": site["num_steps"],
                "weight": (1 if unweighted else site["num_samples"]) / total,
                "frames": site["frames"],
                "update": site["update"],
            }
            for name, site in sites.items()
        },
        "left_out": dict(record["left_out"]),
        "refused": dict(record["refused"]),
    }


def disagreements(ledger: Ledger, record: Mapping[str, Any]) -> Iterator[str]:
    """Where a ledger says another thing than ``run.json``; nothing where they agree.

    Lines beyond those that the record counts are of a round that it does not have yet: a kill came
    between the two, and the run drops them when it is resumed.

    Args:
        ledger: With an intact chain.
        record: The content of ``run.json``.
    """
    kept = record.get("ledger")
    if kept is None:
        yield "run.json has no ledger head: the run was made before there were ledgers"
        return
    if len(ledger.lines) < kept["lines"]:
        yield f"{len(ledger.lines)} lines, expected {kept['lines']} as in run.json"
        return
    known = ledger.upto(kept["lines"])
    start = known.lines[0].body
    yield from _differences(1, start, _start_of(record, start["round"]))
    rounds: Sequence[Mapping[str, Any]] = record["rounds"]
    for number, line in enumerate(known.lines, 1):
        if line.kind == "round":
            index = line.body["round"] - 1
            found = rounds[index] if index < len(rounds) else {}
            yield from _differences(number, line.body, _of_round(found))
            yield from _unattested(number, line.body)
    if known.head != kept["head"]:
        yield f"its head is {known.head[:12]}, expected {kept['head'][:12]} as in run.json"
    last = known.rounds[-1]["round"] if known.rounds else start["round"]
    if last != len(rounds):
        yield f"its last round is {last}, expected {len(rounds)} as in run.json"
    if (plan := plan_digest(record["config"])) != known.lines[-1].body.get("plan", plan):
        yield f"line {len(known.lines)}: another plan than the config in run.json"


def _start_of(record: Mapping[str, Any], round_: int) -> dict[str, Any]:
    models = [record["initial"], *record["rounds"]]
    return {"after": models[round_]["digest"] if round_ < len(models) else None}


def _of_round(record: Mapping[str, Any]) -> dict[str, Any]:
    """What a round's line repeats of the record."""
    sites = record.get("sites", {})
    return {
        "after": record.get("digest"),
        "frames": record.get("frames"),
        "attestation": record.get("attestation"),
        "sites": {
            name: {key: site.get(key) for key in ("num_samples", "num_steps", "frames", "update")}
            for name, site in sites.items()
        },
    }


def _unattested(number: int, line: Mapping[str, Any]) -> Iterator[str]:
    """Sites of an attested round without a verdict, and verdicts by different policies."""
    attestation: Mapping[str, Any] | None = line.get("attestation")
    if attestation is None:
        return
    verdicts = {
        site: [own[key] for key in ("aggregator", "site") if own.get(key) is not None]
        for site in line.get("sites", {})
        for own in (attestation.get(site) or {},)
    }
    for site, found in verdicts.items():
        if not found:
            yield f"line {number}: {site} has no verdict on the aggregator, expected one"
        elif not attestation[site].get("signed"):
            yield f"line {number}: {site}'s verdict is not signed, expected its signature's SHA-256"
    policies = {verdict["policy"] for found in verdicts.values() for verdict in found}
    if len(policies) > 1:
        yield f"line {number}: verdicts by {len(policies)} policies, expected one"


def _differences(
    number: int, line: Mapping[str, Any], expected: Mapping[str, Any]
) -> Iterator[str]:
    for key, value in expected.items():
        found = line.get(key)
        if key == "sites" and isinstance(found, Mapping):
            found = {
                name: {k: v for k, v in site.items() if k != "weight"}
                for name, site in found.items()
            }
        if found != value:
            yield f"line {number}: {key} is {found!r:.70}, but run.json has {value!r:.70}"
