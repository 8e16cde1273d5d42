"""openfl-flows tee: manifests of enclaves, written and looked at."""

import argparse
import sys
from collections import Counter
from pathlib import Path
from typing import Any

_SHOWN = 5
"""Findings of one rule that are printed; the rest is counted."""


def add_tee(commands: Any) -> None:
    """Add the command to a parser's."""
    text = "what a party runs in an enclave: its Gramine manifest, and what one lets a host do"
    tee = commands.add_parser("tee", help=text, description=text)
    actions = tee.add_subparsers(metavar="ACTION", required=True)
    text = "write a party's manifest: every file that it may load, by its hash"
    render = actions.add_parser("render", help=text, description=text)
    render.add_argument("workspace", metavar="WORKSPACE", type=Path, help="the party's workspace")
    render.add_argument("--role", required=True, choices=("aggregator", "collaborator"))
    render.add_argument("--name", metavar="SITE", help="of the site, with --role collaborator")
    text = "Python of the party's environment (this one)"
    render.add_argument("--python", metavar="PATH", type=Path, help=text)
    text = "folder with Gramine's libsysdb.so (/usr/lib/x86_64-linux-gnu/gramine)"
    render.add_argument("--gramine", metavar="DIR", type=Path, help=text)
    text = "security version: raised when older builds must no longer be let in (1)"
    render.add_argument("--isvsvn", metavar="N", type=int, default=1, help=text)
    text = (
        "key of what the party writes: _sgx_mrenclave (this very enclave on this machine) or party"
    )
    render.add_argument("--state-key", metavar="NAME", default="_sgx_mrenclave", help=text)
    text = "who gives the enclave the key of what comes encrypted (openfl-flows attest keep)"
    render.add_argument("--keeper", metavar="HOST:PORT", help=text)
    text = "the keeper's public key (openfl-flows release key)"
    render.add_argument("--keeper-key", metavar="FILE", type=Path, help=text)
    text = "for gramine-direct: 32 hexadecimal digits that stand in the manifest; never in earnest"
    render.add_argument("--test-key", metavar="HEX", help=text)
    render.add_argument("--out", metavar="FILE", type=Path, help="where to write (standard output)")
    render.set_defaults(run=_render)
    text = "what manifests or their templates let a host do; exit status 1 at a finding"
    lint = actions.add_parser("lint", help=text, description=text)
    lint.add_argument("manifest", nargs="+", type=Path, metavar="MANIFEST")
    lint.add_argument("--all", action="store_true", help=f"more than {_SHOWN} findings of a rule")
    text = "also read every measured file: it must be here, with the manifest's hash"
    lint.add_argument("--files", action="store_true", help=text)
    lint.set_defaults(run=_lint)


def _render(options: argparse.Namespace) -> None:
    from openfl_flows.atomic import write_atomically
    from openfl_flows.tee.plan import read_party
    from openfl_flows.tee.render import GRAMINE, Options, read_keeper_key, render

    party = read_party(options.workspace, role=options.role, site=options.name)
    text = render(
        party,
        Options(
            python=options.python or Path(sys.executable),
            gramine=options.gramine or GRAMINE,
            isvsvn=options.isvsvn,
            state_key=options.state_key,
            keeper=options.keeper,
            keeper_key=read_keeper_key(options.keeper_key) if options.keeper_key else None,
            test_key=options.test_key,
        ),
    )
    if options.out is None:
        sys.stdout.write(text)
    else:
        write_atomically(options.out, text.encode())
        print(f"written {options.out}: {text.count('sha256 = ')} measured files")


def _lint(options: argparse.Namespace) -> None:
    from openfl_flows.tee.lint import lint
    from openfl_flows.tee.lint_files import lint_contents
    from openfl_flows.tee.manifest import read_manifest

    total = 0
    for path in options.manifest:
        manifest = read_manifest(path)
        findings = [*lint(manifest), *(lint_contents(manifest) if options.files else ())]
        total += len(findings)
        seen: Counter[str] = Counter()
        for finding in findings:
            seen[finding.rule] += 1
            if options.all or seen[finding.rule] <= _SHOWN:
                print(f"{path}: {finding}")
        for rule, number in seen.items():
            if not options.all and number > _SHOWN:
                print(f"{path}: {rule}: {number - _SHOWN} more")
        print(f"{path}: {len(findings)} findings")
    if total:
        raise ValueError(f"{total} findings, expected none")
