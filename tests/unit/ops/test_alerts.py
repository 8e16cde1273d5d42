"""Who has become slow is told in the round in which it happens, once, and when it is over."""

import math

import numpy as np
import pytest

from openfl_flows.ops.alerts import ALL, Alerts, robust_z
from tests.unit.ops.test_costs import entry, part

SITES = ("site-1", "site-2", "site-3", "site-4", "site-5")


def told(rounds: list[dict], **options) -> list[tuple[int, str, str, bool]]:
    alerts = Alerts(**options)
    return [(a.round, a.site, a.quantity, a.over) for e in rounds for a in alerts.observe(e)]


def noisy(count: int, sites=SITES, *, seed: int = 0, share: float = 0.05) -> list[dict]:
    """Rounds of sites that differ a little: a few percent of 11 s of computation and 2 s up."""
    random = np.random.default_rng(seed)
    return [
        entry(
            number,
            **{
                site: part(
                    train=9 * (1 + share * random.standard_normal()),
                    upload=2 * (1 + share * random.standard_normal()),
                )
                for site in sites
            },
        )
        for number in range(1, count + 1)
    ]


@pytest.mark.parametrize("name", ["train", "upload", "download", "decode", "encode", "absent"])
@pytest.mark.parametrize("onset", [1, 2, 9])
def test_a_slow_site_is_named_in_the_round_in_which_it_becomes_slow(name: str, onset: int) -> None:
    rounds = noisy(20)
    for e in rounds[onset - 1 : 15]:
        seconds = e["sites"]["site-3"]["seconds"]
        seconds[name] = seconds.get(name, 0.0) + 6.0
    quantity = "compute" if name == "train" else name
    assert told(rounds) == [
        (onset, "site-3", quantity, False), (16, "site-3", quantity, True),
    ]  # fmt: skip


@pytest.mark.parametrize("sites", [SITES[:2], SITES])
def test_noise_is_no_news(sites: tuple[str, ...]) -> None:
    for seed in range(20):
        assert told(noisy(100, sites, seed=seed)) == []


def test_a_site_that_goes_up_and_down_around_the_threshold_raises_no_storm() -> None:
    rounds = noisy(60, share=0.01)
    for e in rounds[5:]:
        # The threshold is a fifth of 13 s.
        e["sites"]["site-3"]["seconds"]["upload"] += 2.7 if e["round"] % 2 else 2.2
    assert len(told(rounds)) == 1


def test_milliseconds_are_no_news() -> None:
    tiny = {"train": 0.01, "aggregated_model_validation": 0.0, "local_model_validation": 0.0}
    rounds = [entry(n, a=part(**tiny), b=part(**tiny), c=part(**tiny, upload=0.4)) for n in (1, 2)]
    assert told(rounds) == []


def test_where_all_become_slow_it_is_nobodys_fault() -> None:
    rounds = noisy(12)
    for e in rounds[8:]:
        for own in e["sites"].values():
            own["seconds"]["download"] += 10.0
    assert told(rounds)[0] == (9, ALL, "round", False)
    assert {site for _, site, *_ in told(rounds)} == {ALL}


def losing(values: dict[str, list[float]]) -> list[dict]:
    rounds = [entry(n + 1, **{s: part() for s in values}) for n in range(len(values["a"]))]
    for site, losses in values.items():
        for e, loss in zip(rounds, losses, strict=True):
            e["sites"][site]["metrics"] = {"train_loss": loss}
    return rounds


def test_a_loss_that_jumps_at_one_site_is_told() -> None:
    falling = [3.0, 2.5, 2.2, 2.0, 1.9, 1.8, 1.75, 1.7]
    jumps = [*falling[:5], 6.0, *falling[6:]]
    assert told(losing({"a": falling, "b": jumps, "c": falling})) == [
        (6, "b", "train_loss", False), (7, "b", "train_loss", True),
    ]  # fmt: skip


def noisy_losses(count: int, seed: int, spread: float) -> dict[str, list[float]]:
    """Losses that fall to a quarter, with log-normal noise."""
    random = np.random.default_rng(seed)
    falling = (1 + 3 * np.exp(-np.arange(count) / 8)) * 0.3
    return {
        name: (falling * np.exp(spread * random.standard_normal(count))).tolist()
        for name in ("a", "b", "c", "d", "e")
    }


@pytest.mark.parametrize(("spread", "most"), [(0.1, 0), (0.2, 4), (0.35, 10)])
def test_noise_of_losses_is_hardly_news(spread: float, most: int) -> None:
    found = [told(losing(noisy_losses(100, seed, spread))) for seed in range(10)]
    assert sum(not over for alerts in found for *_, over in alerts) <= most


@pytest.mark.parametrize("onset", [12, 20, 80])
@pytest.mark.parametrize("seed", range(5))
def test_a_loss_three_times_as_high_is_told_at_once_and_until_it_is_over(
    onset: int, seed: int
) -> None:
    losses = noisy_losses(100, seed, 0.1)
    for index in range(onset - 1, onset + 12):
        losses["b"][index] *= 3
    (began, *rest) = told(losing(losses))
    assert began == (onset, "b", "train_loss", False)
    assert [over for *_, over in rest] == [True]
    # A loss that falls meanwhile is over a little sooner.
    assert onset + 4 < rest[0][0] <= onset + 13


def test_a_loss_that_jumps_everywhere_is_no_sites() -> None:
    jumps = [3.0, 2.5, 2.2, 2.0, 2.0, 2.0, 6.0, 6.1, 6.0]
    assert told(losing({"a": jumps, "b": jumps, "c": jumps})) == []


def test_a_loss_that_falls_later_than_the_others_is_no_jump() -> None:
    early = [30.0, 10.0, 3.0, 1.0, 0.5, 0.4, 0.4, 0.4]
    late = [30.0, 28.0, 26.0, 24.0, 20.0, 10.0, 9.0, 9.0]
    assert told(losing({"a": early, "b": late, "c": early})) == []


def test_what_is_not_a_number_is_looked_over() -> None:
    values = [3.0, 2.5, math.nan, 2.0, 2.0, math.nan, 2.0]
    assert told(losing({"a": values, "b": values})) == []


def test_robust_z_of_a_normal_sample_is_nearly_its_z() -> None:
    sample = np.random.default_rng(0).normal(10, 2, 4001).tolist()
    assert robust_z(16, sample) == pytest.approx(3, rel=0.05)
    assert robust_z(1, [1, 1, 1]) == 0
    assert robust_z(2, [1, 1, 1]) == math.inf


def test_a_line_has_site_quantity_value_and_median() -> None:
    alerts = Alerts()
    (alert,) = alerts.observe(entry(7, a=part(upload=24.0), b=part(upload=7.6)))
    assert alert.sentence() == "a, round 7: upload 24 s, the others' median is 7.6 s"
    (over,) = alerts.observe(entry(8, a=part(upload=7.6), b=part(upload=7.6)))
    assert over.sentence().endswith("(over)")
    assert alerts.active == {}
