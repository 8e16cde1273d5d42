"""openfl-flows data: what a site does with its own data before any training."""

import argparse
import os
from pathlib import Path
from typing import Any

from openfl_flows.cli.data_split import add_split
from openfl_flows.cli.data_validate import add_validate


def add_data(commands: Any) -> None:
    """Add the command to a parser's."""
    text = "prepare and check a site's own structures"
    actions = commands.add_parser("data", help=text, description=text).add_subparsers(
        metavar="ACTION", required=True
    )
    text = "mmCIF or PDB files to a set for OpenFold3: each is accepted, repaired or refused"
    command = actions.add_parser("prepare", help=text, description=text)
    command.add_argument("source", metavar="IN", type=Path, help="folder of .cif, .pdb, .ent [.gz]")
    command.add_argument("target", metavar="OUT", type=Path, help="folder of the set")
    command.add_argument(
        "--ligands", metavar="FILE.csv|DIR", type=Path,
        help="what the site's ligands are: a table with the columns structure, code, smiles, or a "
        "folder of <structure>_<code>.sdf or <code>.sdf",
    )  # fmt: skip
    command.add_argument("--msa", metavar="DIR", type=Path, help="alignments, .a3m or .sto")
    command.add_argument("--date", metavar="YYYY-MM-DD", help="of structures that tell no date")
    command.add_argument(
        "--cluster", choices=("exact", "mmseqs"), default="exact",
        help="chains of one sequence (exact), or similar ones as MMseqs2 finds them",
    )  # fmt: skip
    command.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes")
    command.add_argument("--strict", action="store_true", help="fail if any structure is refused")
    command.set_defaults(run=_prepare)
    add_validate(actions)
    add_split(actions)


def _prepare(options: argparse.Namespace) -> None:
    from openfl_flows.data.structures.preflight_report import table
    from openfl_flows.data.structures.prepare import Preparation, prepare

    preparation = Preparation(
        source=options.source, target=options.target, ligands=options.ligands, msa=options.msa,
        date=options.date, cluster=options.cluster, workers=options.workers,
    )  # fmt: skip
    counts = prepare(preparation)
    for group, what, number in table(counts):
        print(f"{number:7d}  {group:9s} {what}")
    where = options.target / "preflight" / "site.md"
    print(f"details, which stay here: {where}")
    total, refused = counts["structures"], counts["outcomes"]["refused"]
    if refused == total:
        raise ValueError(f"no structure can be used, expected at least one of {total}: see {where}")
    if options.strict and refused:
        raise ValueError(f"--strict: {refused} of {total} structures are refused: see {where}")
