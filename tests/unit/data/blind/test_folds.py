"""Parts follow from key and name alone, in every process and every Python there is."""

import hashlib
import hmac
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openfl_flows.data.blind import folds

SECRET = bytes(range(32))
THIRDS = (0.5, 0.25, 0.25)
NAMES = ("C1CC1", "word AAAAAA", "cluster ä", "")

PROGRAM = f"""
import sys
sys.path.insert(0, {str(Path(folds.__file__).parent)!r})
import folds
secret = bytes(range(32))
print([(folds.group_number(secret, "molecule", n), folds.part_of(
    folds.group_number(secret, "molecule", n), {THIRDS!r})) for n in {NAMES!r}],
    folds.commitment(secret))
"""


def told_by(python: str, **environment: str) -> str:
    done = subprocess.run(
        [python, "-c", PROGRAM],
        env={**os.environ, **environment}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return done.stdout


def other_pythons() -> list[str]:
    folders = [
        *map(Path, os.environ.get("PATH", "").split(os.pathsep)),
        *Path("~/.pyenv/versions").expanduser().glob("*/bin"),
    ]
    names = [f"python3.{minor}" for minor in range(8, 15)]
    here = f"python3.{sys.version_info.minor}"
    found = {
        name: str(path)
        for folder in folders
        for name in names
        for path in [folder / name]
        if name != here and path.is_file() and _runs(path)
    }
    return sorted(found.values())


def _runs(python: Path) -> bool:
    return not subprocess.run([python, "-c", "import hmac"], capture_output=True).returncode


def test_the_number_is_that_of_the_published_formula() -> None:
    digest = hmac.new(SECRET, b"molecule\0C1CC1", hashlib.sha256).digest()
    expected = int.from_bytes(digest[:8], "big") / 2**64
    assert folds.group_number(SECRET, "molecule", "C1CC1") == pytest.approx(expected, abs=1e-15)


@given(st.binary(min_size=32, max_size=32), st.text(), st.text())
def test_a_number_is_below_one(secret, kind, group) -> None:
    assert 0 <= folds.group_number(secret, kind, group) < 1


def test_parts_have_their_shares() -> None:
    numbers = [folds.group_number(SECRET, "molecule", str(i)) for i in range(20_000)]
    counts = Counter(folds.part_of(number, (0.7, 0.2, 0.1)) for number in numbers)
    for part, share in zip(folds.PARTS, (0.7, 0.2, 0.1), strict=True):
        assert counts[part] / 20_000 == pytest.approx(share, abs=0.01)


def test_a_larger_training_part_only_takes_from_the_others() -> None:
    for i in range(1000):
        number = folds.group_number(SECRET, "molecule", str(i))
        if folds.part_of(number, (0.6, 0.2, 0.2)) == "train":
            assert folds.part_of(number, (0.8, 0.1, 0.1)) == "train"


def test_kind_and_key_both_matter() -> None:
    number = folds.group_number(SECRET, "molecule", "C1CC1")
    assert number != folds.group_number(SECRET, "protein", "C1CC1")
    assert number != folds.group_number(SECRET[::-1], "molecule", "C1CC1")
    assert folds.commitment(SECRET) != folds.commitment(SECRET[::-1])


@pytest.mark.parametrize("seed", ["0", "1", "random"])
def test_another_process_says_the_same(seed) -> None:
    assert told_by(sys.executable, PYTHONHASHSEED=seed) == told_by(sys.executable)


def test_other_versions_of_python_say_the_same() -> None:
    pythons = other_pythons()
    if not pythons:
        pytest.skip("there is no other Python here")
    expected = told_by(sys.executable)
    assert {python: told_by(python) for python in pythons} == dict.fromkeys(pythons, expected)
