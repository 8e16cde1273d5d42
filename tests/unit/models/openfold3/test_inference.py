"""Prediction by OpenFold3's own runner: strict, offline, repeatable, and without a trace."""

import dataclasses
import json
import os
import random
import socket
from pathlib import Path

import numpy as np
import pytest
import torch
from openfold3.core.data.io.structure.cif import parse_mmcif
from rdkit import Chem

from openfl_flows.cli import main
from openfl_flows.cli.plan import compose
from openfl_flows.models.openfold3.checkpoint import save_inference
from openfl_flows.models.openfold3.config import OpenFold3Config
from openfl_flows.models.openfold3.inference import predict
from openfl_flows.models.openfold3.network import build, network_state
from openfl_flows.models.openfold3.query import make_query, read_query
from openfl_flows.ops.rounds import Checkpoint
from openfl_flows.ops.run import RunDirectory
from openfl_flows.state import State

CONFIG = OpenFold3Config(rollout_steps=10, rollout_samples=2, num_recycles=0, msa_rows=8)
SEQUENCE = "MQIFVKTLTGKTITLEVEPS"


def weights(seed: int) -> State:
    """OpenFold3 begins with outputs of zero, whatever the seed; these are of no beginning."""
    torch.set_num_threads(1)
    model = build(CONFIG, seed=seed).model
    noise = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=noise))
    return network_state(model)


@pytest.fixture(scope="module")
def state() -> State:
    return weights(0)


@pytest.fixture(scope="module")
def checkpoint(state: State, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights in the format of OpenFold3's publication."""
    file = tmp_path_factory.mktemp("inference") / "tiny.pt"
    save_inference(state, CONFIG, file)
    return file


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A home that should stay empty, and no way out of the machine."""

    def refuse(*arguments: object) -> None:
        raise AssertionError(f"a connection was tried: {arguments[1:]}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("OPENFOLD_CACHE", raising=False)
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


def test_a_prediction_is_repeatable_and_leaves_no_trace(state, offline, tmp_path):
    queries = make_query(sequences=[SEQUENCE], smiles=["Cc1ccccc1"])
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    variables = dict(os.environ)
    found = predict(state, CONFIG, queries, tmp_path / "a", seed=7)
    assert random.getstate() == before[0]
    assert np.random.get_state()[1].tolist() == before[1]
    assert torch.equal(torch.get_rng_state(), before[2])
    assert dict(os.environ) == variables
    assert not list(offline.iterdir())

    assert sorted(one.sample for one in found) == [1, 2]
    ranks = [one.confidence["sample_ranking_score"] for one in found]
    assert ranks == sorted(ranks, reverse=True)
    atoms = parse_mmcif(found[0].file).atom_array
    assert (atoms.chain_id == "B").sum() == 7
    assert len(set(atoms.res_id[atoms.chain_id == "A"].tolist())) == len(SEQUENCE)
    assert np.isfinite(atoms.coord).all()

    again = predict(state, CONFIG, queries, tmp_path / "b", seed=7)
    assert [one.file.read_bytes() for one in again] == [one.file.read_bytes() for one in found]


def test_the_weights_of_another_model_are_refused(state, tmp_path):
    other = dataclasses.replace(CONFIG, size="small")
    with pytest.raises(ValueError, match=r"not weights of network\.size=small"):
        predict(state, other, make_query(sequences=[SEQUENCE]), tmp_path)


def test_the_command_writes_structures_and_a_page(checkpoint, offline, tmp_path, capsys):
    query = {"queries": {"small": {"chains": [
        {"molecule_type": "protein", "chain_ids": ["A", "B"], "sequence": SEQUENCE},
        {"molecule_type": "ligand", "chain_ids": ["L"], "ccd_codes": ["MBN"]},
    ]}}}  # fmt: skip
    (tmp_path / "query.json").write_text(json.dumps(query))
    out = tmp_path / "out"
    said = ["--size", "tiny", "--steps", "10", "--samples", "1", "--seed", "5", "--out", str(out)]
    assert main(["predict", str(checkpoint), str(tmp_path / "query.json"), *said]) == 0
    printed = capsys.readouterr().out.splitlines()
    file = out / "small" / "seed_5" / "small_seed_5_sample_1_model.cif"
    assert printed[0] == "1 to predict, 1 times in 10 steps"
    assert printed[1].startswith(f"{file}  pLDDT ")
    assert printed[2:] == [f"page {out / 'predictions.html'}"]
    # A chain is written without the oxygen of its end.
    num = Chem.MolFromSequence(SEQUENCE).GetNumAtoms() - 1
    assert len(parse_mmcif(file).atom_array) == 2 * num + 7
    assert "small, sample 1" in (out / "predictions.html").read_text()
    settings = json.loads((out / "experiment_config.json").read_text())
    assert settings["experiment_settings"]["use_msa_server"] is False


def test_a_run_predicts_with_its_own_weights_or_their_average(state, offline, tmp_path, capsys):
    config = compose(["experiment=of3_demo", "model.network.num_recycles=0"])
    average = weights(1)
    made = Checkpoint(model=state, join_state=State({}), average=average)
    run = RunDirectory.create(tmp_path / "run", config=config, initial=made)
    run.finish({})
    asked = ["--sequence", SEQUENCE, "--samples", "1"]
    written = {}
    for which in ("model", "ema"):
        assert main(["predict", str(run.path), *asked, "--weights", which]) == 0
        (file,) = (run.path / "predictions").glob("prediction/seed_42/*_model.cif")
        written[which] = file.read_bytes()
    assert written["model"] != written["ema"]
    assert "1 to predict, 1 times in 10 steps" in capsys.readouterr().out

    toy = compose(["experiment=toy"])
    other = RunDirectory.create(tmp_path / "toy", config=toy, initial=made)
    assert main(["predict", str(other.path), *asked]) == 1
    assert "which predicts no structures" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "expected either QUERY.json, or --sequence"),
        (["--sequence", "MQ1"], "query prediction, chain A: letters 1 in the sequence"),
        (["--smiles", "C("], "query prediction, chain A: RDKit does not read the SMILES 'C('"),
        (["--sequence", "MQ", "--seed", "-1"], "--seed is -1"),
        (["--sequence", "MQ", "--steps", "0"], "network.rollout_steps=0"),
        (["--sequence", "MQ"], "absent.pt: no such file"),
    ],
)
def test_what_cannot_be_predicted_is_one_line(arguments, message, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["predict", "absent.pt", *arguments]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("openfl-flows: error: ")
    assert len(error.splitlines()) == 1


def chain(**fields: object) -> dict[str, object]:
    return {"molecule_type": "protein", "chain_ids": ["A"], "sequence": "MQ", **fields}


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ("{", "the file: Invalid JSON"),
        ({"queries": {}}, "holds no query"),
        ({"queries": {"x": {"chains": []}}}, "query x: chain ids"),
        ({"queries": {"../x": {"chains": [chain()]}}}, "query '../x', expected letters"),
        ({"queries": {"x": {"chains": [chain(), chain()]}}}, "expected each once"),
        ({"queries": {"x": {"chains": [chain(sequence=None)]}}}, "no sequence"),
        ({"queries": {"x": {"chains": [chain(molecule_type="ligand")]}}}, "no ligand"),
        ({"queries": {"x": {"chains": [chain(seqence="MQ")]}}}, "queries.x.chains.0.seqence"),
        ({"queries": {"x": {"chains": [chain(molecule_type="lipid")]}}}, "molecule_type"),
    ],
)
def test_a_query_that_openfold3_would_only_log_is_refused_first(document, message, tmp_path):
    file = tmp_path / "query.json"
    file.write_text(document if isinstance(document, str) else json.dumps(document))
    with pytest.raises(ValueError, match=r"query\.json") as caught:
        read_query(file)
    assert message in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_equal_sequences_are_copies_of_one_entity():
    chains = (
        make_query(sequences=["mq", "MQ", "AC"], smiles=["C", "C"]).queries["prediction"].chains
    )
    assert [one.chain_ids for one in chains] == [["A", "B"], ["C"], ["D", "E"]]
