"""The aggregator's own readiness: what it looks at in its workspace."""

from pathlib import Path

from openfl.protocols import utils

from openfl_flows.pki.plan import aggregator_of
from openfl_flows.readiness.aggregator import AggregatorCase, look
from openfl_flows.readiness.findings import Finding
from openfl_flows.readiness.machine import Machine
from openfl_flows.taskrunner.attested_party import own_enclave
from openfl_flows.taskrunner.lint import findings as lint_findings
from openfl_flows.taskrunner.pipeline import ExactPipeline
from openfl_flows.taskrunner.readiness import pins_of, rules_of
from openfl_flows.taskrunner.wire import check_initial, from_model_tensors
from openfl_flows.taskrunner.workspace import PLAN, read_workspace


def aggregator_findings(folder: Path, machine: Machine | None = None) -> list[Finding]:
    """Look at everything before the aggregator starts.

    Args:
        folder: Its workspace.
        machine: What it runs on; this one by default.

    Raises:
        ValueError: The plan cannot be read.
    """
    plan = read_workspace(folder)
    pins, network = pins_of(folder), plan.config["network"]

    def initial() -> tuple[str, int]:
        file = folder / "save" / "init.pbuf"
        if not file.is_file():
            raise ValueError(f"{file}: no such file, expected the initial model")
        try:
            proto = utils.load_proto(file)
            tensors, _ = utils.deconstruct_model_proto(proto, ExactPipeline())
            model = from_model_tensors(tensors)
        except Exception as error:  # noqa: BLE001
            raise ValueError(f"{file}: not a readable model: {error}") from None
        check_initial(plan.config, tensors)
        return model.digest(), sum(array.nbytes for array in model.values())

    case = AggregatorCase(
        workspace=folder,
        name=network["agg_addr"].lower(),
        port=network["agg_port"],
        sites=plan.sites,
        rules=rules_of(plan),
        pins=pins,
        lint=lint_findings(folder / PLAN),
        initial=initial,
        own_enclave=own_enclave(folder, aggregator_of(folder), plan),
    )
    return look(case, machine or Machine.here(folder, pins))
