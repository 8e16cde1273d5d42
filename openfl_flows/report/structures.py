"""Predicted structures on a page: a picture of each, and the same to turn and zoom.

The picture is taken along the direction in which the structure is thinnest. Chains are traced
through Cα, or P of a nucleotide; ligands are drawn with the bonds and by the elements of the file,
since a prediction's distances need not be those of bonds. A true structure, where there is one, is
grey, in the frame of its file.
"""

import base64
import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from biotite.file import InvalidFileError
from biotite.structure import AtomArray
from biotite.structure.io import pdbx
from markupsafe import Markup
from matplotlib.collections import LineCollection
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from numpy.typing import NDArray

from openfl_flows.atomic import write_atomically
from openfl_flows.report import curves

TRUE = "_true"
"""Ends the stem of the file that holds the truth of another."""

_TRUE_COLOR = "#8a94a2"
_ELEMENTS = {
    "C": "#464e5a", "N": "#265cc6", "O": "#d0342c", "S": "#be8c14", "P": "#d6761e",
    "F": "#1e8c5a", "CL": "#28963c", "BR": "#8c3c1e", "I": "#6e3296",
}  # fmt: skip
_OTHER_ELEMENT = "#785a78"
_TRACED = ("CA", "P")
_SHOWN = 12  # structures of a page; a browser draws no more than 16 at once


class StructureView(NamedTuple):
    """One structure as a page shows it.

    Attributes:
        name: Its name.
        picture: A PNG as a ``data:`` URI.
        parts: ``predicted`` and, where there is one, ``true``: what the viewer draws, as JSON.
        legend: The chains' colours.
        has_truth: Whether there is a true structure.
    """

    name: str
    picture: str
    parts: str
    legend: tuple[curves.Key, ...]
    has_truth: bool


def read_views(folder: Path) -> list[StructureView]:
    """The structures of ``ID.cif`` in a folder, each with its truth in ``ID_true.cif``.

    Raises:
        ValueError: A file cannot be read as mmCIF.
    """
    files = [f for f in sorted(folder.glob("*.cif")) if not f.stem.endswith(TRUE)]
    return [
        view(file.stem, read_structure(file), read_structure(true) if true.is_file() else None)
        for file in files[:_SHOWN]
        for true in [file.with_name(f"{file.stem}{TRUE}.cif")]
    ]


def read_structure(file: Path) -> AtomArray:
    """The first model of an mmCIF file, with bonds.

    Raises:
        ValueError: It cannot be read.
    """
    try:
        found = pdbx.CIFFile.read(file)
        # Under authors' names a ligand has the name of the chain that it is bound to.
        return pdbx.get_structure(found, model=1, include_bonds=True, use_author_fields=False)
    except (InvalidFileError, KeyError, ValueError, IndexError, UnicodeDecodeError) as error:
        raise ValueError(f"{file}: no structure in mmCIF: {error}") from None


def view(name: str, predicted: AtomArray, true: AtomArray | None = None) -> StructureView:
    """A structure for a page, beside the true one in the same frame."""
    parts = {"predicted": predicted} | ({} if true is None else {"true": true})
    chains = curves.colors(list(_traces(predicted)))
    described = {
        key: _described(atoms, chains if key == "predicted" else {}) for key, atoms in parts.items()
    }
    legend = [curves.Key(f"chain {chain}", color) for chain, color in chains.items()]
    legend += [] if true is None else [curves.Key("true structure", _TRUE_COLOR)]
    png = base64.b64encode(picture(predicted, true)).decode()
    return StructureView(
        name=name,
        picture=f"data:image/png;base64,{png}",
        # No markup can begin in it.
        parts=Markup(json.dumps(described, separators=(",", ":")).replace("<", "\\u003c")),
        legend=tuple(legend),
        has_truth=true is not None,
    )


def picture(predicted: AtomArray, true: AtomArray | None = None) -> bytes:
    """Draw a structure, and the true one behind it, as a PNG."""
    shown = predicted if true is None else true
    center, axes = _frame(shown.coord)
    figure = Figure(figsize=(7.2, 4.6), dpi=130)
    plot = figure.add_axes((0.01, 0.01, 0.98, 0.98))
    if true is not None:
        _draw(plot, true, center, axes, dict.fromkeys(_traces(true), _TRUE_COLOR), _TRUE_COLOR)
    _draw(plot, predicted, center, axes, curves.colors(list(_traces(predicted))), None)
    plot.set_aspect("equal")
    plot.autoscale_view()
    plot.set_axis_off()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", facecolor="white")
    return buffer.getvalue()


def viewer_scripts() -> tuple[Markup, ...]:
    """The scripts of a page that shows structures, in their order."""
    folder = resources.files("openfl_flows.report")
    files = (folder / "vendor" / "3Dmol-min.js", folder / "viewer.js")
    return tuple(Markup(file.read_text(encoding="utf-8")) for file in files)


def script_policy(scripts: Sequence[str]) -> str:
    """The content security policy's words that allow these scripts on a page, and no other."""
    digests = (hashlib.sha256(script.encode()).digest() for script in scripts)
    return " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)


def write_page(views: Sequence[StructureView], title: str, target: Path) -> None:
    """Write a page of structures that needs nothing else."""
    from openfl_flows.report.html import page_environment

    scripts = viewer_scripts()
    page = (
        page_environment()
        .get_template("structures.html.j2")
        .render(title=title, structures=views, scripts=scripts, policy=script_policy(scripts))
    )
    write_atomically(target, page.encode())


def _traces(atoms: AtomArray) -> dict[str, NDArray[np.intp]]:
    """Indices of the traced atoms of each polymer chain."""
    traced = ~atoms.hetero & np.isin(atoms.atom_name, _TRACED)
    return {
        str(chain): np.flatnonzero(traced & (atoms.chain_id == chain))
        for chain in dict.fromkeys(atoms.chain_id[traced].tolist())
    }


def _ligands(atoms: AtomArray) -> NDArray[np.bool_]:
    """Which atoms are drawn one by one: those of chains without a trace."""
    ligands: NDArray[np.bool_] = ~np.isin(atoms.chain_id, list(_traces(atoms)))
    return ligands


def _described(atoms: AtomArray, chains: Mapping[str, str]) -> dict[str, Any]:
    """What the viewer draws; positions in hundredths of Å."""
    places = np.rint(100 * atoms.coord).astype(int)
    elements = [str(element).capitalize() for element in atoms.element]
    bonds = np.zeros((0, 3), int) if atoms.bonds is None else atoms.bonds.as_array().astype(int)
    return {
        "atoms": {
            "element": elements,
            "name": atoms.atom_name.tolist(),
            "residue": atoms.res_name.tolist(),
            "number": atoms.res_id.tolist(),
            "chain": atoms.chain_id.tolist(),
            "ligand": _ligands(atoms).astype(int).tolist(),
            "place": places.ravel().tolist(),
            # Aromatic bonds and those to metals have numbers above 3.
            "bonds": [[i, j, order if 1 <= order <= 3 else 1] for i, j, order in bonds.tolist()],
        },
        "elements": {symbol: _element_color(symbol) for symbol in sorted(set(elements))},
        "traces": [
            {"color": chains.get(chain, _TRUE_COLOR), "points": places[trace].tolist()}
            for chain, trace in _traces(atoms).items()
        ],
    }


def _element_color(symbol: str) -> str:
    return _ELEMENTS.get(symbol.upper(), _OTHER_ELEMENT)


def _frame(coord: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """The centre and the principal axes, the longest first."""
    center = coord.mean(axis=0)
    axes = np.linalg.svd(coord - center, full_matrices=True)[2] if len(coord) > 2 else np.eye(3)
    # A mirror image would show the wrong hand.
    axes[2] *= np.sign(np.linalg.det(axes))
    return center, axes


def _draw(
    plot: Any,
    atoms: AtomArray,
    center: NDArray[Any],
    axes: NDArray[Any],
    chains: Mapping[str, str],
    color: str | None,
) -> None:
    """Add a structure to a plot: what is farther away is paler and lies behind."""
    seen = (atoms.coord - center) @ axes.T
    depth = (seen[:, 2] - seen[:, 2].min()) / max(float(np.ptp(seen[:, 2])), 1e-6)
    lines: list[tuple[float, NDArray[Any], str, float]] = []
    for chain, trace in _traces(atoms).items():
        pairs = np.stack([trace[:-1], trace[1:]], axis=1)
        lines += [(depth[p].mean(), seen[p, :2], chains[chain], 2.2) for p in pairs]
    ligands = _ligands(atoms)
    bonds = [] if atoms.bonds is None else atoms.bonds.as_array()[:, :2]
    for i, j in bonds:
        if ligands[i] and ligands[j]:
            middle = seen[[i, j], :2].mean(axis=0)
            for end in (i, j):
                stroke = color or _element_color(str(atoms.element[end]))
                lines.append((depth[end], np.stack([seen[end, :2], middle]), stroke, 2.0))
    lines.sort(key=lambda line: line[0])
    front = 3 if color is None else 2
    plot.add_collection(
        LineCollection(
            [points for _, points, _, _ in lines],
            colors=[_faded(stroke, near) for near, _, stroke, _ in lines],
            linewidths=[width for _, _, _, width in lines],
            capstyle="round",
            zorder=front,
        )
    )
    order = np.flatnonzero(ligands)[np.argsort(depth[ligands])]
    strokes = [color or _element_color(str(atoms.element[i])) for i in order]
    tints = [_faded(s, depth[i]) for s, i in zip(strokes, order, strict=True)]
    plot.scatter(*seen[order, :2].T, s=16, c=tints or None, linewidths=0, zorder=front + 0.5)


def _faded(color: str, near: float) -> tuple[float, ...]:
    """A colour, up to half white for what is far away."""
    share = 0.5 + 0.5 * near
    return tuple(share * part + 1 - share for part in to_rgb(color))
