import io

import numpy as np
import pytest
from PIL import Image
from rdkit import Chem

from openfl_flows.report.molecules import (
    chain_frames,
    filmstrip_png,
    gif_bytes,
    grid_png,
    sdf_text,
)

VOCABULARY = ("C", "N", "O", "F")


def image(content: bytes) -> Image.Image:
    return Image.open(io.BytesIO(content))


def star(center: int, order: int, leaves: int = 5):
    atoms = np.array([center, *[0] * leaves, -1], np.int8)
    bonds = np.zeros((leaves + 2, leaves + 2), np.int8)
    bonds[0, 1 : leaves + 1] = bonds[1 : leaves + 1, 0] = order
    return atoms, bonds


def dark(picture: Image.Image) -> int:
    return int((np.asarray(picture.convert("L")) < 200).sum())


def test_grid_has_a_panel_for_each_molecule():
    one = image(grid_png(["CCO"]))
    five = image(grid_png(["CCO", "c1ccccc1", "C#N", "C", "CC(=O)N"], per_row=2))
    assert five.size == (2 * one.size[0], 3 * one.size[1])


def test_frames_of_charged_classes_are_drawn_in_the_colour_of_the_element():
    (frame,) = chain_frames([star(1, 1)], ("C", "N+"))
    nitrogen = (np.asarray(frame.convert("RGB")) == (38, 92, 198)).all(axis=-1)
    assert nitrogen.sum() > 100


def test_legend_is_drawn():
    assert dark(image(grid_png(["CCO"], legends=["ethanol"]))) > dark(image(grid_png(["CCO"])))


@pytest.mark.parametrize(
    ("smiles", "legends", "message"),
    [
        ([], None, "at least one"),
        (["C", "C(("], None, r"molecule 2: .*'C\(\('"),
        (["C"], ["a", "b"], "2 legends for 1"),
    ],
)
def test_grid_refuses(smiles, legends, message):
    with pytest.raises(ValueError, match=message):
        grid_png(smiles, legends=legends)


def test_sdf_comes_back_as_the_same_molecules():
    smiles = ["CCO", "c1ccccc1", "CC#N"]
    supplier = Chem.SDMolSupplier()
    supplier.SetData(sdf_text(smiles))
    molecules = list(supplier)
    assert [Chem.MolToSmiles(m) for m in molecules] == [Chem.CanonSmiles(s) for s in smiles]
    assert [m.GetProp("SMILES") for m in molecules] == smiles
    assert all(m.GetConformer().GetPositions().any() for m in molecules)


def test_chain_draws_graphs_that_are_no_molecules():
    # Fluorine with five triple bonds, then five aromatic ones.
    frames = chain_frames([star(3, 3), star(3, 4), star(0, 1, 5)], VOCABULARY)
    assert len({f.size for f in frames}) == 1
    assert len({f.tobytes() for f in frames}) == 3


def test_atoms_keep_their_place_and_padding_is_not_drawn():
    # A noisy frame may hold a bond to padding.
    empty = np.full(7, -1, np.int8), star(0, 1)[1]
    nothing, _ = chain_frames([empty, star(2, 1)], VOCABULARY)
    assert dark(nothing) == 0
    # Without a layout of its own, only the disc of the atom that changed differs.
    carbon, oxygen = chain_frames([star(0, 1), star(2, 1)], VOCABULARY)
    rows, columns = np.nonzero((np.asarray(carbon) != np.asarray(oxygen)).any(axis=2))
    side = carbon.size[0]
    assert 0 < np.ptp(rows) < side / 8
    assert 0 < np.ptp(columns) < side / 8


def test_graph_without_bonds_is_laid_out_without_overlap():
    atoms, bonds = np.zeros(9, np.int8), np.zeros((9, 9), np.int8)
    single = chain_frames([(atoms[:1], bonds[:1, :1])], VOCABULARY)[0]
    many = chain_frames([(atoms, bonds)], VOCABULARY)[0]
    assert dark(many) > 8.5 * dark(single)


def test_chain_refuses_frames_of_different_sizes():
    with pytest.raises(ValueError, match="shapes"):
        chain_frames([star(0, 1, 4), star(0, 1, 5)], VOCABULARY)
    with pytest.raises(ValueError, match="at least one frame"):
        chain_frames([], VOCABULARY)


def test_gif_plays_all_frames_and_rests_on_the_last():
    frames = chain_frames([star(i % 4, 1 + i % 3) for i in range(5)], VOCABULARY)
    animation = image(gif_bytes(frames, 50))
    durations = []
    for index in range(animation.n_frames):
        animation.seek(index)
        durations.append(animation.info["duration"])
    assert durations == [50, 50, 50, 50, 1000]
    assert animation.info["loop"] == 0
    corner = animation.convert("RGB").getpixel((0, 0))
    assert corner == (255, 255, 255)


def test_filmstrip_has_the_first_and_the_last_frame():
    colors = ["red", "white", "white", "white", "blue"]
    images = [Image.new("RGB", (320, 320), color) for color in colors]
    strip = image(filmstrip_png(images, num=3)).convert("RGB")
    width, height = strip.size
    assert width == 3 * height
    middle = [strip.getpixel(((2 * i + 1) * height // 2, height // 2)) for i in range(3)]
    assert middle == [(255, 0, 0), (255, 255, 255), (0, 0, 255)]
    assert image(filmstrip_png(images, num=99)).size == (5 * height, height)
