"""Pictures and files of molecules: grids of finished ones, and graphs on their way out of noise."""

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image
from rdkit import Chem, rdBase
from rdkit.Chem import rdDepictor
from rdkit.Chem.Draw import rdMolDraw2D

from openfl_flows.report.graph_pictures import SIDE, Graph, draw, layout, palette

_PANEL = (170, 140)  # pixels of one molecule in a grid


def grid_png(
    smiles: Sequence[str], legends: Sequence[str] | None = None, per_row: int = 8
) -> bytes:
    """Draw molecules in a grid.

    Args:
        smiles: Valid SMILES, at least one.
        legends: One line under each molecule; none by default.
        per_row: Molecules in a row.

    Returns:
        A PNG.

    Raises:
        ValueError: There is no molecule, RDKit does not read one, or the legends do not match.
    """
    if not smiles:
        raise ValueError("a grid needs at least one molecule, got none")
    if per_row < 1:
        raise ValueError(f"per_row is {per_row}, expected at least 1")
    lines = [""] * len(smiles) if legends is None else list(legends)
    if len(lines) != len(smiles):
        raise ValueError(f"{len(lines)} legends for {len(smiles)} molecules, expected one for each")
    columns = min(per_row, len(smiles))
    rows = -(-len(smiles) // columns)
    width, height = _PANEL
    drawing = rdMolDraw2D.MolDraw2DCairo(columns * width, rows * height, width, height)
    # One bond length in all panels, or ethane would be drawn as large as a steroid.
    options = {"padding": 0.1, "legendFontSize": 13, "drawMolsSameScale": True}
    for option, value in options.items():
        setattr(drawing.drawOptions(), option, value)
    drawing.DrawMolecules([_parse(i, s) for i, s in enumerate(smiles)], legends=lines)
    drawing.FinishDrawing()
    return _small_png(Image.open(io.BytesIO(drawing.GetDrawingText())))


def sdf_text(smiles: Sequence[str]) -> str:
    """Write molecules as SDF with 2D coordinates and the property ``SMILES``.

    Raises:
        ValueError: RDKit does not read one.
    """
    buffer = io.StringIO()
    writer = Chem.SDWriter(buffer)
    for index, text in enumerate(smiles):
        molecule = _parse(index, text)
        rdDepictor.Compute2DCoords(molecule)
        molecule.SetProp("_Name", f"sample-{index + 1}")
        molecule.SetProp("SMILES", text)
        writer.write(molecule)
    writer.close()
    return buffer.getvalue()


def chain_frames(frames: Sequence[Graph], vocabulary: Sequence[str]) -> list[Image.Image]:
    """Draw the steps of one graph's generation, each atom in the place it has in the last one.

    Noisy graphs are no valid molecules, so nothing is sanitised: every atom is a disc with its
    element, every bond one to three strokes (an aromatic one two, in another colour).

    Args:
        frames: From noise to molecule; atoms (N,) and bonds (N, N) as classes, all of one N.
        vocabulary: Element symbols in class order.

    Returns:
        One square RGB image per frame.

    Raises:
        ValueError: There is no frame, or the frames differ in their number of atoms.
    """
    if not frames:
        raise ValueError("a chain needs at least one frame, got none")
    shapes = {(atoms.shape, bonds.shape) for atoms, bonds in frames}
    if shapes != {((n := len(frames[0][0]),), (n, n))}:
        raise ValueError(
            f"frames of a chain have shapes {sorted(shapes)}, expected one (N,), (N, N)"
        )
    positions = layout(frames[-1], vocabulary)
    return [draw(atoms, bonds, positions, vocabulary) for atoms, bonds in frames]


def gif_bytes(images: Sequence[Image.Image], milliseconds: int = 80) -> bytes:
    """Join images to an endless GIF; the last one stays for 20 times ``milliseconds``."""
    if not images:
        raise ValueError("an animation needs at least one image, got none")
    # One palette for all frames: colours do not flicker, and unchanged areas compress away.
    shared = palette()
    first, *rest = (image.quantize(palette=shared, dither=Image.Dither.NONE) for image in images)
    buffer = io.BytesIO()
    durations = [milliseconds] * len(rest) + [20 * milliseconds]
    first.save(
        buffer, "GIF", save_all=True, append_images=rest, duration=durations, loop=0, optimize=True
    )
    return buffer.getvalue()


def filmstrip_png(images: Sequence[Image.Image], num: int = 8) -> bytes:
    """Put ``num`` evenly spaced images side by side, always with the first and the last."""
    if not images or num < 1:
        raise ValueError(f"a filmstrip of {num} from {len(images)} images, expected at least 1")
    count = min(num, len(images))
    chosen = np.linspace(len(images) - 1 if count == 1 else 0, len(images) - 1, count).round()
    side = SIDE * 5 // 8
    strip = Image.new("RGB", (side * count, side), "white")
    for column, index in enumerate(chosen.astype(int)):
        scaled = images[index].resize((side, side), Image.Resampling.LANCZOS)
        strip.paste(scaled, (column * side, 0))
    return _small_png(strip)


def _parse(index: int, smiles: str) -> Chem.Mol:
    with rdBase.BlockLogs():  # the error below says it
        molecule = Chem.MolFromSmiles(smiles)
    if molecule is None:
        raise ValueError(f"molecule {index + 1}: RDKit does not read the SMILES {smiles!r}")
    return molecule


def _small_png(image: Image.Image) -> bytes:
    """A PNG of at most 128 colours: line drawings lose nothing that an eye would miss."""
    buffer = io.BytesIO()
    image.convert("RGB").quantize(128, dither=Image.Dither.NONE).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
