"""deploy: what runs one party of a workspace in containers, on Kubernetes or under systemd."""

import argparse
from pathlib import Path
from typing import Any

from openfl_flows.deploy import KINDS


def add_deploy(commands: Any) -> None:
    """Add the command to a parser's."""
    text = "write what runs one party: Compose with an image, a Helm chart, or a systemd unit"
    deploy = commands.add_parser("deploy", help=text, description=text)
    deploy.add_argument("workspace", metavar="DIR", type=Path, help="the party's workspace")
    deploy.add_argument("--role", required=True, choices=("aggregator", "site"))
    deploy.add_argument("--site", metavar="NAME", help="of the site, with --role site")
    deploy.add_argument("--kind", required=True, choices=KINDS)
    deploy.add_argument("--out", required=True, type=Path, help="folder to write to")
    text = "where Python's environment is on the machine, with --kind systemd (/opt/openfl-flows)"
    deploy.add_argument("--prefix", metavar="DIR", help=text)
    deploy.set_defaults(run=_deploy)


def _deploy(options: argparse.Namespace) -> None:
    from openfl_flows.deploy.deployment import read_deployment
    from openfl_flows.deploy.render import write_deployment

    if options.role == "site" and options.site is None:
        raise ValueError("--role site without --site, expected --site NAME")
    if options.role == "aggregator" and options.site is not None:
        raise ValueError(f"--site={options.site} with --role aggregator, expected --role site")
    deployment = read_deployment(
        options.workspace, kind=options.kind, site=options.site, prefix=options.prefix
    )
    for file in write_deployment(deployment, options.kind, options.out):
        print(f"written {file}")
