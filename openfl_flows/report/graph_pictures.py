"""Draw graphs that are no valid molecules: atoms as discs, bonds as strokes, nothing sanitised."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from rdkit import Chem
from rdkit.Chem import rdDepictor

from openfl_flows.data.vocabulary import atom_class

Graph = tuple[NDArray[np.integer], NDArray[np.integer]]
"""Atom classes (N,), -1 = padding, and symmetric bond classes (N, N), 0 = no bond."""

SIDE = 320  # pixels of one frame of a chain
_SHARPNESS = 3  # drawn larger by this and scaled down, for smooth edges
_BOND_ORDERS = {
    1: Chem.BondType.SINGLE,
    2: Chem.BondType.DOUBLE,
    3: Chem.BondType.TRIPLE,
    4: Chem.BondType.AROMATIC,
}
# Offsets of the strokes of each bond class, in units of the distance between parallel strokes.
_STROKES = {1: (0.0,), 2: (-0.5, 0.5), 3: (-1.0, 0.0, 1.0), 4: (-0.5, 0.5)}
_BOND_COLOR = (90, 98, 110)
_AROMATIC_COLOR = (170, 120, 190)
_ATOM_COLORS = {
    "C": (70, 78, 90),
    "N": (38, 92, 198),
    "O": (208, 52, 44),
    "F": (30, 140, 90),
    "S": (190, 140, 20),
    "P": (214, 118, 30),
    "Cl": (40, 150, 60),
    "Br": (140, 60, 30),
    "I": (110, 50, 150),
    "H": (150, 156, 166),
}
_OTHER_COLOR = (120, 90, 120)


def layout(graph: Graph, vocabulary: Sequence[str]) -> NDArray[np.float64]:
    """2D positions (N, 2) in [0, 1]; padding atoms lie at the centre and are not drawn."""
    atoms, bonds = graph
    real = np.flatnonzero(atoms >= 0)
    molecule = Chem.RWMol()
    for index in real:
        molecule.AddAtom(Chem.Atom(atom_class(vocabulary[atoms[index]]).element))
    for i, j in zip(*np.triu_indices(len(real), 1), strict=True):
        if order := int(bonds[real[i], real[j]]):
            molecule.AddBond(int(i), int(j), _BOND_ORDERS[order])
    molecule.UpdatePropertyCache(strict=False)
    Chem.FastFindRings(molecule)
    rdDepictor.Compute2DCoords(molecule)
    positions = np.full((len(atoms), 2), 0.5)
    if len(real):
        flat = molecule.GetConformer().GetPositions()[:, :2]
        low, high = flat.min(axis=0), flat.max(axis=0)
        # At least three bond lengths wide, so that small molecules are not blown up.
        extent = max(float((high - low).max()), 4.5)
        positions[real] = 0.5 + (flat - (low + high) / 2) / extent * 0.82
    return positions


def draw(
    atoms: NDArray[np.integer],
    bonds: NDArray[np.integer],
    positions: NDArray[np.float64],
    vocabulary: Sequence[str],
) -> Image.Image:
    """One graph as a square RGB image, its atoms at ``positions`` (N, 2) in [0, 1], y upwards."""
    side = SIDE * _SHARPNESS
    image = Image.new("RGB", (side, side), "white")
    pen = ImageDraw.Draw(image)
    points = positions * side
    points[:, 1] = side - points[:, 1]
    for i, j in zip(*np.nonzero(np.triu(bonds, 1)), strict=True):
        if atoms[i] >= 0 and atoms[j] >= 0:
            _draw_bond(pen, points[i], points[j], int(bonds[i, j]))
    radius = 0.05 * side
    font = ImageFont.load_default(size=radius * 1.15)
    for index in np.flatnonzero(atoms >= 0):
        x, y = points[index]
        symbol = vocabulary[atoms[index]]
        box = (x - radius, y - radius, x + radius, y + radius)
        color = _ATOM_COLORS.get(atom_class(symbol).element, _OTHER_COLOR)
        pen.ellipse(box, fill=color, outline="white", width=2 * _SHARPNESS)
        pen.text((x, y), symbol, fill="white", font=font, anchor="mm")
    return image.resize((SIDE, SIDE), Image.Resampling.LANCZOS)


def _draw_bond(
    pen: ImageDraw.ImageDraw, start: NDArray[np.float64], end: NDArray[np.float64], order: int
) -> None:
    along = end - start
    length = float(np.hypot(*along)) or 1.0
    across = np.array([-along[1], along[0]]) / length * 6 * _SHARPNESS
    color = _AROMATIC_COLOR if order == 4 else _BOND_COLOR
    for offset in _STROKES[order]:
        a, b = start + offset * across, end + offset * across
        pen.line([(a[0], a[1]), (b[0], b[1])], fill=color, width=int(2.4 * _SHARPNESS))


def palette() -> Image.Image:
    """A palette of all the colours that :func:`draw` uses and their way to white."""
    inks = (*_ATOM_COLORS.values(), _OTHER_COLOR, _BOND_COLOR, _AROMATIC_COLOR)
    # No shade close to white: Pillow's search would take it for the background.
    steps = (*np.linspace(0, 0.85, 255 // len(inks) - 1), 1.0)
    shades = {tuple(int(c + (255 - c) * s) for c in ink) for ink in inks for s in steps}
    flat = [channel for shade in sorted(shades) for channel in shade]
    holder = Image.new("P", (1, 1))
    holder.putpalette(flat)
    return holder
