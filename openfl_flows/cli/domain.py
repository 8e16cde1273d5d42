"""domain: sketches of what the sites trained on, and distances of molecules or proteins from it."""

import argparse
import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from openfl_flows.data.domain.calibration import Calibration
    from openfl_flows.data.domain.parts import Item


def add_domain(commands: Any) -> None:
    """Add the command to a parser's."""
    text = "how far molecules or proteins are from what the sites trained on"
    actions = commands.add_parser("domain", help=text, description=text).add_subparsers(
        metavar="ACTION", required=True
    )
    text = "a site's sketch: keyed hashes of parts that many of its training items have"
    sketch = actions.add_parser("sketch", help=text, description=text)
    sketch.add_argument("data", metavar="FILE", type=Path, help="CSV with smiles, SMILES or FASTA")
    sketch.add_argument("--key", required=True, type=Path, help="the sites' secret")
    sketch.add_argument("--out", required=True, type=Path, help="the sketch, JSON")
    sketch.add_argument("--where", metavar="COLUMN=VALUE", help="only these rows, e.g. SET=train")
    sketch.add_argument("--floor", type=int, default=10, help="items that have a part, least (10)")
    sketch.add_argument("--keep", type=int, default=65_536, help="most hashes (65,536)")
    sketch.add_argument("--word", type=int, default=4, help="residues of proteins' words (4)")
    sketch.set_defaults(run=_sketch)

    text = "the sketch of all sites together; needs no key"
    merge = actions.add_parser("merge", help=text, description=text)
    merge.add_argument("sketches", nargs="+", type=Path, metavar="SKETCH")
    merge.add_argument("--out", required=True, type=Path, help="the sketch, JSON")
    merge.set_defaults(run=_merge)

    text = "each item's distance from a sketch, and whether it is inside the radius"
    distance = actions.add_parser("distance", help=text, description=text)
    distance.add_argument("data", metavar="FILE", type=Path, help="as for sketch")
    distance.add_argument("--sketch", required=True, type=Path, help="of one site or of all")
    distance.add_argument("--key", required=True, type=Path, help="the sites' secret")
    distance.add_argument("--where", metavar="COLUMN=VALUE", help="only these rows")
    distance.add_argument("--radius", type=float, help="largest distance inside (the sketch's)")
    distance.add_argument(
        "--errors", metavar="COLUMN", help="of the table: errors to hold against the distances"
    )
    distance.add_argument("--out", type=Path, help="write line, name, distance, inside to this CSV")
    distance.set_defaults(run=_distance)


def _sketch(options: argparse.Namespace) -> None:
    from openfl_flows.data.blind.key_file import read_key
    from openfl_flows.data.domain.parts import kind_of
    from openfl_flows.data.domain.sketch import make_sketch, write_sketch

    secret = read_key(options.key)
    kind = kind_of(options.data)
    items = _items(options, options.word)
    made = make_sketch(
        (item.parts for item in items if item.parts is not None), secret,
        kind=kind, word=options.word if kind == "proteins" else 0,
        floor=options.floor, keep=options.keep,
    )  # fmt: skip
    digest = write_sketch(options.out, made)
    unread = sum(item.parts is None for item in items)
    print(f"{len(items) - unread} {kind}" + (f", {unread} cannot be read" if unread else ""))
    print(f"{len(made.hashes)} hashes of parts that at least {made.floor} of them have")
    print(f"radius {made.radius:.2f}")
    print(f"written {options.out}, digest {digest[:16]}: this file, and nothing else, leaves")


def _merge(options: argparse.Namespace) -> None:
    from openfl_flows.data.domain.sketch import merge_sketches, read_sketch, write_sketch

    merged = merge_sketches([read_sketch(path) for path in options.sketches])
    digest = write_sketch(options.out, merged)
    print(f"{merged.sites} sites, {len(merged.hashes)} hashes, radius {merged.radius:.2f}")
    print(f"written {options.out}, digest {digest[:16]}")


def _distance(options: argparse.Namespace) -> None:
    from openfl_flows.data.blind.key_file import read_key
    from openfl_flows.data.domain.calibration import calibrate
    from openfl_flows.data.domain.parts import kind_of
    from openfl_flows.data.domain.sketch import distances, read_sketch

    secret, sketch = read_key(options.key), read_sketch(options.sketch)
    if kind_of(options.data) != sketch.kind:
        raise ValueError(
            f"{options.data} is a file of {kind_of(options.data)}, expected {sketch.kind} as in "
            f"{options.sketch}"
        )
    items = _items(options, sketch.word)
    found = distances((item.parts for item in items), sketch, secret)
    radius = sketch.radius if options.radius is None else options.radius
    errors = _errors(items, options.errors, options.data) if options.errors else None
    known = found[found == found]
    if not len(known):
        raise ValueError(f"{options.data}: no item has enough parts that the sketch speaks of")
    if options.out is not None:
        _write(options.out, items, found, radius)
        print(f"written {options.out}")
    print(f"{len(items)} {sketch.kind}, {len(items) - len(known)} without a distance")
    low, middle, high = (float(x) for x in _quantiles(known))
    print(f"distance: median {middle:.3f} (5 to 95 %: {low:.3f} to {high:.3f})")
    print(f"inside the radius {radius:.2f}: {100 * float((known <= radius).mean()):.1f} %")
    if errors is not None:
        _show(calibrate(found, errors, radius))


def _items(options: argparse.Namespace, word: int) -> list["Item"]:
    from openfl_flows.data.domain.parts import read_items

    where = None
    if options.where is not None:
        column, equals, value = options.where.partition("=")
        if not (column and equals):
            raise ValueError(f"--where is {options.where!r}, expected COLUMN=VALUE")
        where = column, value
    try:
        items = list(read_items(options.data, word=word, where=where))
    except FileNotFoundError:
        raise ValueError(f"{options.data}: no such file") from None
    if not items:
        raise ValueError(f"{options.data}: no items, expected at least one")
    return items


def _errors(items: Sequence["Item"], column: str, path: Path) -> "NDArray[np.float64]":
    import numpy as np

    from openfl_flows.data.table import Row

    if column not in items[0].cells:
        have = ", ".join(items[0].cells)
        raise ValueError(f"{path}: no column {column!r}; the columns are {have}")
    return np.array([Row(path, item.line, item.cells).number(column) for item in items])


def _quantiles(known: "NDArray[np.float64]") -> Sequence[float]:
    import numpy as np

    return [float(value) for value in np.quantile(known, (0.05, 0.5, 0.95))]


def _write(
    path: Path, items: Sequence["Item"], found: "NDArray[np.float64]", radius: float
) -> None:
    from openfl_flows.atomic import write_atomically

    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("line", "name", "distance", "inside"))
    for item, value in zip(items, found.tolist(), strict=True):
        known = value == value
        told = (f"{value:.4f}", str(value <= radius).lower()) if known else ("", "")
        writer.writerow((item.line, item.name, *told))
    write_atomically(path, text.getvalue().encode())


def _show(found: "Calibration") -> None:
    low, high = found.spearman_interval
    print(f"Spearman of distance and error, {found.num} items: {found.spearman:+.3f} "
          f"(95 % CI {low:+.3f} to {high:+.3f})")  # fmt: skip
    low, high = found.ratio_interval
    print(f"mean error inside {found.error_inside:.4g}, outside {found.error_outside:.4g}; "
          f"ratio's 95 % CI {low:.2f} to {high:.2f}")  # fmt: skip
