"""What tells a federation that somebody disturbed from one that nobody did: nothing that counts."""

import json
from pathlib import Path

from openfl_flows.ops.files import load_state
from openfl_flows.ops.ledger import LEDGER, read_ledger
from openfl_flows.ops.ledger_lines import disagreements
from openfl_flows.ops.own_part import check_own_part
from tests.e2e.test_resume import essence

SITES = ("site-1", "site-2")


def local(out: Path, name: str) -> Path:
    return out / name / "local_state" / name


def assert_same(out: Path, whole: Path) -> None:
    record, expected = (
        json.loads((path / "run" / "run.json").read_text()) for path in (out, whole)
    )
    assert record["status"] == "finished"
    ledger = read_ledger(out / "run" / LEDGER)
    assert not list(disagreements(ledger, record))
    for name in SITES:
        assert check_own_part(ledger, local(out, name), name) == len(record["rounds"])
    assert [r["digest"] for r in record["rounds"]] == [r["digest"] for r in expected["rounds"]]
    if any(r["refused"] for r in record["rounds"]):
        # It is told, also in the ledger, and is all that differs.
        for each in (record, expected):
            del each["ledger"]
            each["rounds"] = [{**r, "refused": {}} for r in each["rounds"]]
    assert essence(record) == essence(expected)
    for file in (whole / "run").rglob("*.safetensors"):
        assert load_state(out / file.relative_to(whole)) == load_state(file)
    for file in ("best.pbuf", "last.pbuf"):
        path = Path("aggregator", "save", file)
        assert (out / path).read_bytes() == (whole / path).read_bytes()
