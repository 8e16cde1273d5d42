"""The export: a workspace that OpenFL takes, equal for equal plans, and read back as the plan."""

import subprocess
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import yaml
from openfl.federated import Plan
from openfl.protocols import utils

from openfl_flows.cli.plan import compose
from openfl_flows.experiment import Experiment
from openfl_flows.ops.files import save_state
from openfl_flows.taskrunner.export import export_workspace
from openfl_flows.taskrunner.pipeline import ExactPipeline
from openfl_flows.taskrunner.wire import from_model_tensors
from openfl_flows.taskrunner.workspace import federation_id, read_workspace
from tests.tiny import OVERRIDES

TOY = compose(("experiment=toy",))
FX = Path(sys.executable).with_name("fx")


def exported(folder: Path, *overrides: str) -> Path:
    export_workspace(compose(("experiment=toy", *overrides)), folder)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def edit(file: Path, change: Callable[[Any], Any]) -> None:
    document = yaml.safe_load(file.read_text())
    change(document)
    file.write_text(yaml.safe_dump(document))


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported(tmp_path_factory.mktemp("exported") / "toy")


@pytest.fixture(scope="module")
def digress(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    config = compose(("experiment=demo", *OVERRIDES, "join=diloco", "ema=at_sync"))
    folder = tmp_path_factory.mktemp("exported") / "digress"
    export_workspace(config, folder)
    return config, folder


def test_the_same_plan_gives_the_same_bytes(toy, tmp_path) -> None:
    again = contents(exported(tmp_path / "again"))
    assert again == contents(toy)
    other = contents(exported(tmp_path / "other", "seed=1"))
    changed = {name for name in other if other[name] != again[name]}
    assert changed == {"plan/plan.yaml", "save/init.pbuf"}


def test_the_plan_comes_back_as_the_experiment_that_was_exported(digress) -> None:
    config, folder = digress
    read = read_workspace(folder)
    before, after = Experiment.from_config(config), Experiment.from_config(read.config)
    assert read.sites == ("site-1", "site-2")
    assert after.task.network == before.task.network
    assert after.task.training == before.task.training
    assert (after.rounds, after.budget) == (before.rounds, before.budget)
    for group in ("join", "ema", "network", "seed", "partition", "data"):
        assert read.config[group] == config[group]


def test_what_was_counted_on_data_is_a_constant_of_the_plan_to_the_last_bit(digress) -> None:
    config, folder = digress
    before = Experiment.from_config(config)
    after = Experiment.from_config(read_workspace(folder).config)
    assert config["model"]["statistics"] == "counted"
    assert after.task.statistics == before.task.graph_statistics
    assert after.initial_state().digest() == before.initial_state().digest()


def test_every_site_has_its_share_to_rehearse_with(digress) -> None:
    config, folder = digress
    before = Experiment.from_config(config)
    task = Experiment.from_config(read_workspace(folder).config).task
    for site in task.sites:
        own = task.at_site(site, folder / "data" / site).learner(site)
        own.receive(before.initial_state())
        simulated = before.task.learner(site)
        simulated.receive(before.initial_state())
        assert own.validate() == simulated.validate()


def test_the_initial_model_is_the_experiments(digress) -> None:
    config, folder = digress
    proto = utils.load_proto(folder / "save" / "init.pbuf")
    tensors, round_number = utils.deconstruct_model_proto(proto, ExactPipeline())
    expected = Experiment.from_config(config).initial_state()
    assert from_model_tensors(tensors).digest() == expected.digest()
    assert round_number == 0


def test_the_hash_is_openfls(toy) -> None:
    read = read_workspace(toy)
    plan = Plan.parse(toy / "plan" / "plan.yaml", toy / "plan" / "cols.yaml", resolve=True)
    assert read.hash == plan.hash
    assert len(read.hash) == 96
    assert federation_id(plan.federation_uuid, toy) == f"plan.yaml_{read.hash}"


def test_a_plan_that_was_changed_is_another_federation(toy, tmp_path) -> None:
    short = f"plan.yaml_{read_workspace(toy).hash[:8]}"
    other = exported(tmp_path / "other", "federation.rounds=4")
    with pytest.raises(ValueError, match=r"plan.yaml has the hash"):
        federation_id(short, other)


def test_openfl_finds_the_sites_and_their_data(toy) -> None:
    files = [toy / "plan" / f"{name}.yaml" for name in ("plan", "cols", "data")]
    plan = Plan.parse(*files, resolve=False)
    assert plan.authorized_cols == ["site-1", "site-2"]
    assert plan.cols_data_paths == {site: f"data/{site}" for site in plan.authorized_cols}
    assert plan.config["aggregator"]["settings"]["rounds_to_train"] == 4


def test_the_round_after_the_last_measures_what_there_is(toy, digress) -> None:
    for folder, expected in (
        (toy, ["final_model_validation"]),
        (digress[1], ["final_model_validation", "final_average_validation"]),
    ):
        plan = yaml.safe_load((folder / "plan" / "plan.yaml").read_text())
        rounds, final = plan["assigner"]["settings"]["task_groups"]
        assert final["tasks"] == expected
        assert plan["tasks"].keys() == {*rounds["tasks"], *expected}


def test_pins_are_what_runs_here(toy) -> None:
    lines = (toy / "requirements.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines)
    assert list(pins) == sorted(pins)
    assert {"openfl", "torch", "numpy", "openfl-flows", "hydra-core"} <= pins.keys()
    assert "pytest" not in pins
    assert all(metadata.version(name).split("+")[0] == pin for name, pin in pins.items())


def test_a_federation_starts_from_the_checkpoint_that_the_plan_names(tmp_path) -> None:
    state = Experiment.from_config({**TOY, "seed": 7}).task.initial_state()
    save_state(tmp_path / "elsewhere" / "model.safetensors", state)
    folder = exported(tmp_path / "w", f"initial={tmp_path}/elsewhere/model.safetensors")
    (tmp_path / "elsewhere" / "model.safetensors").unlink()

    assert Experiment.from_config(read_workspace(folder).config).initial_state() == state
    plan = yaml.safe_load((folder / "plan" / "plan.yaml").read_text())
    experiment = plan["task_runner"]["settings"]["experiment"]
    assert experiment["initial"] == "save/initial.safetensors"
    assert experiment["initial_digest"] == state.digest()
    proto = utils.load_proto(folder / "save" / "init.pbuf")
    tensors, _ = utils.deconstruct_model_proto(proto, ExactPipeline())
    assert from_model_tensors(tensors) == state

    other = Experiment.from_config(TOY).task.initial_state()
    save_state(folder / "save" / "initial.safetensors", other)
    with pytest.raises(ValueError, match=state.digest()):
        Experiment.from_config(read_workspace(folder).config).initial_state()


def test_where_the_data_came_from_is_not_said(tmp_path) -> None:
    table = tmp_path / "molecules.csv"
    table.write_text("smiles,mu,homo\n" + "CCO,1.5,-0.25\nCCC,0.0,-0.3\nCCN,1.2,-0.2\n" * 10)
    options = ("data=csv", f"data.path={table}", f"data.folder={tmp_path}/cache")
    tiny = (override for override in OVERRIDES if not override.startswith("data."))
    export_workspace(compose((*tiny, *options)), tmp_path / "w")
    assert not [name for name, text in contents(tmp_path / "w").items() if b"/tmp" in text]
    assert read_workspace(tmp_path / "w").config["data"]["path"] == "molecules.csv"


def test_a_folder_in_use_is_left_alone(tmp_path) -> None:
    (tmp_path / "w").mkdir()
    exported(tmp_path / "w")
    before = contents(tmp_path)
    with pytest.raises(ValueError, match=r"/w is in use"):
        exported(tmp_path / "w", "seed=1")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("")
    with pytest.raises(ValueError, match="expected an exported workspace to replace"):
        export_workspace(TOY, tmp_path / "mine", replace=True)
    assert contents(tmp_path) == {**before, "mine/thesis.tex": b""}


def test_a_replaced_workspace_is_kept_beside(tmp_path) -> None:
    folder = exported(tmp_path / "w")
    (folder / "cert" / "key").write_text("secret")
    for seed in (1, 2):
        export_workspace({**TOY, "seed": seed}, folder, replace=True)
        assert read_workspace(folder).config["seed"] == seed
    assert sorted(path.name for path in tmp_path.iterdir()) == ["w", "w.1", "w.2"]
    assert (tmp_path / "w.1" / "cert" / "key").read_text() == "secret"


def test_an_export_that_fails_leaves_nothing(tmp_path) -> None:
    config = compose(("experiment=demo", "data=csv", "data.path=missing.csv"))
    with pytest.raises(ValueError, match=r"missing\.csv"):
        export_workspace(config, tmp_path / "w")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("network.agg_addr=auto", "network.agg_addr='auto'"),
        ("network.agg_addr='https://a'", "network.agg_addr='https://a', expected a host"),
        ("network.agg_port=0", "network.agg_port=0, expected 1 to 65535"),
        ("network.poll_seconds=0", "network.poll_seconds=0, expected at least 1"),
        ("network.max_norm_ratio=0.5", "network.max_norm_ratio=0.5, expected above 1"),
        ("+network.use_tls=false", "network.use_tls=False"),
        ("federation.sites=[North,south]", "North"),
        ("federation.tested=best", "tested=best: a federation tests the last model"),
        ("site=site-1", "site=site-1 is of the command local"),
    ],
)
def test_what_no_federation_could_use_is_refused_in_one_line(override, message, tmp_path) -> None:
    with pytest.raises(ValueError, match=".") as raised:
        exported(tmp_path / "w", override)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        (
            "cols",
            lambda d: d["collaborators"].append("eve"),
            "expected some of ['site-1', 'site-2'",
        ),
        ("cols", lambda d: d["collaborators"].clear(), "collaborators=[]"),
        ("cols", lambda d: d["collaborators"].append("site-1"), "collaborators="),
        ("cols", lambda d: d.pop("collaborators"), "cols.yaml: collaborators=None"),
        (
            "plan",
            lambda d: d["aggregator"]["settings"].update(rounds_to_train=3),
            "plan.yaml: aggregator.settings.rounds_to_train=3, expected 4",
        ),
        (
            "plan",
            lambda d: d["task_runner"]["settings"].pop("experiment"),
            "plan.yaml: task_runner.settings.experiment=None",
        ),
        (
            "plan",
            lambda d: d["task_runner"]["settings"]["experiment"].pop("federation"),
            "plan.yaml: task_runner.settings.experiment.federation.sites=None",
        ),
        (
            "plan",
            lambda d: d["tasks"]["train"]["aggregation_type"]["settings"].pop("ema"),
            "plan.yaml: tasks.train.aggregation_type.settings.ema=None",
        ),
        (
            "plan",
            lambda d: d["network"]["settings"].update(agg_port="x"),
            "plan.yaml: network.agg_port='x'",
        ),
        (
            "plan",
            lambda d: d["network"].update(defaults="plan/defaults/network.yaml"),
            "plan.yaml: network.defaults is set",
        ),
    ],
)
def test_a_workspace_that_was_edited_wrongly_is_refused_by_file_and_key(
    file, change, message, tmp_path
) -> None:
    folder = exported(tmp_path / "w")
    edit(folder / "plan" / f"{file}.yaml", change)
    with pytest.raises(ValueError, match=".") as raised:
        read_workspace(folder)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_folder_that_is_no_workspace_is_refused(tmp_path) -> None:
    with pytest.raises(ValueError, match=r"plan\.yaml: no such file"):
        read_workspace(tmp_path)
    (tmp_path / "plan").mkdir()
    (tmp_path / "plan" / "plan.yaml").write_text("a: [")
    with pytest.raises(ValueError, match=r"plan\.yaml: not readable as YAML"):
        read_workspace(tmp_path)


def test_a_site_may_be_taken_out_of_the_federation(tmp_path) -> None:
    folder = exported(tmp_path / "w", "federation.sites=3")
    edit(folder / "plan" / "cols.yaml", lambda d: d["collaborators"].remove("site-2"))
    assert read_workspace(folder).sites == ("site-1", "site-3")


def test_fx_initializes_exports_and_imports_it(toy, tmp_path) -> None:
    def fx(folder: Path, *arguments: str) -> None:
        done = subprocess.run(
            [FX, *arguments], cwd=folder, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr

    folder = exported(tmp_path / "toy")
    fx(folder, "plan", "initialize")
    assert contents(folder)["save/init.pbuf"] == contents(toy)["save/init.pbuf"]
    fx(folder, "workspace", "export")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    fx(elsewhere, "workspace", "import", "--archive", str(folder / "toy.zip"))
    before, imported = contents(toy), contents(elsewhere / "toy")
    whole = read_workspace(toy).hash
    left_behind = {".gitignore", "README.md"}
    assert imported.keys() - before.keys() == {f"plan/plan_{whole[:8]}.yaml"}
    assert before.keys() - imported.keys() == left_behind
    assert all(imported[name] == before[name] for name in before.keys() - left_behind)
    assert read_workspace(elsewhere / "toy") == read_workspace(toy)
