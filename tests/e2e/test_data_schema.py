"""A site whose data are not as the plan says ends before it connects, and says why in one line."""

import csv
import json
from pathlib import Path

from openfl_flows.taskrunner.parties import LOG
from tests.fx_processes import AT_ONCE, site
from tests.schema_data import MOLECULES

SMALL = ("model.network.num_layers=1", "model.sampling.num=0")


def test_a_site_with_a_table_in_hartree_never_connects(federation) -> None:
    out: Path = federation(*MOLECULES, "data.limit=60", *SMALL, AT_ONCE)
    table = out / "site-1" / "data" / "site-1" / "molecules.csv"
    with table.open(newline="") as stream:
        header, *rows = csv.reader(stream)
    number = header.index("homo_ev")
    for row in rows:
        row[number] = str(float(row[number]) / 27.211386246)
    with table.open("w", newline="") as stream:
        csv.writer(stream).writerows([header, *rows])
    # No aggregator runs: a site that tried to reach it would wait.
    with site(out, "site-1") as process:
        assert process.wait() == 1
    log = (out / "site-1" / LOG).read_text()
    said = "the data do not fit the plan's schema molecules_v1: rows, split, unit (30 or more)"
    assert said in " ".join(log.split())
    assert max((row[header.index("smiles")] for row in rows), key=len) not in log
    card = json.loads((out / "site-1" / "logs" / "card.json").read_text())
    assert card["broken"] == ["rows", "split", "unit"]
