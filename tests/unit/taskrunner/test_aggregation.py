"""Any join as OpenFL's aggregation function: under OpenFL's own aggregator, and after a restart."""

from pathlib import Path

import numpy as np
import pytest
from openfl.component.aggregator.aggregator import Aggregator
from openfl.databases import TensorDB
from openfl.interface.aggregation_functions import WeightedAverage
from openfl.pipelines.tensor_codec import TensorCodec
from openfl.protocols import utils
from openfl.utilities import LocalTensor, SingletonABCMeta, TensorKey

from openfl_flows.codecs.exchange import Passage, decode_bucket
from openfl_flows.codecs.recipes import AS_IT_IS
from openfl_flows.joins.recipes import build_join
from openfl_flows.learners.base import Budget
from openfl_flows.learners.site import release_learners
from openfl_flows.learners.toy import ToyTask
from openfl_flows.ops.run import RunDirectory
from openfl_flows.taskrunner.aggregation import JoinAggregation
from openfl_flows.taskrunner.broadcast import Broadcast, held_digest
from openfl_flows.taskrunner.loader import SiteData
from openfl_flows.taskrunner.pipeline import ExactPipeline
from openfl_flows.taskrunner.runner import LearnerTaskRunner
from openfl_flows.taskrunner.wire import bucket_names, from_buckets, to_model_tensors
from tests.openfl_own import openfl_aggregator

EXACT = AS_IT_IS.codec
SITES = ("site-1", "site-2")
ROUNDS = 3
TASKS = ("aggregated_model_validation", "train", "locally_tuned_model_validation")
EXPERIMENT = {
    "model": {
        "task": "openfl_flows.learners.toy:ToyTask",
        "flow": "openfl_flows.flows.federated:FederatedFlow",
    },
    "data": {},
    "partition": {},
    "federation": {"sites": 2, "rounds": ROUNDS, "epochs": None, "steps": 4, "match": "samples"},
    "runtime": {"threads": 1},
    "seed": 3,
}


@pytest.fixture(autouse=True)
def _fresh(tmp_path, monkeypatch):
    """A workspace's folder, and none of the single instances that OpenFL keeps."""
    monkeypatch.chdir(tmp_path)
    yield
    SingletonABCMeta._instances.pop(JoinAggregation, None)
    release_learners()


def simulated(join: dict, out: Path) -> list[str]:
    from openfl_flows.experiment import Runtime
    from openfl_flows.flows.simulation import simulate

    run = simulate(
        ToyTask(sites=SITES, seed=3),
        join=build_join(**join),
        rounds=ROUNDS,
        budget=Budget(steps=4),
        out=out,
        runtime=Runtime(quiet=True),
    )
    release_learners()
    return [record["digest"] for record in run.record["rounds"]]


def joining_aggregator(join: dict) -> Aggregator:
    """OpenFL's own, with nothing of ours but the pipeline and the aggregation function."""
    return openfl_aggregator(
        to_model_tensors(ToyTask(sites=SITES, seed=3).initial_state()),
        sites=SITES,
        tasks=dict.fromkeys(TASKS, WeightedAverage()) | {"train": JoinAggregation(join)},
        rounds=ROUNDS,
        pipeline=ExactPipeline(),
    )


def runner_of(site: str) -> LearnerTaskRunner:
    runner = LearnerTaskRunner(SiteData("."), EXPERIMENT)
    runner.prepare(site)
    return runner


def take_part(aggregator: Aggregator, site: str, runner: LearnerTaskRunner, round_: int) -> None:
    """One site's round, through the messages that would go over the wire, but for the frames.

    OpenFL's aggregator knows buckets only, so the frames are made and read here.
    """
    codec = TensorCodec(ExactPipeline())
    initial = ToyTask(sites=SITES, seed=3).initial_state()
    for task in TASKS:
        buckets = {}
        for name in bucket_names(initial.spec):
            message = aggregator.get_aggregated_tensor(name, round_, False, ("model",), True, site)
            metadata = [{"int_list": list(m.int_list)} for m in message.transformer_metadata]
            buckets[name] = ExactPipeline().backward(message.data_bytes, metadata)
        model = from_buckets(buckets, initial.spec, {})
        broadcast = Broadcast(model, round_, codec=EXACT, fragments=1)
        frames = {
            key.tensor_name: broadcast.frame(key.tensor_name, held_digest(set(key.tags)))
            for key in runner.get_required_tensorkeys_for_function(task)
        }
        sent, _ = getattr(runner, task)(site, round_, frames)
        passage = Passage(
            sender=site, round=round_ + 1, spec=model.spec, reference=model.digest(), codec=EXACT
        )
        named = []
        for key, array in sent.items():
            if key.tags == ("trained",):
                array = decode_bucket(passage, 0, array, buckets[key.tensor_name])
            key, data, metadata = codec.compress(key, array, require_lossless=True)
            named.append(utils.construct_named_tensor(key, data, metadata, lossless=True))
        aggregator.send_local_task_results(site, round_, task, 1, named)


@pytest.mark.parametrize("name", ["fedavg", "diloco", "fedyogi"])
def test_openfls_own_aggregator_gives_the_models_of_the_simulation(name, tmp_path):
    join = {"name": name}
    expected = simulated(join, tmp_path / "simulated")
    aggregator = joining_aggregator(join)
    runners = {site: runner_of(site) for site in SITES}
    for round_ in range(ROUNDS):
        for site in reversed(SITES):
            take_part(aggregator, site, runners[site], round_)
    rounds = RunDirectory.open(Path("local_state/run")).record["rounds"]
    assert [record["digest"] for record in rounds] == expected


def test_a_round_that_is_committed_is_not_joined_again(tmp_path):
    join = {"name": "diloco"}
    aggregator = joining_aggregator(join)
    runners = {site: runner_of(site) for site in SITES}
    for site in SITES:
        take_part(aggregator, site, runners[site], 0)
    committed = RunDirectory.open(Path("local_state/run")).record["digest"]
    SingletonABCMeta._instances.pop(JoinAggregation)
    release_learners()

    again = joining_aggregator(join)
    for site in SITES:
        take_part(again, site, runner_of(site), 0)
    run = RunDirectory.open(Path("local_state/run"))
    assert (run.round, run.record["digest"]) == (1, committed)


def test_what_is_no_bucket_gets_the_weighted_mean():
    function = JoinAggregation({"name": "fedavg"})
    database = TensorDB()
    for site, value in (("site-1", 1.0), ("site-2", 5.0)):
        key = TensorKey("loss", "aggregator", 0, True, ("metric", site))
        database.cache_tensor({key: np.array(value)})
    local = [LocalTensor("site-1", np.array(1.0), 0.25), LocalTensor("site-2", np.array(5.0), 0.75)]
    assert function.call(local, database._iterate(), "loss", 0, ("metric",)) == 4.0
