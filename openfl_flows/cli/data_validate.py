"""openfl-flows data validate: a site's own data against the schema that the plan agrees on."""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def add_validate(actions: Any) -> None:
    """Add the action to those of ``data``."""
    text = "hold a site's data against the plan's schema: validate [KEY=VALUE ...] FOLDER|FILE"
    command = actions.add_parser("validate", help=text, description=text)
    command.add_argument("words", nargs="+", metavar="KEY=VALUE ... FOLDER|FILE")
    command.add_argument("--site", required=True, metavar="NAME", help="whose data they are")
    command.add_argument(
        "--workspace", type=Path, metavar="DIR", help="take the plan of a workspace, not KEY=VALUE"
    )
    command.add_argument(
        "--out", type=Path, default=Path("logs"), metavar="DIR",
        help="gets validation.csv, which stays at the site, and card.json, which may leave it "
        "(logs)",
    )  # fmt: skip
    command.set_defaults(run=_validate)


def _validate(options: argparse.Namespace) -> None:
    from openfl_flows.data.schema.kinds import FILE_KINDS
    from openfl_flows.data.schema.validate import CARD, DETAILS, examine, refusal_line
    from openfl_flows.experiment import schema_of, site_names
    from openfl_flows.learners.base import check_site

    keys = [word for word in options.words if "=" in word]
    places = [word for word in options.words if "=" not in word]
    if len(places) != 1:
        raise ValueError(
            f"data validate got {len(places)} folders, expected KEY=VALUE ... FOLDER|FILE"
        )
    config = _plan(keys, options.workspace)
    check_site(options.site, site_names(config["federation"]["sites"]))
    schema = schema_of(config)
    if schema is None:
        raise ValueError("schema=none: the plan agrees on nothing, expected another schema")
    card, counts = examine(schema, Path(places[0]), options.out)
    meaning = {**schema.kinds, **FILE_KINDS}
    for kind in sorted(counts, key=lambda kind: -counts[kind]):
        print(f"{counts[kind]:9,d}  {kind:18s} {meaning[kind]}")
    for group, numbers in card.counts.items():
        if group != "findings":
            print(f"{group:>9}  {' '.join(f'{name} {n:,}' for name, n in numbers.items() if n)}")
    print(f"details, which stay here: {options.out / DETAILS}")
    print(f"counts, which may leave, down to multiples of {card.floor}: {options.out / CARD}")
    print(f"schema {card.schema} {card.schema_digest}")
    print(f"card {card.digest}")
    if not card.fits:
        raise ValueError(refusal_line(schema, card, counts, options.out))


def _plan(keys: list[str], workspace: Path | None) -> Mapping[str, Any]:
    if workspace is None:
        from openfl_flows.cli.plan import compose

        return compose(keys)
    from openfl_flows.taskrunner.workspace import read_workspace

    if keys:
        raise ValueError(f"{keys[0]} with --workspace, expected the one or the other")
    return read_workspace(workspace).config
