"""Files for people beside what a task drew: SMILES, SDF, a grid, a film of the denoising."""

import csv
from pathlib import Path

import numpy as np

from openfl_flows.atomic import write_atomically
from openfl_flows.report.molecules import (
    chain_frames,
    filmstrip_png,
    gif_bytes,
    grid_png,
    sdf_text,
)

_GRID = 48


def draw_samples(folder: Path) -> None:
    """Add pictures and chemists' formats to a folder with ``samples.csv`` and ``chain.npz``.

    Writes ``samples.smi``, ``samples.sdf`` and ``grid.png`` of the valid molecules, and
    ``chain.gif`` and ``filmstrip.png`` of the chain; what there is nothing for is not written.
    """
    table = folder / "samples.csv"
    if table.is_file():
        with table.open(newline="") as file:
            valid = [row["smiles"] for row in csv.DictReader(file) if row["smiles"]]
        write_atomically(folder / "samples.smi", "".join(f"{s}\n" for s in valid).encode())
        if valid:
            write_atomically(folder / "samples.sdf", sdf_text(valid).encode())
            write_atomically(folder / "grid.png", grid_png(valid[:_GRID]))
    chain = folder / "chain.npz"
    if chain.is_file():
        with np.load(chain) as arrays:
            frames = list(zip(arrays["atoms"], arrays["bonds"], strict=True))
            images = chain_frames(frames, [str(symbol) for symbol in arrays["vocabulary"]])
        write_atomically(folder / "chain.gif", gif_bytes(images))
        write_atomically(folder / "filmstrip.png", filmstrip_png(images))
