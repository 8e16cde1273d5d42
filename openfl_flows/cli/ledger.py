"""ledger: the chain of a run's rounds, shown and verified."""

import argparse
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

EPILOG = """\
openfl-flows ledger show runs/qm9        who gave what to which round
openfl-flows ledger verify runs/qm9      recompute the chain, compare it with run.json
"""


def add_ledger(commands: Any) -> None:
    """Add the command to a parser's."""
    text = "the hash chain of a run's rounds: show it, verify it"
    ledger = commands.add_parser(
        "ledger",
        help=text,
        description=text,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    below = ledger.add_subparsers(title="commands", metavar="COMMAND", required=True)
    show = below.add_parser("show", help="a line for every round, and one for every site in it")
    show.set_defaults(run=_show)
    text = "recompute the chain, compare it with run.json, name the first line that is broken"
    verify = below.add_parser("verify", help=text)
    text = "a head that was kept elsewhere, which the chain must still go through"
    verify.add_argument("--head", metavar="SHA256", help=text)
    text = "of the sites' authority: verdicts must be signed by the sites' certificates"
    verify.add_argument("--roots", metavar="FILE", type=Path, help=text)
    verify.set_defaults(run=_verify)
    for command in (show, verify):
        command.add_argument("folder", metavar="DIR", type=Path, help="a run or a workspace")


def _show(options: argparse.Namespace) -> None:
    from openfl_flows.ops.ledger import LEDGER, read_ledger
    from openfl_flows.ops.record import run_in

    ledger = read_ledger(run_in(options.folder) / LEDGER)
    for line in ledger.lines:
        body = line.body
        made = f"model {body['after'][:12]}" if "after" in body else ""
        print(f"{line.time}  {line.kind:<6} {body.get('round', ''):>5}  {made}  line {line.hash}")
        for name, site in body.get("sites", {}).items():
            print(f"{'':>22}{name:<20} {_given(site)}")
            for who, verdict in _verdicts(body, name):
                print(f"{'':>22}{'':<20} {who}: {verdict}")
        for key, what in (("left_out", "left out"), ("refused", "refused")):
            for name, reason in body.get(key, {}).items():
                print(f"{'':>22}{name:<20} {what}: {reason}")


def _given(site: Mapping[str, Any]) -> str:
    sent = site["frames"] or site["update"]
    return f"{site['num_samples']} samples, weight {site['weight']:.4f}, sent {sent[:12] or '-'}"


def _verdicts(body: Mapping[str, Any], site: str) -> Iterator[tuple[str, str]]:
    found = (body.get("attestation") or {}).get(site) or {}
    for who in ("aggregator", "site"):
        if verdict := found.get(who):
            what = "attested the aggregator" if who == "aggregator" else "was attested"
            yield (
                f"{what} {verdict['time']}",
                f"{verdict['kind']} {verdict['measurement'][:12]}, {verdict['status']}, policy "
                f"{verdict['policy'][:12]}, evidence {verdict['evidence'][:12]}",
            )


def _verify(options: argparse.Namespace) -> None:
    from openfl_flows.ops.ledger import LEDGER, read_ledger
    from openfl_flows.ops.ledger_lines import disagreements
    from openfl_flows.ops.record import read_record, run_in

    run = run_in(options.folder)
    record, ledger = read_record(run), read_ledger(run / LEDGER)
    for difference in disagreements(ledger, record):
        raise ValueError(f"{run / LEDGER}: {difference}")
    known = ledger.upto(record["ledger"]["lines"])
    if options.head not in (None, *(line.hash for line in known.lines)):
        raise ValueError(
            f"{run / LEDGER}: no line has the hash {options.head}, expected one: the ledger is "
            "not the one that this head was of"
        )
    print(f"{len(known.rounds)} rounds, {len(known.lines)} lines: intact, as in run.json")
    print(f"head {known.head}")
    if attested := [body for body in known.rounds if body.get("attestation") is not None]:
        proofs = _proofs(run, attested, options.roots)
        print(f"{len(attested)} of {len(known.rounds)} rounds under verdicts on what runs there")
        print(proofs)
    else:
        print("no attestation: nobody has proved what ran at the aggregator")
    if len(ledger.lines) > len(known.lines):
        print("and a line of a round that run.json does not have: a resume writes it anew")


def _proofs(run: Path, attested: Sequence[Mapping[str, Any]], roots: Path | None) -> str:
    from openfl_flows.pki.files import read
    from openfl_flows.pki.party import read_certificates
    from openfl_flows.taskrunner.proofs import check_proofs

    trusted = None
    if roots is not None:
        trusted = read_certificates(read(roots, "the roots to trust"), str(roots))
    count = check_proofs(run, attested, trusted)
    if trusted is None:
        return f"{count} statements of sites are there; --roots FILE verifies their signatures"
    return f"{count} statements of sites: signed by them, and as the ledger has them"
