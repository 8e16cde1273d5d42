"""evaluate: how good molecules in a file are, and how close to those of another."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from openfl_flows.metrics.distribution import MoleculeSet


def add_evaluate(commands: Any) -> None:
    """Add the command to a parser's."""
    text = "measure generated molecules in a file against real ones, as GuacaMol and MOSES do"
    command = commands.add_parser(
        "evaluate",
        help=text,
        description=f"{text}. Files are SMILES, one first on each line, or CSV with a column "
        "'smiles', plain or gzip-compressed; an empty SMILES in a CSV is an invalid molecule.",
    )
    command.add_argument("molecules", metavar="FILE", type=Path, help="generated molecules")
    command.add_argument(
        "--reference", metavar="FILE", type=Path, required=True, help="real ones, not trained on"
    )
    command.add_argument("--train", metavar="FILE", type=Path, help="real ones, trained on")
    command.add_argument(
        "--most", type=int, default=10_000, help="molecules to compare of each file (10,000)"
    )
    command.add_argument("--out", type=Path, help="write the figures to this CSV, too")
    command.set_defaults(run=_evaluate)


def _evaluate(options: argparse.Namespace) -> None:
    from openfl_flows.atomic import write_atomically
    from openfl_flows.metrics.distribution import MoleculeSet, compare, kl_divergences

    if options.most < 2:
        raise ValueError(f"--most is {options.most}, expected at least 2")
    written = _read(options.molecules)
    generated = MoleculeSet(written)
    if not len(generated):
        raise ValueError(f"{options.molecules}: none of {len(written)} molecules is valid")
    reference = _known(options.reference).subset(options.most)
    found = {
        "num_generated": float(len(written)),
        "validity": len(generated) / len(written),
        "uniqueness": len(generated.distinct) / len(generated),
    }
    train = None
    if options.train is not None:
        known = _known(options.train)
        novel = {*generated.distinct.smiles} - {*known.smiles}
        found["novelty"] = len(novel) / len(generated.distinct)
        train = known.subset(len(reference))
    measured = generated.subset(options.most)
    found |= compare(measured, reference, train)
    if "kl_score" in found:
        divergences = kl_divergences(measured, reference)
        found |= {f"kl_{name}": value for name, value in divergences.items()}
    for name, value in found.items():
        print(f"{name:>22}  {value:.4f}" if name[:4] != "num_" else f"{name:>22}  {value:.0f}")
    if options.out is not None:
        lines = ["metric,value", *(f"{name},{value!r}" for name, value in found.items())]
        write_atomically(options.out, "\n".join([*lines, ""]).encode())


def _known(path: Path) -> "MoleculeSet":
    from openfl_flows.metrics.distribution import MoleculeSet

    molecules = MoleculeSet(_read(path))
    if not len(molecules):
        raise ValueError(f"{path}: no molecule that RDKit reads")
    return molecules


def _read(path: Path) -> list[str]:
    from openfl_flows.data.table import stream_rows, stream_smiles

    table = ".csv" in path.suffixes
    rows = stream_rows(path, required=("smiles",)) if table else stream_smiles(path)
    found = [row.cells["smiles"] for row in rows]
    if not found:
        raise ValueError(f"{path}: no molecules, expected at least one")
    return found
