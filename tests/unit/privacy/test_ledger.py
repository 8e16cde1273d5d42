"""A site's budget: no update costs twice, none is sent beyond it, and no restart forgets it."""

import json
from pathlib import Path

import numpy as np
import pytest

from openfl_flows.privacy.accounting import epsilon_after
from openfl_flows.privacy.gaussian import Gaussian
from openfl_flows.privacy.ledger import LEDGER, Ledger
from openfl_flows.privacy.withheld import WithheldError
from openfl_flows.state import State

HOW = Gaussian(clip_norm=0.5, noise_multiplier=10.0)
BOUND = Gaussian(clip_norm=0.5, noise_multiplier=10.0, max_epsilon=epsilon_after(HOW, 2) + 1e-6)


def model(seed: int) -> State:
    return State({"a": np.random.default_rng(seed).standard_normal(300).astype("float32")})


def ledger(folder: Path, how: Gaussian = HOW) -> Ledger:
    return Ledger(folder, "site-1", how)


def releases(folder: Path) -> list[dict]:
    return json.loads((folder / LEDGER).read_text())["releases"]


def test_an_update_that_is_sent_again_has_the_same_noise_and_costs_nothing(tmp_path):
    first = ledger(tmp_path).release(model(1), model(0), 1)
    cost = ledger(tmp_path).epsilon
    assert ledger(tmp_path).release(model(1), model(0), 1) == first
    assert ledger(tmp_path).epsilon == cost == epsilon_after(HOW, 1)


def test_an_update_that_was_trained_anew_costs_again(tmp_path):
    own = ledger(tmp_path)
    sent = [own.release(model(seed), model(0), 1) for seed in (1, 2)]
    assert own.epsilon == epsilon_after(HOW, 2)
    noise = [state["a"].astype("f8") - model(0)["a"] for state in sent]
    assert abs(np.corrcoef(*noise)[0, 1]) < 0.25


def test_no_two_sites_have_the_same_noise(tmp_path):
    sent = [ledger(tmp_path / name).release(model(1), model(0), 1) for name in "ab"]
    assert sent[0] != sent[1]


def test_beyond_the_budget_nothing_is_trained_or_sent(tmp_path):
    own = ledger(tmp_path, BOUND)
    for round_ in (1, 2):
        own.check(round_, model(0).digest())
        last = own.release(model(round_), model(0), round_)
    before = (tmp_path / LEDGER).read_bytes()
    own = ledger(tmp_path, BOUND)
    with pytest.raises(WithheldError, match=r"'site-1' has spent epsilon .* round 3 would make it"):
        own.check(3, model(0).digest())
    with pytest.raises(WithheldError, match="expected at most privacy.max_epsilon"):
        own.release(model(9), model(0), 2)
    # What was sent may be sent again.
    own.check(2, model(0).digest())
    assert own.release(model(2), model(0), 2) == last
    assert (tmp_path / LEDGER).read_bytes() == before


def test_another_mechanism_goes_on_with_the_same_budget(tmp_path):
    ledger(tmp_path).release(model(1), model(0), 1)
    other = Gaussian(clip_norm=0.5, noise_multiplier=20.0)
    first = ledger(tmp_path, other).release(model(1), model(0), 1)
    assert [made["noise_multiplier"] for made in releases(tmp_path)] == [10.0, 20.0]
    assert ledger(tmp_path, other).epsilon > epsilon_after(HOW, 1)
    assert ledger(tmp_path, other).release(model(1), model(0), 1) == first


def test_the_secrets_are_the_owners_and_old_ones_are_forgotten(tmp_path):
    for round_ in range(1, 5):
        ledger(tmp_path).release(model(round_), model(0), round_)
    assert (tmp_path / LEDGER).stat().st_mode & 0o777 == 0o600
    keys = [made["key"] for made in releases(tmp_path)]
    assert keys[:2] == [None, None]
    assert len({*keys[2:]}) == 2


def test_it_says_whether_an_update_was_clipped(tmp_path):
    small = State({"a": model(0)["a"] + np.float32(1e-3)})
    for round_, update in enumerate((small, model(1)), start=1):
        ledger(tmp_path).release(update, model(0), round_)
    first, second = releases(tmp_path)
    assert (first["clipped"], second["clipped"]) == (False, True)
    assert first["norm"] == pytest.approx(1e-3 * np.sqrt(300), rel=1e-3)


@pytest.mark.parametrize("content", ["", "{}", '{"releases": [{}]}', '{"releases": 3}'])
def test_a_damaged_ledger_is_no_new_budget(tmp_path, content):
    ledger(tmp_path).release(model(1), model(0), 1)
    (tmp_path / LEDGER).write_text(content)
    with pytest.raises(WithheldError, match="not readable, expected the account of what 'site-1'"):
        ledger(tmp_path).check(2, model(0).digest())
