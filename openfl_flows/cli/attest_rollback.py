"""attest rollback: the signers' word that an attested federation may go back, and why."""

import argparse
from pathlib import Path
from typing import Any


def add_rollback(below: Any) -> None:
    """Add the command to those of ``attest``."""
    text = "sign that a federation may go back to a round: without it, sites refuse one that does"
    rollback = below.add_parser("rollback", help=text, description=text)
    text = "a party's; attestation/rollback.json and .sig in it are for every site's"
    rollback.add_argument("workspace", metavar="WORKSPACE", type=Path, help=text)
    text = "rounds that the federation has behind it there"
    rollback.add_argument("--to-round", required=True, type=int, metavar="N", help=text)
    text = "of the model after them; at the aggregator, that of its run by default"
    rollback.add_argument("--digest", metavar="SHA256", help=text)
    rollback.add_argument("--why", required=True, metavar="TEXT", help="a line for all to read")
    rollback.add_argument("--key", required=True, type=Path, metavar="FILE", help="a signer's")
    rollback.set_defaults(run=_rollback)


def _rollback(options: argparse.Namespace) -> None:
    from openfl_flows.attestation.rollback import SIGNATURES, STATEMENT, Rollback, sign_rollback
    from openfl_flows.release.keys import read_private
    from openfl_flows.taskrunner.workspace import read_workspace

    said = Rollback(
        federation=read_workspace(options.workspace).hash,
        to_round=options.to_round,
        digest=(options.digest or _digest(options.workspace, options.to_round)).lower(),
        reason=options.why,
    )
    digest = sign_rollback(options.workspace, said, read_private(options.key))
    print(f"statement SHA-256 {digest}")
    print(f"written {options.workspace / STATEMENT}, {options.workspace / SIGNATURES}")


def _digest(workspace: Path, round_: int) -> str:
    """Digest of the model after so many rounds of the aggregator's run."""
    from openfl_flows.ops.record import read_record, run_in

    run = run_in(workspace)
    record = read_record(run)
    models = [record["initial"], *record["rounds"]]
    if not 0 <= round_ < len(models):
        raise ValueError(f"--to-round {round_}: {run} has {len(models) - 1} rounds")
    return str(models[round_]["digest"])
