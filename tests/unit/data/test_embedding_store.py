"""A store of embeddings: whole or absent, whoever writes, dies or damages it."""

import multiprocessing
import os
import signal
import sqlite3
import time
from pathlib import Path

import numpy as np
import pytest

from openfl_flows.data.embedding_store import EmbeddingStore

WIDTH = 64


def arrays(prefix: str, num: int, rows: int | None = None) -> dict[str, np.ndarray]:
    """What is stored under a key follows from the key."""
    found = {}
    for i in range(num):
        rng = np.random.default_rng([i, *prefix.encode()])
        shape = (WIDTH,) if rows is None else (rows + i % 3, WIDTH)
        found[f"{prefix}{i}"] = rng.standard_normal(shape, dtype=np.float32)
    return found


def assert_equal(found, expected):
    assert found.keys() == expected.keys()
    for key, array in expected.items():
        assert found[key].dtype == np.float32
        np.testing.assert_array_equal(found[key], array)


@pytest.fixture
def file(tmp_path) -> Path:
    return tmp_path / "deep" / "store.sqlite"


@pytest.mark.parametrize("rows", [None, 1, 7])
def test_what_is_put_is_got(file, rows):
    expected = arrays("a", 1201, rows)
    EmbeddingStore(file, WIDTH).put(expected)
    store = EmbeddingStore(file, WIDTH)
    assert_equal(store.get([*expected, "absent"]), expected)
    assert_equal(store.get(["a7"]), {"a7": expected["a7"]})
    assert store.get([]) == {}


def test_what_is_got_may_be_written_to(file):
    store = EmbeddingStore(file, WIDTH)
    store.put(arrays("a", 1))
    store.get(["a0"])["a0"][0] = 5
    assert_equal(store.get(["a0"]), arrays("a", 1))


def test_what_is_there_stays(file):
    store = EmbeddingStore(file, WIDTH)
    store.put(arrays("a", 3))
    store.put({"a1": np.zeros(WIDTH, np.float32), **arrays("b", 1)})
    assert_equal(store.get(["a1", "b0"]), {"a1": arrays("a", 2)["a1"], **arrays("b", 1)})


def test_a_file_that_is_not_there_holds_nothing(file):
    assert EmbeddingStore(file, WIDTH).get(["a"]) == {}
    assert not file.parent.exists()


def write(file: Path, prefix: str, begun) -> None:
    store = EmbeddingStore(file, WIDTH)
    begun.wait()
    for start in range(20):
        store.get(["a0"])
        store.put(arrays(f"{prefix}{start}-", 50))


def test_processes_that_write_at_once_lose_nothing(file):
    context = multiprocessing.get_context("fork")
    begun = context.Barrier(4)
    names = ("a", "b", "c")
    processes = [context.Process(target=write, args=(file, name, begun)) for name in names]
    for process in processes:
        process.start()
    begun.wait()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    for name in names:
        for start in range(20):
            expected = arrays(f"{name}{start}-", 50)
            assert_equal(EmbeddingStore(file, WIDTH).get(list(expected)), expected)


def put_for_ever(file: Path) -> None:
    store = EmbeddingStore(file, WIDTH)
    for batch in range(10**6):
        store.put(arrays(f"{batch}-", 100))


def test_a_writer_that_is_killed_leaves_whole_batches(file):
    context = multiprocessing.get_context("fork")
    rng = np.random.default_rng(0)
    for _ in range(15):
        process = context.Process(target=put_for_ever, args=(file,))
        process.start()
        time.sleep(float(rng.uniform(0, 0.05)))
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        store = EmbeddingStore(file, WIDTH)
        for batch in range(100):
            expected = arrays(f"{batch}-", 100)
            found = store.get(list(expected))
            if not found:
                break
            assert_equal(found, expected)
    store.put(arrays("after", 2))
    assert_equal(store.get(["after0", "after1"]), arrays("after", 2))


def test_a_writer_that_is_killed_before_its_first_commit_leaves_an_empty_store(file):
    # What SQLite leaves when it is killed between making the file and the first commit.
    file.parent.mkdir()
    file.touch()
    store = EmbeddingStore(file, WIDTH)
    assert store.get(["a0"]) == {}
    store.put(arrays("a", 1))
    assert_equal(store.get(["a0"]), arrays("a", 1))


@pytest.mark.parametrize("damage", ["text", "cut", "garbled", "folder", "table"])
def test_a_damaged_file_is_named(file, damage):
    store = EmbeddingStore(file, WIDTH)
    store.put(arrays("a", 500))
    content = file.read_bytes()
    file.unlink()
    if damage == "text":
        file.write_text("name,embedding\n" * 100)
    elif damage == "cut":
        file.write_bytes(content[: len(content) // 2])
    elif damage == "garbled":
        file.write_bytes(content[:4096] + b"\x99" * (len(content) - 4096))
    elif damage == "folder":
        file.mkdir()
    else:
        with sqlite3.connect(file) as connection:
            connection.execute("CREATE TABLE embeddings (name TEXT)")
    if damage != "folder":
        with pytest.raises(ValueError, match=str(file)) as refused:
            store.get([f"a{i}" for i in range(500)])
        assert len(str(refused.value).splitlines()) == 1
    with pytest.raises(ValueError, match=str(file)):
        store.put(arrays("b", 500))


def test_arrays_of_another_width_are_refused(file):
    EmbeddingStore(file, WIDTH).put({**arrays("a", 1), **arrays("r", 1, rows=3)})
    for key in ("a0", "r0"):
        with pytest.raises(ValueError, match=rf"{file}: embedding {key} .* rows of 320 numbers"):
            EmbeddingStore(file, 320).get([key])
