import copy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from openfl_flows.taskrunner.lint import check_plan, findings, lint_plan

COLS = ["site-1", "site-2"]
PLAN = {
    "aggregator": {
        "template": "openfl_flows.taskrunner.aggregator.Aggregator",
        "settings": {
            "init_state_path": "save/init.pbuf",
            "rounds_to_train": 4,
            "persist_checkpoint": False,
            "run": "local_state/run",
            "max_norm_ratio": None,
        },
    },
    "compression_pipeline": {"template": "openfl_flows.taskrunner.pipeline.ExactPipeline"},
    "data_loader": {"template": "src.dataloader.SiteData", "settings": {}},
    "network": {
        "template": "openfl.federation.Network",
        "settings": {
            "agg_addr": "agg.example.org",
            "agg_port": 50051,
            "use_tls": True,
            "require_client_auth": True,
            "transport_protocol": "grpc",
        },
    },
    "straggler_handling_policy": {
        "template": "openfl.component.aggregator.straggler_handling.WaitForAllPolicy"
    },
    "task_runner": {
        "template": "src.taskrunner.LearnerTaskRunner",
        "settings": {"experiment": {"smiles": ["/C=C/C", "C/C=C\\C", "a..b"], "lr": 1e-3}},
    },
    "tasks": {
        "train": {
            "function": "train",
            "aggregation_type": {
                "template": "openfl_flows.taskrunner.aggregation.JoinAggregation",
                "settings": {"join": {"name": "diloco"}, "ema": None},
            },
        }
    },
}
ABSENT = object()


def changed(key: str, value: Any) -> dict[str, Any]:
    plan = copy.deepcopy(PLAN)
    *path, last = key.split(".")
    at: dict[str, Any] = plan
    for part in path:
        at = at.setdefault(part, {})
    if value is ABSENT:
        del at[last]
    else:
        at[last] = value
    return plan


def test_a_sound_plan_has_no_findings():
    assert lint_plan(PLAN, COLS) == []


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("network.settings.use_tls", False, "use_tls=false, expected true"),
        ("network.settings.use_tls", ABSENT, "use_tls is missing, expected true"),
        ("network.settings.use_tls", 1, "use_tls=1, expected true"),
        ("network.settings.use_tls", "false", "use_tls=false, expected true"),
        ("network.settings.require_client_auth", False, "=false, expected true"),
        ("network.settings.require_client_auth", ABSENT, " is missing, expected true"),
        ("network.settings.transport_protocol", "rest", "=rest, expected grpc"),
        ("network.settings.transport_protocol", ABSENT, " is missing, expected grpc"),
        ("network.settings.agg_addr", "auto", "=auto, expected the aggregator's host name"),
        ("network.settings.agg_addr", ABSENT, " is missing, expected the aggregator's host name"),
        ("network.settings.agg_addr", "a b", "=a b, expected the aggregator's host name"),
        ("network.settings.agg_port", "auto", "=auto, expected a port from 1 to 65535"),
        ("network.settings.agg_port", 0, "=0, expected a port"),
        ("aggregator.settings.single_col_cert_common_name", "all", "=all, expected none"),
        ("aggregator.settings.secure_aggregation", True, "=true, expected false as in"),
        ("aggregator.settings.persist_checkpoint", True, "=true, expected false"),
        ("aggregator.settings.persist_checkpoint", ABSENT, " is missing, expected false"),
        ("aggregator.settings.rounds_to_train", 0, "=0, expected at least 1"),
        ("aggregator.settings.rounds_to_train", ABSENT, " is missing, expected at least 1"),
        ("aggregator.settings.run", "/var/run/ours", "=/var/run/ours, expected a path relative"),
        ("aggregator.settings.run", "~/run", "=~/run, expected a path relative"),
        ("aggregator.settings.run", "C:\\run", "=C:\\run, expected a path relative"),
        ("aggregator.settings.run", "file:///run", "=file:///run, expected a path relative"),
        ("aggregator.settings.run", "save/../../run", "expected a path inside the workspace"),
        ("aggregator.settings.run", "..", "expected a path inside the workspace"),
        (
            "network.settings.attestation",
            {"required": "none", "site_quoter": {"nobody": "tsm"}},
            "attestation.site_quoter.nobody=tsm, expected one of",
        ),
        ("network.defaults", "plan/defaults/network.yaml", "expected every setting in the plan"),
        ("straggler_handling_policy.template", "openfl.component.PercentagePolicy", "none or Wait"),
        ("connector.template", "openfl.component.ConnectorFlower", "connector: unknown section"),
        ("tasks", [], "tasks=[], expected a section"),
        ("data_loader.template", "subprocess.Popen", "=subprocess.Popen, expected a class"),
        ("data_loader.template", "openfl_flowsX.a.B", "=openfl_flowsX.a.B, expected a class"),
        # A real way to a command line: this module imports the function by name.
        ("data_loader.template", "openfl.utilities.workspace.check_call", "expected a class"),
        ("tasks.train.aggregation_type.template", "os.system", "=os.system, expected a class"),
        ("data_loader.template", None, "data_loader.template=None, expected a class"),
    ],
)
def test_one_finding_names_key_value_and_what_is_expected(key, value, expected):
    (finding,) = lint_plan(changed(key, value), COLS)
    assert finding.startswith(key.removesuffix(".template"))
    assert expected in finding
    assert "\n" not in finding


@pytest.mark.parametrize(
    ("cols", "expected"),
    [
        ([], "collaborators=[], expected a list"),
        (None, "collaborators=None, expected a list"),
        ("site-1", "collaborators=site-1, expected a list"),
        (["Site-1"], "'Site-1', expected lower-case"),
        (["site 1"], "'site 1', expected lower-case"),
        (["../site"], "'../site', expected lower-case"),
        (["a" * 65], "expected lower-case"),
        ([7], "7, expected lower-case"),
        (["a", "b", "a"], "'a' twice"),
    ],
)
def test_sites_that_fx_cannot_certify_are_found(cols, expected):
    (finding,) = lint_plan(PLAN, cols)
    assert expected in finding


def test_an_empty_plan_lacks_what_it_must_say():
    assert len(lint_plan({}, COLS)) == 7


def test_several_findings_are_all_said():
    plan = changed("network.settings.use_tls", False)
    plan["aggregator"]["settings"]["rounds_to_train"] = 0
    assert len(lint_plan(plan, [*COLS, "X"])) == 3


def write(folder: Path, plan: Any, cols: Any) -> Path:
    (folder / "cols.yaml").write_text(yaml.safe_dump(cols))
    (folder / "plan.yaml").write_text(yaml.safe_dump(plan))
    return folder / "plan.yaml"


def test_a_plan_on_disk_is_refused_with_its_file(tmp_path):
    check_plan(write(tmp_path, PLAN, {"collaborators": COLS}))
    path = write(tmp_path, changed("network.settings.use_tls", False), {"collaborators": ["A"]})
    with pytest.raises(ValueError, match=r"plan\.yaml: network\.settings\.use_tls=false"):
        check_plan(path)
    assert [line.partition(": ")[0] for line in findings(path)] == [
        str(path),
        str(tmp_path / "cols.yaml"),
    ]
    (tmp_path / "cols.yaml").unlink()
    with pytest.raises(ValueError, match=r"cols\.yaml: no such file"):
        check_plan(path)


def test_it_loads_neither_openfl_nor_torch():
    code = (
        "import sys, openfl_flows.taskrunner.lint\n"
        "print({'openfl', 'torch', 'numpy', 'grpc', 'cryptography'} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
