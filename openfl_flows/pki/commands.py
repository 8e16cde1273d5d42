"""``openfl-flows pki``: each command gives the lines to print."""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from openfl_flows.atomic import write_atomically
from openfl_flows.pki.authority import (
    LEAF_DAYS,
    ROOT_DAYS,
    create_authority,
    issue,
    read_certificate,
    renew_authority,
    sign_request,
)
from openfl_flows.pki.certificates import common_name, fingerprint, key_fingerprint, read_request
from openfl_flows.pki.check import MIN_DAYS, check_workspace
from openfl_flows.pki.files import PUBLIC, read
from openfl_flows.pki.party import CHAIN, install, make_request, read_certificates
from openfl_flows.pki.plan import parties_of, party_of

EPILOG = """\
the authority, once:            openfl-flows pki init CA
a party, new or in rotation:    openfl-flows pki request WORKSPACE --site NAME
  compare the key's SHA-256 by telephone, then
  the authority:                openfl-flows pki sign CA WORKSPACE REQUEST.csr --site NAME
  the party:                    openfl-flows pki install WORKSPACE REQUEST.pem --site NAME
  and restart that party alone. A company's own CA can sign the request as well.
a rehearsal on one machine:     openfl-flows pki issue CA WORKSPACE
"""


def add_pki(commands: Any) -> argparse.ArgumentParser:
    """Add ``pki`` to a parser's commands.

    Each of its commands sets ``lines``: a function of the parsed options that gives the lines to
    print, one after the other as they are known, and raises ValueError for what is wrong.

    Args:
        commands: What ``add_subparsers`` gave.

    Returns:
        The parser of ``pki``, for the caller's own defaults.
    """
    text = "certificates for mutual TLS: make, sign, install, check"
    parser: argparse.ArgumentParser = commands.add_parser(
        "pki",
        help=text,
        description=text,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    pki = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    init = pki.add_parser("init", help="make the federation's CA, in a folder of its own")
    init.add_argument("ca", metavar="CA", type=Path)
    init.add_argument("--days", type=int, default=ROOT_DAYS, help=f"of the root ({ROOT_DAYS})")
    init.set_defaults(lines=_init)

    renew = pki.add_parser("renew", help="a new year for the two CAs below the root")
    renew.add_argument("ca", metavar="CA", type=Path)
    renew.set_defaults(lines=_renew)

    rehearse = pki.add_parser("issue", help="keys and certificates in one go: for rehearsals")
    rehearse.add_argument("ca", metavar="CA", type=Path)
    rehearse.add_argument("workspace", metavar="WORKSPACE", type=Path)
    _add_party(rehearse, required=False)
    _add_days(rehearse)
    rehearse.set_defaults(lines=_issue)

    request = pki.add_parser("request", help="make a key, which stays here, and a request")
    request.add_argument("workspace", metavar="WORKSPACE", type=Path)
    _add_party(request)
    request.set_defaults(lines=_request)

    sign = pki.add_parser("sign", help="certify a party's request, under its name in the plan")
    sign.add_argument("ca", metavar="CA", type=Path)
    sign.add_argument("workspace", metavar="WORKSPACE", type=Path, help="with the plan")
    sign.add_argument("request", metavar="REQUEST", type=Path)
    _add_party(sign)
    _add_days(sign)
    sign.add_argument("-o", "--out", type=Path, help="file to write (beside the request: .pem)")
    sign.set_defaults(lines=_sign)

    take = pki.add_parser("install", help="check a certificate and take it into use")
    take.add_argument("workspace", metavar="WORKSPACE", type=Path)
    take.add_argument("certificate", metavar="CERTIFICATE", type=Path)
    _add_party(take)
    take.add_argument("--root", type=Path, help="trust these roots, and no others, from now on")
    take.set_defaults(lines=_install)

    check = pki.add_parser("check", help="list the certificates of a workspace, fail if unfit")
    check.add_argument("workspace", metavar="WORKSPACE", type=Path)
    check.add_argument(
        "--days", type=int, default=MIN_DAYS, help=f"each must still last ({MIN_DAYS})"
    )
    check.set_defaults(lines=_check)
    return parser


def _add_party(command: argparse.ArgumentParser, required: bool = True) -> None:
    party = command.add_mutually_exclusive_group(required=required)
    party.add_argument("--aggregator", action="store_true")
    party.add_argument("--site", metavar="NAME")


def _add_days(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--days", type=int, default=LEAF_DAYS, help=f"of the certificate ({LEAF_DAYS})"
    )


def _init(options: argparse.Namespace) -> Iterator[str]:
    for parent in (options.ca.resolve(), *options.ca.resolve().parents):
        if (parent / "plan" / "plan.yaml").exists():
            raise ValueError(f"{options.ca} is in the workspace {parent}, expected it elsewhere")
    create_authority(options.ca, days=options.days)
    yield f"CA in {options.ca}: keep {options.ca / 'private' / 'root.key'} offline"
    yield f"root SHA-256 {fingerprint(read_certificate(options.ca / 'root.crt'))}"


def _renew(options: argparse.Namespace) -> Iterator[str]:
    renew_authority(options.ca)
    yield f"CAs in {options.ca} renewed: certificates issued from now on last longer"


def _issue(options: argparse.Namespace) -> Iterator[str]:
    one = options.aggregator or options.site is not None
    for party in (
        [party_of(options.workspace, options.site)] if one else parties_of(options.workspace)
    ):
        issue(options.ca, options.workspace, party, days=options.days)
    yield from (str(standing) for standing in check_workspace(options.workspace, days=0))


def _request(options: argparse.Namespace) -> Iterator[str]:
    party = party_of(options.workspace, options.site)
    key = read_request(make_request(options.workspace, party))
    yield f"request {party.file(options.workspace, '.csr')}"
    yield f"key SHA-256 {key_fingerprint(key)}"


def _sign(options: argparse.Namespace) -> Iterator[str]:
    party = party_of(options.workspace, options.site)
    try:
        bundle, key = sign_request(
            options.ca, party, read(options.request, "a signing request"), days=options.days
        )
    except ValueError as error:
        raise ValueError(f"{options.request}: {error}") from None
    out = options.out or options.request.with_suffix(".pem")
    write_atomically(out, bundle, PUBLIC)
    yield f"certificate {out} of {party}"
    yield f"key SHA-256 {key_fingerprint(key)}: compare it with the party's"


def _install(options: argparse.Namespace) -> Iterator[str]:
    party = party_of(options.workspace, options.site)
    leaf = install(
        options.workspace,
        party,
        read(options.certificate, "a certificate"),
        roots=read(options.root, "a root") if options.root else None,
    )
    yield f"{party} installed until {leaf.not_valid_after_utc:%Y-%m-%d %H:%M} UTC: restart it"
    yield f"certificate SHA-256 {fingerprint(leaf)}"
    chain = options.workspace / CHAIN
    for root in read_certificates(chain.read_bytes(), str(chain)):
        yield f"trusts {common_name(root)}, SHA-256 {fingerprint(root)}: compare it with the CA's"


def _check(options: argparse.Namespace) -> Iterator[str]:
    found = check_workspace(options.workspace, days=options.days)
    yield from map(str, found)
    findings = [standing.finding for standing in found if standing.finding]
    if findings:
        more = f" (and {len(findings) - 1} more)" if len(findings) > 1 else ""
        raise ValueError(f"{findings[0]}{more}")
