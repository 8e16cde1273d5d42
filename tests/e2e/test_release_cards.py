"""A release with real cards: of a federated evaluation of its model, and of its training data."""

import json

import pytest

from openfl_flows.cli import main
from openfl_flows.release.keys import read_signers
from openfl_flows.release.verify import verify_release
from tests.schema_data import molecule_rows, write_table
from tests.tiny import OVERRIDES

PLAN = ("experiment=demo", "federation.rounds=1", *OVERRIDES)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_released_model_carries_its_evaluation_and_the_cards_of_its_data(tmp_path) -> None:
    def run(*words: object) -> None:
        assert main([str(word) for word in words]) == 0

    made, signers, release = tmp_path / "run", tmp_path / "signers.json", tmp_path / "release"
    data = write_table(tmp_path / "data", molecule_rows())
    run("simulate", *PLAN, f"out={made}")
    run(
        "benchmark", *PLAN, "evaluation=molecules", f"out={tmp_path / 'benchmark'}",
        f"evaluation.candidate={made / 'model.safetensors'}",
    )  # fmt: skip
    run(
        "data", "validate", "experiment=demo", "schema=molecules_v1", data, "--site", "site-1",
        "--out", tmp_path,
    )  # fmt: skip
    card = (tmp_path / "card.json").rename(tmp_path / "site-1.json")
    run("release", "key", tmp_path / "north.key")
    run("release", "signers", signers, f"north={tmp_path / 'north.key.pub'}", "--need", 1)
    run(
        "release", "make", made, "--out", release, "--signers", signers,
        "--evaluation", tmp_path / "benchmark" / "evaluation.json",
        "--card", card,
    )  # fmt: skip
    run("release", "sign", release, "--key", tmp_path / "north.key")
    run("release", "verify", release, "--signers", signers)

    manifest = verify_release(release, read_signers(signers)).contents.manifest
    evaluation = json.loads((release / "evaluation.json").read_text())
    assert evaluation["candidate"] == manifest["model"]["digest"]
    assert evaluation["digest"] == manifest["evaluation"]["digest"]
    assert manifest["cards"] == {"site-1.json": json.loads(card.read_text())["digest"]}
    # Where whoever made it keeps what is nobody else's business.
    assert not any(
        str(tmp_path).encode() in file.read_bytes() for file in release.rglob("*") if file.is_file()
    )
