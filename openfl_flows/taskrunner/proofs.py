"""What a ledger says of attestation, held against what the sites have signed."""

import datetime as dt
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cryptography import x509

from openfl_flows.ops.standings import proof
from openfl_flows.strict_json import canonical
from openfl_flows.taskrunner.arrival import verified


def check_proofs(
    run: Path, rounds: Iterable[Mapping[str, Any]], roots: Sequence[x509.Certificate] | None
) -> int:
    """Look at the proofs of every attested round.

    Args:
        run: Run directory.
        rounds: The ledger's lines of rounds.
        roots: Who certified the sites; None to look only that each file is the one that is named.

    Returns:
        How many sites' statements there are.

    Raises:
        ValueError: A proof is missing or changed, not signed by its site at its time, or says
            another thing than the ledger.
    """
    # Sites arrive once in many rounds: their lines say the same until they arrive anew.
    first = {
        canonical([site, own]): (f"round {body['round']}", site, own)
        for body in reversed(list(rounds))
        for site, own in (body.get("attestation") or {}).items()
        if own is not None
    }
    for where, site, own in first.values():
        content = proof(run, own["signed"])
        proof(run, own["aggregator"]["evidence"])
        if roots is not None:
            _check_site(where, site, own, content, roots)
    return len({own["signed"] for _, _, own in first.values()})


def _check_site(
    where: str,
    site: str,
    own: Mapping[str, Any],
    content: bytes,
    roots: Sequence[x509.Certificate],
) -> None:
    verdict = own["aggregator"]
    try:
        at = dt.datetime.fromisoformat(verdict["time"])
        arrival = verified(content, site, None, roots, now=at)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    if canonical(arrival.verdict) != canonical(verdict):
        raise ValueError(f"{where}: {site} has signed another verdict than the ledger has")
    evidence = hashlib.sha256(arrival.evidence.encode()).hexdigest()
    if own["site"] is not None and own["site"]["evidence"] != evidence:
        raise ValueError(
            f"{where}: {site} showed evidence {evidence[:12]}, expected "
            f"{own['site']['evidence'][:12]} as the ledger has it"
        )
