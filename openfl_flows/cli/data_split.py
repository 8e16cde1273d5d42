"""openfl-flows data split-key, split, clusters, conformance: parts by the parties' key."""

import argparse
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from openfl_flows.data.blind.config import SplitConfig
    from openfl_flows.data.blind.files import Assigned


def add_split(actions: Any) -> None:
    """Add the commands to a parser's."""
    text = "draw the key of a blind split, at one party; the others get it by a safe way"
    command = actions.add_parser("split-key", help=text, description=text)
    command.add_argument("file", metavar="FILE", type=Path, help="a new file, for its owner alone")
    command.set_defaults(run=_split_key)

    text = "the part of each molecule, protein or structure by the parties' key; shows counts only"
    command = actions.add_parser("split", help=text, description=text)
    command.add_argument(
        "source", metavar="IN", type=Path, help=".csv, .smi, .fasta [.gz], or a prepared set"
    )
    command.add_argument("target", metavar="OUT.csv", type=Path, help="line, name, part, reason")
    command.add_argument("--smiles-column", default="smiles", help="of a table of molecules")
    command.add_argument(
        "--measure", action="store_true",
        help="how many near duplicates are in different parts, beside a random split",
    )  # fmt: skip
    command.add_argument(
        "--ask", type=int, default=2000, metavar="N",
        help="of --measure: molecules whose neighbours are looked for, drawn at random",
    )  # fmt: skip
    _add_agreed(command)
    command.set_defaults(run=_split)

    text = "clusters of public proteins, a table for split.clusters, equal at all parties"
    command = actions.add_parser("clusters", help=text, description=text)
    command.add_argument("source", metavar="PUBLIC.fasta", type=Path, help="alike at all parties")
    command.add_argument("target", metavar="OUT.csv", type=Path, help="protein, cluster")
    command.add_argument("--identity", type=float, default=0.3, help="of like sequences")
    command.set_defaults(run=_clusters)

    text = "one digest of the whole pipeline with this party's key on a public reference"
    command = actions.add_parser("conformance", help=text, description=text)
    command.add_argument("--expect", metavar="DIGEST", help="fail if it is another, and say why")
    _add_agreed(command)
    command.set_defaults(run=_conformance)


def _add_agreed(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--workspace", type=Path, metavar="DIR", default=Path(),
        help="whose plan says how to split, and where its key is (default: this folder)",
    )  # fmt: skip
    command.add_argument(
        "--set", nargs="+", default=(), metavar="KEY=VALUE",
        help="without a workspace: keys of plan/split/blind.yaml, such as rings=2",
    )  # fmt: skip
    command.add_argument("--key", type=Path, metavar="FILE", help="the key, if it is elsewhere")


def _agreed(options: argparse.Namespace) -> "SplitConfig":
    """What the plan says, or the command line."""
    from openfl_flows.cli.plan import compose
    from openfl_flows.data.blind.config import KEY_FILE, SplitConfig
    from openfl_flows.experiment import check
    from openfl_flows.taskrunner.workspace import PLAN, read_workspace

    folder = options.workspace
    if (folder / PLAN).is_file():
        if options.set:
            raise ValueError(f"--set {' '.join(options.set)}: {folder / PLAN} says how to split")
        found = read_workspace(folder).config.get("split") or {}
        split: SplitConfig = check("split", SplitConfig, found)
        if not split.blind:
            raise ValueError(
                f"{folder / PLAN} has no blind split, expected split=blind in its plan"
            )
        split = replace(
            split,
            key_file=str(folder / split.key_path),
            clusters=None if split.clusters is None else str(folder / split.clusters),
        )
    else:
        keys = [f"split.{override}" for override in options.set]
        composed = compose(["split=blind", f"split.key_file={KEY_FILE}", *keys])["split"]
        split = check("split", SplitConfig, composed)
    return split if options.key is None else replace(split, key_file=str(options.key))


def _split_key(options: argparse.Namespace) -> None:
    from openfl_flows.data.blind.folds import commitment
    from openfl_flows.data.blind.key_file import write_key

    print(f"{options.file}: key {commitment(write_key(options.file))}")


def _split(options: argparse.Namespace) -> None:
    from openfl_flows.data.blind.files import assign, kind_of, write_parts
    from openfl_flows.data.blind.split import BlindSplit

    kind = kind_of(options.source)
    split = BlindSplit.open(_agreed(options))
    assigned = list(assign(options.source, split, options.smiles_column))
    write_parts(options.target, assigned)
    counts = Counter(row.part or "in no part" for row in assigned)
    for part in ("train", "val", "test", "in no part"):
        print(f"{counts[part]:9,d}  {part}")
    print(f"key {split.commitment}; details, which stay here: {options.target}")
    if options.measure:
        _measure(kind, assigned, options.ask)


def _measure(kind: str, assigned: "list[Assigned]", ask: int) -> None:
    import numpy as np

    from openfl_flows.data.blind import leakage
    from openfl_flows.seeds import derived_seed

    if kind == "structures":
        raise ValueError("--measure: structures have no near duplicates to count, expected others")
    what = [row.what for row in assigned]
    if kind == "molecules":
        order = np.random.default_rng(derived_seed("ask")).permutation(len(what))
        asked = sorted(order[:ask].tolist())
        pairs = leakage.near_molecules(what, asked)
    else:
        asked = list(range(len(what)))
        pairs = leakage.near_proteins(what)
    found = leakage.measure(pairs, [row.part for row in assigned], asked)
    print(f"{found.asked:,} {kind} have {found.pairs:,} near duplicates; in another part are")
    print(f"{found.crossing:9.2%}  of them, {found.random_crossing:.2%} in a random split")
    print(f"{found.leaking:9.2%}  of the {kind} have one, {found.random_leaking:.2%} then")


def _clusters(options: argparse.Namespace) -> None:
    from openfl_flows.data.blind.proteins import write_clusters

    number, digest = write_clusters(options.source, options.target, options.identity)
    print(f"{options.target}: {number:,} clusters; split.clusters_sha256={digest}")


def _conformance(options: argparse.Namespace) -> None:
    from openfl_flows.data.blind.conformance import check_conformance, conformance_digest
    from openfl_flows.data.blind.key_file import read_key

    split = _agreed(options)
    digest = conformance_digest(split, read_key(split.key_path))
    print(digest)
    if options.expect is not None:
        check_conformance(digest, options.expect)
