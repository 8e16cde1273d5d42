"""Processes that end together, whatever they do."""

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from openfl_flows.taskrunner import parties as module
from openfl_flows.taskrunner.parties import LOG, Party, run_parties
from tests.fx_processes import living

SLEEP = "import time; time.sleep(60)"
STUBBORN = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {SLEEP}"
LEAVING_A_CHILD = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {SLEEP!r}])"


def python(
    folder: Path, arguments: Sequence[str], environment: Mapping[str, str]
) -> "subprocess.Popen[bytes]":
    (folder / LOG).parent.mkdir(parents=True, exist_ok=True)
    with (folder / LOG).open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-S", "-c", *arguments],
            cwd=folder,
            env={**os.environ, **environment},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def made(folder: Path, **codes: str) -> list[Party]:
    return [Party(name=n, folder=folder / n, arguments=(code,)) for n, code in codes.items()]


def test_all_ends_well(tmp_path: Path):
    seen = []
    parties = made(tmp_path, aggregator="import os; print(os.environ['WORD'])", site="pass")
    run_parties(parties, launch=python, environment={"WORD": "hello"}, watch=seen.append)
    assert seen[-1] == {"aggregator": 0, "site": 0}
    assert parties[0].log.read_text() == "hello\n"


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("print('a', flush=True); raise SystemExit('b c')", "exit status 1: b c"),
        ("import os; os.kill(os.getpid(), 9)", "signal 9"),
    ],
)
def test_a_failure_is_told_and_ends_the_others(code: str, message: str, tmp_path: Path):
    parties = made(tmp_path, aggregator=LEAVING_A_CHILD, site=code)
    with pytest.raises(
        ValueError, match=rf"^site ended with {message} \(see .*/site/logs/fx.log\)$"
    ):
        run_parties(parties, launch=python)
    assert living(tmp_path) == []


def test_who_does_not_listen_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "STOP_SECONDS", 0.5)

    def interrupt(statuses: object) -> None:
        if (tmp_path / "aggregator" / LOG).read_text():
            raise KeyboardInterrupt

    (tmp_path / "aggregator" / LOG).parent.mkdir(parents=True)
    (tmp_path / "aggregator" / LOG).touch()
    code = STUBBORN.replace("import time;", "print('deaf', flush=True); import time;")
    with pytest.raises(KeyboardInterrupt):
        run_parties(made(tmp_path, aggregator=code), launch=python, watch=interrupt)
    assert living(tmp_path) == []


def test_sites_leave_with_the_aggregator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "LEAVE_SECONDS", 0.3)
    with pytest.raises(ValueError, match="^site still ran 0 s after aggregator had ended"):
        run_parties(made(tmp_path, aggregator="pass", site=SLEEP), launch=python)
    assert living(tmp_path) == []
