"""release: a model in a folder that N of M parties sign, and that is verified before it is used."""

import argparse
from pathlib import Path
from typing import Any

EPILOG = """\
each party, once:    openfl-flows release key a.key              send a.key.pub to the others
agreed on by all:    openfl-flows release signers signers.json --need 2 a=a.key.pub b=b.key.pub
whoever has the run: openfl-flows release make runs/qm9 --out RELEASE --signers signers.json
each party:          openfl-flows release sign RELEASE --key a.key --out a.sig
collected:           openfl-flows release collect RELEASE a.sig b.sig --signers signers.json
whoever uses it:     openfl-flows release verify RELEASE --signers signers.json
"""


def add_release(commands: Any) -> None:
    """Add the command to a parser's."""
    text = "make, sign and verify releases of a model"
    release = commands.add_parser(
        "release",
        help=text,
        description=text,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    below = release.add_subparsers(title="commands", metavar="COMMAND", required=True)

    key = below.add_parser("key", help="make a signer's key, and FILE.pub to send around")
    key.add_argument("file", metavar="FILE", type=Path)
    text = "ECDSA instead of Ed25519, for verifiers that know no other (model_signing)"
    key.add_argument("--kind", choices=("ed25519", "p256", "p384"), default="ed25519", help=text)
    key.set_defaults(run=_key)

    listing = below.add_parser("signers", help="write whose signatures count, and how many")
    listing.add_argument("file", metavar="FILE", type=Path)
    listing.add_argument("signers", metavar="NAME=KEY.pub", nargs="+")
    listing.add_argument("--need", type=int, required=True, metavar="M")
    listing.set_defaults(run=_signers)

    make = below.add_parser("make", help="write a release of a finished run")
    make.add_argument("folder", metavar="RUN", type=Path, help="a run directory or a workspace")
    make.add_argument("--out", required=True, type=Path, metavar="DIR")
    make.add_argument("--weights", choices=("model", "best", "ema"), default="model")
    make.add_argument("--evaluation", type=Path, metavar="FILE", help="an evaluation card")
    make.add_argument("--card", type=Path, nargs="+", default=[], metavar="FILE", help="of data")
    make.set_defaults(run=_make)

    sign = below.add_parser("sign", help="check a release and sign it")
    sign.add_argument("folder", metavar="DIR", type=Path)
    sign.add_argument("--key", required=True, type=Path, metavar="FILE")
    sign.add_argument("--out", type=Path, metavar="FILE", help="(DIR/signatures/NAME.sig)")
    text = "own local state (local_state/NAME), to hold against what the ledger says of the site"
    sign.add_argument("--site", type=Path, metavar="DIR", help=text)
    sign.set_defaults(run=_sign)

    collect = below.add_parser("collect", help="put signatures that came in into the release")
    collect.add_argument("folder", metavar="DIR", type=Path)
    collect.add_argument("signatures", metavar="FILE", type=Path, nargs="+")
    collect.set_defaults(run=_collect)

    verify = below.add_parser("verify", help="accept a release, or say why not")
    verify.add_argument("folder", metavar="DIR", type=Path)
    verify.add_argument("--need", type=int, metavar="M", help="more than the signers' file says")
    text = "manifest.json of a release accepted before, which this one must come after"
    verify.add_argument("--after", type=Path, metavar="FILE", help=text)
    verify.set_defaults(run=_verify)
    for command in (make, collect, verify):
        command.add_argument("--signers", required=True, type=Path, metavar="FILE")


def _key(options: argparse.Namespace) -> None:
    from openfl_flows.release.keys import fingerprint, make_key

    made = make_key(options.file, options.kind)
    print(f"written {options.file}: it never leaves you")
    print(f"written {options.file}.pub: send it to the others")
    print(f"key SHA-256 {fingerprint(made)}: compare it by telephone")


def _signers(options: argparse.Namespace) -> None:
    from openfl_flows.release.folder import read_document
    from openfl_flows.release.keys import Signers, fingerprint, read_public, write_signers

    keys = {}
    for word in options.signers:
        name, _, file = word.partition("=")
        if not file or name in keys:
            raise ValueError(f"{word}: expected NAME=KEY.pub, every name once")
        keys[name] = read_public(read_document(Path(file).resolve()), file)
    if options.file.exists():
        raise ValueError(f"{options.file} exists: an agreement is never replaced")
    signers = Signers(need=options.need, keys=keys)
    write_signers(options.file, signers)
    for name, key in signers.keys.items():
        print(f"{name:<20} key SHA-256 {fingerprint(key)}")
    print(f"written {options.file}: {signers.need} of {len(keys)} must sign")


def _make(options: argparse.Namespace) -> None:
    from openfl_flows.release.keys import read_signers
    from openfl_flows.release.make import make_release

    contents = make_release(
        options.folder,
        options.out,
        signers=read_signers(options.signers),
        weights=options.weights,
        evaluation=options.evaluation,
        cards=options.card,
    )
    _show(contents)
    print(f"written {options.out}: to be signed")


def _sign(options: argparse.Namespace) -> None:
    from openfl_flows.release.keys import read_private
    from openfl_flows.release.verify import sign_release

    key = read_private(options.key)
    path = sign_release(options.folder, key, out=options.out, site=options.site)
    print(f"written {path}")


def _collect(options: argparse.Namespace) -> None:
    from openfl_flows.release.keys import read_signers
    from openfl_flows.release.verify import collect_signature

    signers = read_signers(options.signers)
    for file in options.signatures:
        print(f"{file}: of {collect_signature(options.folder, file, signers)}")


def _verify(options: argparse.Namespace) -> None:
    from openfl_flows.release.keys import read_signers
    from openfl_flows.release.verify import verify_release

    signers = read_signers(options.signers)
    verified = verify_release(options.folder, signers, need=options.need, after=options.after)
    _show(verified.contents)
    print(f"signed by {', '.join(verified.signers)}; {signers.need} of {len(signers.keys)} needed")
    print(f"accepted: {verified.model}")


def _show(contents: Any) -> None:
    manifest = contents.manifest
    model, rounds = manifest["model"], contents.ledger.rounds
    sites = sorted({site for body in rounds for site in body["sites"]})
    print(f"model {model['digest']}  ({model['weights']} of round {model['round']})")
    print(f"plan {manifest['plan']['digest']}")
    print(f"ledger {manifest['ledger']['head']}  ({len(rounds)} rounds, sites {', '.join(sites)})")
