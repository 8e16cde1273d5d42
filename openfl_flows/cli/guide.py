"""guide: molecules drawn toward targets, their distance to them measured without the regressor."""

import argparse
import csv
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

from openfl_flows.cli.results import drawing_task

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from openfl_flows.data.molecule_sites import SiteMolecules
    from openfl_flows.learners.digress_guidance import Drawn, Pull
    from openfl_flows.learners.digress_state import Networks
    from openfl_flows.report.judgement import Judge


def add_guide(commands: Any) -> None:
    """Add the command to a parser's."""
    text = "measure what guidance gains: errors by labels and GFN2-xTB, against unguided molecules"
    command = commands.add_parser("guide", help=text, description=text)
    command.add_argument("run_directory", metavar="RUN", type=Path)
    command.add_argument("--weights", choices=("model", "ema", "best"), default="model")
    command.add_argument(
        "--targets", default="100", metavar="NUM|FILE",
        help="test molecules whose pairs are wanted (100), or a CSV with the columns mu (D) and "
        "homo (eV); an empty cell leaves one free",
    )  # fmt: skip
    command.add_argument("--num-per-target", type=int, default=10, help="molecules of each (10)")
    command.add_argument(
        "--strengths", default="1,3,10", help="of the selection among candidates (1,3,10)"
    )
    command.add_argument("--gradient", default="", help="of the published gradient, too, e.g. 10")
    command.add_argument("--aims", default="both", help="both,mu,homo: what is guided (both)")
    command.add_argument("--candidates", type=int, default=8, help="of a selection (8)")
    command.add_argument("--steps", type=int, help="denoising steps (all)")
    command.add_argument("--batch-size", type=int, default=128)
    command.add_argument("--seed", type=int, default=0)
    command.add_argument("--table", type=Path, help="labels to look up, in QM9's columns")
    command.add_argument("--xtb", action="store_true", help="measure with GFN2-xTB (needs tblite)")
    command.add_argument(
        "--calibrate", type=int, default=500, help="molecules for xTB's line (500)"
    )
    command.add_argument("--cache", type=Path, help="CSV of xTB's values (OUT/xtb.csv)")
    command.add_argument("--workers", type=int, default=1, help="processes of xTB (1)")
    command.add_argument("--out", type=Path, required=True, help="folder to write to")
    command.set_defaults(run=_guide)


def _guide(options: argparse.Namespace) -> None:
    from openfl_flows.atomic import write_atomically
    from openfl_flows.learners.digress_guidance import Pull, choose_targets
    from openfl_flows.report.guidance import (
        Measured,
        markdown,
        molecules_png,
        picture,
        table_csv,
    )
    from openfl_flows.report.judgement import judge

    for name in ("num_per_target", "batch_size", "workers"):
        if getattr(options, name) < 1:
            key = name.replace("_", "-")
            raise ValueError(f"--{key} is {getattr(options, name)}, expected at least 1")
    pulls = [Pull(), *_pulls(options)]
    networks, molecules = _model(options)
    asked = options.targets
    targets = (
        choose_targets(molecules, int(asked), options.seed)
        if asked.isdigit()
        else _read_targets(Path(asked))
    )
    source = judge(
        options.table,
        xtb=(options.cache or options.out / "xtb.csv") if options.xtb else None,
        calibrate_on=options.calibrate,
        workers=options.workers,
    )
    options.out.mkdir(parents=True, exist_ok=True)
    cells: list[Measured] = []
    for pull, drawn in _draws(options, networks, molecules, pulls, targets):
        errors, found = source.errors(drawn.smiles, drawn.opinion, targets)
        cells.append(Measured(pull=pull, quality=drawn.quality, found=found, errors=errors))
        text = _molecules_csv(drawn, targets, source)
        write_atomically(options.out / f"{pull.name}.csv", text.encode())
        drawing = molecules_png(drawn.smiles, targets, source)
        if drawing is not None:
            write_atomically(options.out / f"{pull.name}.png", drawing)
        print(f"{pull.name}: validity {drawn.quality.validity:.3f}", flush=True)
        # After each set: a run that is killed leaves what it has measured.
        write_atomically(options.out / "table.md", f"{markdown(cells)}\n{source.note()}".encode())
        write_atomically(options.out / "table.csv", table_csv(cells).encode())
        write_atomically(options.out / "errors.svg", picture(cells))
    print(markdown(cells))
    print(source.note())
    print(f"written to {options.out}")


def _pulls(options: argparse.Namespace) -> "list[Pull]":
    from openfl_flows.learners.digress_guidance import Pull

    aims = options.aims.split(",")
    for aim in aims:
        if aim not in ("both", "mu", "homo"):
            raise ValueError(f"--aims has {aim!r}, expected both, mu or homo")
    ways: tuple[tuple[Any, str, str], ...] = (
        ("selection", "--strengths", options.strengths),
        ("gradient", "--gradient", options.gradient),
    )
    found = [
        Pull(way=way, strength=_strength(key, word), aim=aim)
        for way, key, text in ways
        for aim in aims
        for word in filter(None, text.split(","))
    ]
    # The unguided molecules are drawn anyway.
    return [pull for pull in found if pull.strength]


def _strength(key: str, word: str) -> float:
    try:
        value = float(word)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise ValueError(f"{key} has {word!r}, expected numbers of at least 0, comma-separated")
    return value


def _read_targets(path: Path) -> "NDArray[np.float64]":
    import numpy as np

    from openfl_flows.data.table import read_rows

    content = path.read_bytes()
    rows = read_rows(path, content, required=("mu", "homo"))
    targets = np.array([[row.number("mu"), row.number("homo")] for row in rows])
    if not len(targets):
        raise ValueError(f"{path}: no targets, expected at least one row")
    return targets


def _model(options: argparse.Namespace) -> "tuple[Networks, SiteMolecules]":
    from openfl_flows.ops.run import RunDirectory

    run = RunDirectory.open(options.run_directory)
    task = drawing_task(run)
    weights = {"model": run.model, "ema": run.average, "best": run.best_model}
    state = weights[options.weights]()
    if state is None:
        raise ValueError(f"--weights is {options.weights}, but {run.path} keeps no such model")
    return task.networks(state), task.pooled_molecules()


def _draws(
    options: argparse.Namespace, networks: "Networks", molecules: "SiteMolecules",
    pulls: "list[Pull]", targets: "NDArray[np.float64]",
) -> Any:  # fmt: skip
    from openfl_flows.learners.digress_guidance import draw_toward, regressor_variance

    variance = regressor_variance(networks, molecules)
    for pull in pulls:
        yield pull, draw_toward(
            networks, pull, targets, per_target=options.num_per_target, variance=variance,
            candidates=options.candidates, steps=options.steps, batch_size=options.batch_size,
            seed=options.seed,
        )  # fmt: skip


def _molecules_csv(drawn: "Drawn", targets: "NDArray[np.float64]", source: "Judge") -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    columns = ("target_mu", "target_homo", "smiles", "regressor_mu", "regressor_homo")
    writer.writerow((*columns, *source.columns()))
    per_target = len(drawn.smiles) // len(targets)
    for i, (smiles, opinion) in enumerate(zip(drawn.smiles, drawn.opinion, strict=True)):
        target = targets[i // per_target]
        numbers = [f"{v:.4f}" for v in (*target, *opinion)]
        writer.writerow((*numbers[:2], smiles or "", *numbers[2:], *source.row(smiles)))
    return buffer.getvalue()
