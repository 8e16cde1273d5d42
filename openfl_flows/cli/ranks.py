"""ranks: run a site's command over several processes (GPUs), which torchrun starts."""

import argparse
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from openfl_flows.ops.parent import end_with_parent


def add_ranks(commands: Any) -> None:
    """Add the command to a parser's."""
    text = "train a site's model over several GPUs: torchrun ... -m openfl_flows ranks -- COMMAND"
    command = commands.add_parser(
        "ranks",
        help=text,
        description="Started by torchrun, once for each GPU of the site. The first of these "
        "processes runs COMMAND, the others train with it; all end with it.",
    )
    command.add_argument("command", nargs=argparse.REMAINDER, metavar="COMMAND")
    command.set_defaults(run=_ranks)


def _ranks(options: argparse.Namespace) -> None:
    command = options.command[options.command[:1] == ["--"] :]
    if not command:
        raise ValueError("ranks: no command, expected `ranks -- COMMAND`")
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        raise ValueError(
            "ranks: not started by torchrun, expected "
            f"`torchrun --nproc-per-node GPUS -m openfl_flows ranks -- {' '.join(command)}`"
        )
    end_with_parent(signal.SIGTERM)
    if os.environ["RANK"] == "0":
        _lead(command)
    else:
        # What interrupts rank 0's command ends a follower at once, also where it waits.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        from openfl_flows.learners.ranks import follow

        follow()


def _lead(command: Sequence[str]) -> None:
    """Run the command, then let the followers go; its status is this process's."""
    size = os.environ["WORLD_SIZE"]
    led = {} if size == "1" else {"OPENFL_FLOWS_RANKS": size}
    # A process of its own: however it ends, the followers are told, also if it never trained.
    running = subprocess.Popen(
        command,
        env={**os.environ, **led},
        preexec_fn=end_with_parent,
    )
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda number, _: running.send_signal(number))
    status = running.wait()
    if status:
        # torchrun ends the followers.
        sys.exit(status if status > 0 else 128 - status)
    if led:
        from openfl_flows.learners.ranks import dismiss

        dismiss()
