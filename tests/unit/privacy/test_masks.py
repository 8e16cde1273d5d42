"""Masks: gone from the sum, all that is seen of one update, and never used twice."""

import json
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from openfl_flows.privacy.fixed_point import summed, to_fixed
from openfl_flows.privacy.masks import SECRETS, Masks
from openfl_flows.privacy.withheld import WithheldError
from openfl_flows.state import State
from openfl_flows.update import Update

SIZE = 40_000
# Keys are drawn anew in every run: what random words fall below once in 10^9 runs. What an update
# itself gives is 0.
CHANCE = 1e-9


def model(seed: int) -> State:
    rng = np.random.default_rng(seed)
    shapes = {"a": (SIZE // 4, 3), "b": (SIZE // 4,)}
    return State({n: rng.standard_normal(s).astype("float32") for n, s in shapes.items()})


def fixed(seed: int, sites: int = 3) -> State:
    return to_fixed(model(seed), model(0), num_samples=5, sites=sites)


def words(state: State) -> np.ndarray:
    return np.concatenate([array.ravel() for array in state.values()])


def agreed(folder: Path, sites: int = 3, federation: str = "f") -> dict[str, Masks]:
    names = [f"site-{number}" for number in range(1, sites + 1)]
    masks = {name: Masks(folder / name, name, federation) for name in names}
    for name in names:
        masks[name].agree({other: masks[other].public for other in names if other != name})
    return masks


def hidden(masks: dict[str, Masks], model: str = "m", round_: int = 1) -> dict[str, State]:
    return {
        name: own.hide(fixed(number), model, round_)
        for number, (name, own) in enumerate(masks.items(), start=1)
    }


@pytest.mark.parametrize("sites", [2, 3, 5])
def test_they_cancel_in_the_sum_of_all_and_in_no_other(tmp_path, sites):
    sent = hidden(agreed(tmp_path, sites))

    def total(states: list[State]) -> State:
        updates = [Update(site=f"{n}", state=s, num_samples=5) for n, s in enumerate(states)]
        return summed(model(0), updates).state

    plain = [fixed(number) for number in range(1, sites + 1)]
    assert total([*sent.values()]) == total(plain)
    for some in combinations(range(sites), sites - 1):
        assert total([[*sent.values()][n] for n in some]) != total([plain[n] for n in some])


def test_one_update_alone_is_random_words(tmp_path):
    masks = agreed(tmp_path)
    seen = words(masks["site-1"].hide(fixed(1), "m", 1))
    uniform = seen / 2.0**64
    assert stats.kstest(uniform, "uniform").pvalue > CHANCE
    bits = np.unpackbits(seen.view(np.uint8))
    assert abs(bits.mean() - 0.5) < 6 * 0.5 / np.sqrt(bits.size)
    true = np.concatenate([(model(0)[n] - model(1)[n]).ravel() for n in ("a", "b")])
    assert abs(np.corrcoef(uniform, true)[0, 1]) < 6 / np.sqrt(true.size)
    # Without masks it is the update itself.
    assert stats.kstest(words(fixed(1)) / 2.0**64, "uniform").pvalue < CHANCE
    assert np.corrcoef(words(fixed(1)).view(np.int64), true)[0, 1] > 0.999


def test_it_takes_the_secrets_of_all_others_to_see_an_update(tmp_path):
    masks = agreed(tmp_path)
    left = words(masks["site-1"].hide(fixed(1), "m", 1))
    for accomplice in ("site-2", "site-3"):
        assert stats.kstest(left / 2.0**64, "uniform").pvalue > CHANCE
        own = Masks(tmp_path / accomplice, accomplice, "f")
        own.agree({"site-1": masks["site-1"].public})
        nothing = State({name: np.zeros_like(array) for name, array in fixed(1).items()})
        left = left + words(own.hide(nothing, "m", 1))
    assert np.array_equal(left, words(fixed(1)))


@pytest.mark.parametrize(("model_", "round_"), [("m", 2), ("n", 2)])
def test_every_round_and_model_has_masks_of_its_own(tmp_path, model_, round_):
    masks = agreed(tmp_path)["site-1"]
    first = words(masks.hide(fixed(1), "m", 1)) - words(fixed(1))
    second = words(masks.hide(fixed(1), model_, round_)) - words(fixed(1))
    assert np.count_nonzero(first == second) == 0


def test_a_restarted_site_sends_the_same(tmp_path):
    first = agreed(tmp_path)["site-1"].hide(fixed(1), "m", 1)
    assert agreed(tmp_path)["site-1"].hide(fixed(1), "m", 1) == first
    assert (tmp_path / "site-1" / SECRETS).stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(("seed", "model_", "round_"), [(2, "m", 3), (1, "n", 3), (1, "m", 2)])
def test_masks_hide_one_update_only(tmp_path, seed, model_, round_):
    agreed(tmp_path)["site-1"].hide(fixed(1), "m", 3)
    with pytest.raises(WithheldError, match="'site-1' has sent a masked update of round 3"):
        agreed(tmp_path)["site-1"].hide(fixed(seed), model_, round_)


def test_another_federation_has_other_keys(tmp_path):
    first = Masks(tmp_path, "site-1", "f").public
    assert Masks(tmp_path, "site-1", "f").public == first
    assert Masks(tmp_path, "site-1", "g").public != first


def test_what_is_no_key_is_refused(tmp_path):
    own = Masks(tmp_path, "site-1", "f")
    for public in (b"", bytes(31), bytes(32)):
        with pytest.raises(WithheldError, match="masks with 'site-2' is refused"):
            own.agree({"site-2": public})


@pytest.mark.parametrize("content", ["", "{}", json.dumps({"federation": "f", "key": "00"})])
def test_damaged_secrets_are_not_replaced(tmp_path, content):
    Masks(tmp_path, "site-1", "f")
    (tmp_path / SECRETS).write_text(content)
    with pytest.raises(WithheldError, match=r"masks\.json: not readable, expected the secrets"):
        Masks(tmp_path, "site-1", "f")
