"""What it costs an aggregator to look at a round and to record it, after many rounds.

python -m tests.bench.monitoring [ROUNDS [SITES]]
"""

import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from openfl_flows.atomic import write_atomically
from openfl_flows.ops.ledger import LEDGER, Ledger
from openfl_flows.ops.ledger_lines import round_line, start_line
from openfl_flows.ops.monitor import Monitor, monitored
from openfl_flows.ops.record import RECORD, encoded
from openfl_flows.ops.rounds import RoundRecord, SiteRound

HEX = "0123456789abcdef" * 4
TIMED = ("train", "upload", "download", "decode", "encode", "wait", "absent",
         "aggregated_model_validation", "local_model_validation")  # fmt: skip
METRICS = ("train_loss", *(f"metric_{i}" for i in range(8)))


def finished_round(number: int, sites: int, random: np.random.Generator) -> dict[str, Any]:
    """A round as a record has it, with some noise in everything."""

    def noisy(value: float) -> float:
        return value * float(np.exp(0.05 * random.standard_normal()))

    def held() -> int:
        return int(1e9 + 1e5 * random.standard_normal())

    parts = {
        f"site-{i}": SiteRound(
            num_samples=300, num_steps=10, metrics={name: noisy(1.0) for name in METRICS},
            received={name: noisy(1.0) for name in METRICS[1:]},
            seconds={name: noisy(2.0) for name in TIMED}, peak_rss_bytes=10**9, bytes_up=10**6,
            bytes_down=10**6, frames=HEX, update=HEX, rss_bytes=held(),
        )
        for i in range(sites)
    }  # fmt: skip
    return asdict(
        RoundRecord(
            round=number, digest=HEX, seconds=noisy(18.0), bytes_up=10**6, bytes_down=10**6,
            sites=parts, frames=HEX, rss_bytes=held(), model_bytes=10**9,
        )
    )  # fmt: skip


def main() -> None:
    """Print CPU milliseconds of the last ten rounds, and of looking at all of them again."""
    rounds, sites = (*map(int, sys.argv[1:]), *(500, 8)[len(sys.argv) - 1 :])
    random = np.random.default_rng(0)
    monitor, known = Monitor(rounds=rounds), list[str]()
    record: dict[str, Any] = {"config": {}, "rounds": []}
    ledger = Ledger().append("start", start_line({}, kind="federated", round_=0, model=HEX))
    spent: dict[str, list[float]] = {"look": [], "record": [], "ledger": []}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(1, rounds + 1):
            entry = finished_round(number, sites, random)
            record["rounds"].append(entry)
            began = time.process_time()
            monitor.observe(entry)
            monitor.document()
            looked = time.process_time()
            write_atomically(Path(folder, RECORD), encoded(record, known))
            recorded = time.process_time()
            line = round_line({}, entry, before=HEX, join_state=HEX, average=None)
            ledger = ledger.append("round", line)
            ledger.write(Path(folder, LEDGER))
            ended = time.process_time()
            times = (looked - began, recorded - looked, ended - recorded)
            for name, seconds in zip(spent, times, strict=True):
                spent[name].append(seconds)
        size = Path(folder, RECORD).stat().st_size
    for name, times_ in spent.items():
        sys.stdout.write(f"{name}: {1000 * float(np.median(times_[-10:])):.1f} ms a round\n")
    began = time.process_time()
    monitored(record["rounds"], planned=rounds)
    sys.stdout.write(f"again, all {rounds}: {time.process_time() - began:.1f} s\n")
    sys.stdout.write(f"{RECORD}: {size / 1e6:.1f} MB\n")


if __name__ == "__main__":
    main()
