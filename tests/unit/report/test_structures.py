"""Structures on a page: what is drawn, what the viewer gets, and what the policy allows."""

import base64
import hashlib
import html
import io
import json
import re

import numpy as np
import pytest
from biotite.structure import Atom, AtomArray, BondList, BondType, array
from biotite.structure.io import pdbx
from PIL import Image

from openfl_flows.report.structures import (
    picture,
    read_structure,
    read_views,
    script_policy,
    view,
    viewer_scripts,
    write_page,
)


@pytest.fixture
def complex_() -> AtomArray:
    """Twelve residues in a helix, and formaldehyde."""
    turns = np.deg2rad(100 * np.arange(12))
    helix = np.stack([2.3 * np.cos(turns), 2.3 * np.sin(turns), 1.5 * np.arange(12)], axis=1)
    atoms = [
        Atom(place, chain_id="A", res_id=i + 1, res_name="ALA", atom_name="CA", element="C")
        for i, place in enumerate(helix)
    ]
    atoms += [
        Atom([8, 0, 5 + 1.2 * i], chain_id="B", res_id=1, res_name="FOR", hetero=True,
             atom_name=f"{element}1", element=element)
        for i, element in enumerate("CO")
    ]  # fmt: skip
    made = array(atoms)
    made.bonds = BondList(14, np.array([(12, 13, BondType.DOUBLE)]))
    return made


def write(atoms: AtomArray, file) -> None:
    made = pdbx.CIFFile()
    pdbx.set_structure(made, atoms)
    made.write(file)


def colors(png: bytes) -> set[tuple[int, ...]]:
    pixels = np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).reshape(-1, 3)
    return {tuple(map(int, color)) for color in np.unique(pixels, axis=0)}


def test_chains_ligands_and_the_truth_have_their_colors(complex_):
    alone = colors(picture(complex_))
    assert len(alone) > 50
    # The nearest oxygen is red, the nearest of the chain blue; both are there in some depth.
    assert any(r > 150 and g < 140 and b < 140 for r, g, b in alone)
    assert any(b > 120 and b - r > 60 for r, g, b in alone)
    both = colors(picture(complex_, complex_[:12] + complex_[12:]))
    assert not any((r, g, b) == (0x8A, 0x94, 0xA2) for r, g, b in alone)
    assert any(abs(r - 0x8A) + abs(g - 0x94) + abs(b - 0xA2) < 90 for r, g, b in both)


def test_the_viewer_gets_the_bonds_of_the_file_and_no_others(complex_, tmp_path):
    write(complex_, tmp_path / "x.cif")
    write(complex_[:12], tmp_path / "x_true.cif")
    (found,) = read_views(tmp_path)
    assert found.name == "x"
    assert found.has_truth
    parts = json.loads(found.parts)
    atoms = parts["predicted"]["atoms"]
    assert atoms["bonds"] == [[12, 13, 2]]
    assert atoms["ligand"] == [0] * 12 + [1, 1]
    assert np.allclose(np.reshape(atoms["place"], (-1, 3)) / 100, complex_.coord, atol=0.006)
    assert [len(trace["points"]) for trace in parts["predicted"]["traces"]] == [12]
    assert parts["true"]["atoms"]["element"] == ["C"] * 12
    assert [key.label for key in found.legend] == ["chain A", "true structure"]


def test_a_ligand_under_its_chains_author_name_is_still_a_ligand(complex_, tmp_path):
    complex_.set_annotation("label_asym_id", complex_.chain_id)
    write(complex_, tmp_path / "x.cif")
    text = (tmp_path / "x.cif").read_text()
    file = pdbx.CIFFile.read(io.StringIO(text))
    file.block["atom_site"]["auth_asym_id"] = ["A"] * 14
    file.write(tmp_path / "x.cif")
    assert read_structure(tmp_path / "x.cif").chain_id.tolist() == ["A"] * 12 + ["B"] * 2


@pytest.mark.parametrize("text", ["", "no mmCIF", "data_x\n_entry.id x\n"])
def test_a_file_without_a_structure_is_named(text, tmp_path):
    file = tmp_path / "broken.cif"
    file.write_text(text)
    with pytest.raises(ValueError, match=r"broken\.cif: no structure in mmCIF"):
        read_structure(file)


def test_the_policy_allows_the_scripts_of_the_page_and_no_names_begin_markup(complex_, tmp_path):
    complex_.res_name[:] = "</script>"[:5]
    target = tmp_path / "page.html"
    write_page([view("<i>x</i>", complex_)], "A & B", target)
    page = target.read_text()
    assert "<i>x" not in page
    assert "A &amp; B" in page
    run = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    assert run == [str(script) for script in viewer_scripts()]
    for script in run:
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in script_policy(viewer_scripts())
        assert f"'sha256-{digest}'" in html.unescape(page.partition("<title>")[0])
    (data,) = re.findall(r'<script type="application/json">(.*?)</script>', page, re.DOTALL)
    assert "<" not in data
    assert json.loads(data)["predicted"]["atoms"]["residue"][0] == "</scr"
    assert "http://" not in page.replace(run[0], "")
