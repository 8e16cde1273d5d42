"""A finished run of two sites, three parties with keys, and a release that two of them signed."""

import hashlib
import json
import shutil
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from openfl_flows.ops.rounds import Checkpoint, RoundRecord, SiteRound
from openfl_flows.ops.run import RunDirectory
from openfl_flows.release.keys import Signers, make_key, read_private, write_signers
from openfl_flows.release.make import make_release
from openfl_flows.release.verify import sign_release
from openfl_flows.state import State
from openfl_flows.strict_json import canonical

NAMES = ("alice", "bob", "carol")


class Consortium(NamedTuple):
    """What the parties have.

    Attributes:
        keys: Folder of their private keys.
        signers: Two of the three.
        file: The same as a file.
    """

    keys: Path
    signers: Signers
    file: Path


def checkpoint(value: float) -> Checkpoint:
    model = State(
        {
            "bias": np.full(3, value, np.float32),
            "steps": np.array(int(value), np.int64),
            "weight": np.linspace(-1, value, 40, dtype=np.float32).reshape(8, 5),
        }
    )
    momentum = State({"m": np.full(3, -value, np.float32)})
    return Checkpoint(model, momentum, State({**model, "bias": model["bias"] / 2}))


def card(**content: object) -> str:
    return json.dumps({**content, "digest": hashlib.sha256(canonical(content)).hexdigest()})


def make_run(path: Path, rounds: int = 3, *, first: float = 0.0, **config: object) -> Path:
    """A finished run in which the model of round 1 is the best."""
    plan = {"name": "tiny", "seed": 1, "join": {"name": "fedavg"}, "out": str(path), **config}
    run = RunDirectory.create(path, config=plan, initial=checkpoint(first), best=("mse", "min"))
    for round_ in range(1, rounds + 1):
        run.measured({"mse": abs(round_ - 2.0)})
        made = checkpoint(first + round_)
        sites = {
            name: SiteRound(
                num_samples=samples, num_steps=2, metrics={}, received={}, seconds={},
                peak_rss_bytes=1, update=f"{samples:064x}",
            )
            for name, samples in (("north", 30), ("south", 10))
        }  # fmt: skip
        record = RoundRecord(
            round=round_, digest=made.model.digest(), seconds=1.0, bytes_up=1, bytes_down=1,
            sites=sites,
        )  # fmt: skip
        run.commit(record, made)
    run.finish({})
    return path


@pytest.fixture(scope="session")
def consortium(tmp_path_factory) -> Consortium:
    folder = tmp_path_factory.mktemp("keys")
    keys = {name: make_key(folder / name) for name in NAMES}
    signers = Signers(need=2, keys=keys)
    write_signers(folder / "signers.json", signers)
    return Consortium(folder, signers, folder / "signers.json")


@pytest.fixture(scope="session")
def finished(tmp_path_factory) -> Path:
    return make_run(tmp_path_factory.mktemp("run") / "run")


@pytest.fixture(scope="session")
def _signed(tmp_path_factory, consortium, finished) -> Path:
    folder = tmp_path_factory.mktemp("release")
    evaluation = {
        "format": "openfl_flows.evaluation/1",
        "candidate": RunDirectory.open(finished).record["digest"],
        "baseline": "0" * 64,
        "metrics": {"mae": 0.25},
    }
    (folder / "evaluation.json").write_text(card(**evaluation))
    (folder / "north.json").write_text(card(rows=30))
    release = folder / "release"
    make_release(
        finished,
        release,
        signers=consortium.signers,
        evaluation=folder / "evaluation.json",
        cards=[folder / "north.json"],
    )
    for name in ("alice", "bob"):
        sign_release(release, read_private(consortium.keys / name))
    return release


@pytest.fixture
def release(_signed, tmp_path) -> Path:
    """A signed release that a test may damage."""
    return shutil.copytree(_signed, tmp_path / "release")
