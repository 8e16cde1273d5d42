"""No mutated frame is taken for the one that was sent, and none costs the receiver memory."""

import subprocess
import sys
import tracemalloc
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from openfl_flows.codecs.frame import HEADER_BYTES
from openfl_flows.codecs.recipes import build_compression
from openfl_flows.ops.memory import peak_rss_bytes
from openfl_flows.state import BUCKET_BYTES, Array
from tests.fuzz_frames import (
    CODECS,
    MUTATIONS,
    RLE_BLOCK,
    TERABYTES,
    Traffic,
    compressed,
    receive,
    traffic,
    zstd_of,
)

ROOT = Path(__file__).resolve().parents[2]


def of_codec(name: str, sizes: tuple[int, int, int]) -> Traffic:
    return traffic(build_compression(name).codec, sizes)


def outcome(frame: Array, sent: Traffic, part: int) -> str:
    """'refused', or what happened instead."""
    try:
        receive(frame, sent.headers[part], sent.codec)
    except ValueError as error:
        line, begin = str(error), f"update of 'site-2' refused: frame {part + 1} of 3 "
        right = line.startswith(begin) and len(line) > len(begin) and line.isprintable()
        return "refused" if right else f"refused without site or reason: {line!r}"
    except BaseException as error:  # noqa: BLE001 - whatever else it is, is what this looks for
        return f"{type(error).__name__}: {error}"
    return "taken"


def outcomes(sent: Traffic, number: int, seed: int = 0) -> Counter[tuple[str, str]]:
    """How ``number`` mutated frames ended, every mutation in its turn."""
    rng = np.random.default_rng(seed)
    counted: Counter[tuple[str, str]] = Counter()
    while counted.total() < number:
        mutation = MUTATIONS[counted.total() % len(MUTATIONS)]
        part = int(rng.integers(3))
        frame = mutation(rng, sent, part)
        if not np.array_equal(frame, sent.frame(part)):
            counted[mutation.__name__, outcome(frame, sent, part)] += 1
    return counted


def assert_all_refused(number: int, seed: int) -> None:
    counted: Counter[tuple[str, str, str]] = Counter()
    each = -(-number // len(CODECS))
    for codec in CODECS:
        for ended, times in outcomes(of_codec(codec, (4096, 4096, 1000)), each, seed).items():
            counted[codec, *ended] += times
    others = {ended: times for ended, times in counted.items() if ended[-1] != "refused"}
    assert not others
    assert counted.total() >= number
    assert len(counted) == len(CODECS) * len(MUTATIONS)


@pytest.mark.parametrize("codec", CODECS)
def test_what_is_not_mutated_is_taken(codec):
    sent = of_codec(codec, (4096, 4096, 1000))
    for part, header in enumerate(sent.headers):
        payload = sent.payloads["site-2", 5, part]
        values = receive(sent.frame(part), header, sent.codec)
        np.testing.assert_array_equal(values, sent.codec.decode(payload, header.size))


def test_of_10_000_mutated_frames_all_are_refused_with_site_and_reason():
    assert_all_refused(10_000, seed=0)


@pytest.mark.slow
def test_of_200_000_mutated_frames_all_are_refused_with_site_and_reason():
    assert_all_refused(200_000, seed=1)


@pytest.mark.parametrize("codec", CODECS)
def test_no_mutated_frame_takes_twice_the_memory_of_the_largest(codec):
    sent = of_codec(codec, (2**20, 2**20, 1000))
    rng = np.random.default_rng(0)
    largest, taken = HEADER_BYTES + 4 * 2**20, {}
    for mutation in MUTATIONS:
        frame = mutation(rng, sent, 0)
        tracemalloc.start()
        outcome(frame, sent, 0)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        taken[mutation.__name__] = peak + min(frame.nbytes, largest)  # it arrived as it is
    assert max(taken.values()) < 2 * largest, taken


def print_memory_of_bombs(codec: str) -> None:
    """What zstd bombs, then a legal frame, take of a process, in frames of the largest bucket.

    Python's own accounts do not see what zstd takes.
    """
    size = BUCKET_BYTES // 4
    sent = of_codec(codec, (size, 1, 1))
    num_bytes = sent.codec.num_bytes(size)
    legal = sent.frame(0)
    bombs = [
        compressed(sent, 0, zstd_of(content, num_blocks))
        for content in (num_bytes, 1000 * RLE_BLOCK, *TERABYTES.tolist())
        for num_blocks in (1, 1000, 100_000)
    ]
    for ends, frames in (("refused", bombs), ("taken", [legal])):
        Path("/proc/self/clear_refs").write_text("5")  # the peak is what is held now
        before = peak_rss_bytes()
        for frame in frames:
            assert outcome(frame, sent, 0) == ends
        print((peak_rss_bytes() - before) / (HEADER_BYTES + BUCKET_BYTES))  # noqa: T201


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peaks as Linux counts them")
@pytest.mark.parametrize("codec", ["identity", "int4"])
def test_no_bomb_takes_more_memory_than_the_largest_frame(codec):
    code = f"from tests.laws import test_frame_fuzz as t; t.print_memory_of_bombs({codec!r})"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    bombs, legal = map(float, done.stdout.split())
    assert bombs < 1.05
    assert legal > 0.2, "what a legal frame takes must show"
