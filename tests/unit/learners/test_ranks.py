"""One process alone, and what several send each other; they run in tests/e2e/test_ranks.py."""

import numpy as np
import pytest
import torch
import torch.distributed as dist

from openfl_flows.cli import main
from openfl_flows.learners.ranks import led
from openfl_flows.models.ranks import ALONE, Parcel, Ranks, _room
from openfl_flows.state import State
from tests.led_learner import Descent


def test_one_process_does_everything_itself():
    assert list(ALONE.share(range(5))) == [0, 1, 2, 3, 4]
    assert ALONE.in_order(lambda: ["a", "b"]) == ["a", "b"]
    total = torch.ones(3)
    assert ALONE.summed(total) is total
    with pytest.raises(KeyError), ALONE.summing():
        raise KeyError
    learner = led(Descent)
    assert isinstance(learner, Descent)
    assert learner.ranks is ALONE
    assert not dist.is_initialized()


@pytest.mark.parametrize("size", [2, 3])
def test_shares_are_all_there_is(size):
    shares = [Ranks(rank=rank, size=size).share(range(7)) for rank in range(size)]
    assert sorted(n for share in shares for n in share) == list(range(7))
    assert shares[1] == range(1, 7, size)


def arrived(parcel: Parcel) -> Parcel:
    room = _room([len(buffer) for buffer in parcel.buffers])
    for buffer, source in zip(room, parcel.buffers, strict=True):
        buffer[:] = source
    return Parcel(parcel.head, room)


def test_a_state_is_sent_from_where_it_is_and_taken_over_where_it_arrives():
    state = State({"large": np.arange(40_000.0), "small": np.ones(3)}, frozen=["small"])
    parcel = Parcel.of((state, "words"))
    assert [len(buffer) for buffer in parcel.buffers] == [320_000]
    assert len(parcel.head) < 2_000
    assert np.shares_memory(np.frombuffer(parcel.buffers[0]), state["large"])
    sent = arrived(parcel)
    received, words = sent.unpacked()
    assert received == state
    assert received.frozen == ("small",)
    assert words == "words"
    assert np.shares_memory(np.frombuffer(sent.buffers[0]), received["large"])


def test_an_optimizers_state_arrives_whole():
    parameters = [torch.randn(200, 100, requires_grad=True), torch.randn(2, requires_grad=True)]
    optimizer = torch.optim.Adam(parameters)
    (parameters[0].sum() + parameters[1].square().sum()).backward()
    optimizer.step()
    extra = {"half": torch.ones(3, dtype=torch.bfloat16), "none": torch.empty(0, 4)}
    local = {**optimizer.state_dict(), **extra, "transposed": torch.randn(3, 5).t()}
    received = arrived(Parcel.of(local)).unpacked()
    torch.testing.assert_close(received, local, rtol=0, atol=0)
    # Adam writes to what it is given.
    received["state"][0]["exp_avg"].zero_()
    assert local["state"][0]["exp_avg"].abs().sum() > 0


@pytest.mark.parametrize(
    ("name", "message"),
    [("cuda:0", "training.device=cuda:0 with 2 processes, expected cuda"),
     ("cuda", "this machine has 0 GPUs, expected one for each of its processes")],
)  # fmt: skip
def test_a_process_takes_no_gpu_of_another(name, message, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(ValueError, match=message):
        Ranks(rank=1, size=2, local_rank=1).device(name)
    assert ALONE.device(name) == torch.device(name)


def test_torchrun_alone_does_not_start_a_site_twice(monkeypatch):
    for name, value in (
        ("TORCHELASTIC_RUN_ID", "1"), ("RANK", "1"), ("WORLD_SIZE", "2"), ("LOCAL_RANK", "1"),
    ):  # fmt: skip
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match="expected `torchrun .* ranks -- COMMAND`"):
        led(Descent)


@pytest.mark.parametrize(
    ("words", "message"),
    [(["ranks"], "no command"), (["ranks", "--", "true"], "ranks -- true`"),
     (["ranks", "fx", "collaborator", "start", "-n", "a"], "ranks -- fx collaborator start -n a`")],
)  # fmt: skip
def test_ranks_need_torchrun_and_a_command(words, message, capsys, monkeypatch):
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    assert main(words) == 1
    assert message in capsys.readouterr().err
