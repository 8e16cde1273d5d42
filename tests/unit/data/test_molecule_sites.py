"""Molecules dealt to sites."""

import numpy as np
import pytest

from openfl_flows.data.molecule_sites import PartitionConfig, composition_table, deal, pool
from openfl_flows.data.source import MoleculeSource
from openfl_flows.data.strata import murcko_scaffolds

MOLECULES, _ = MoleculeSource(limit=300).read(("C", "N", "O", "F"), 9)
SITES = ("a", "b", "c")
CONFIGS = [
    PartitionConfig(),
    PartitionConfig(name="sizes", fractions=(0.5, 0.3, 0.2)),
    PartitionConfig(name="dirichlet", alpha=0.5),
    PartitionConfig(name="dirichlet", alpha=0.5, by="mu"),
    PartitionConfig(name="scaffold"),
    PartitionConfig(name="ranges", by="atoms"),
    PartitionConfig(name="ranges", by="mu"),
]


def everything(dealt):
    return sorted(s for own in dealt.values() for part in own for s in part.smiles)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: f"{config.name}-{config.by}")
def test_every_molecule_is_dealt_once_whatever_the_order_of_names(config) -> None:
    dealt = deal(MOLECULES, SITES, config, 0)
    assert everything(dealt) == sorted(MOLECULES.smiles)
    if config.fractions is None:
        again = deal(MOLECULES, SITES[::-1], config, 0)
        assert all(again[site].train.smiles == dealt[site].train.smiles for site in SITES)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: f"{config.name}-{config.by}")
def test_the_table_counts_what_was_dealt(config) -> None:
    dealt = deal(MOLECULES, SITES, config, 0)
    columns, rows = composition_table(dealt, config)
    assert columns[:4] == ("site", "train", "val", "test")
    assert [row[0] for row in rows] == list(dealt)
    for row in rows:
        own = dealt[str(row[0])]
        assert row[1:4] == tuple(len(part) for part in own)
        assert sum(row[4:]) == sum(row[1:4])


def test_fractions_belong_to_the_sites_as_named() -> None:
    config = PartitionConfig(name="sizes", fractions=(0.7, 0.3))
    for sites in (("x", "y"), ("y", "x")):
        dealt = deal(MOLECULES, sites, config, 0)
        assert sum(map(len, dealt[sites[0]])) == 210


def test_a_scaffold_is_at_one_site_only() -> None:
    dealt = deal(MOLECULES, SITES, PartitionConfig(name="scaffold"), 0)
    scaffolds = [
        set(murcko_scaffolds([s for part in own for s in part.smiles])) for own in dealt.values()
    ]
    assert len(set.union(*scaffolds)) == sum(map(len, scaffolds))


def test_a_small_alpha_skews_the_rings() -> None:
    def spread(alpha: float) -> float:
        config = PartitionConfig(name="dirichlet", alpha=alpha)
        _, rows = composition_table(deal(MOLECULES, SITES, config, 0), config)
        counts = np.array([row[4:] for row in rows], dtype=float)
        return float((counts / counts.sum(1, keepdims=True)).std(0).sum())

    assert spread(0.1) > 2 * spread(100.0)


def test_pooling_keeps_every_role() -> None:
    dealt = deal(MOLECULES, SITES, PartitionConfig(), 0)
    pooled = pool(list(dealt.values()))
    for role, part in enumerate(pooled):
        assert len(part) == sum(len(own[role]) for own in dealt.values())
    one = deal(MOLECULES, ("a",), PartitionConfig(), 0)["a"]
    assert pool([one]).train.smiles == one.train.smiles


@pytest.mark.parametrize(
    ("config", "sites", "message"),
    [
        (PartitionConfig(name="sizes", fractions=(0.5, 0.5)), SITES, "one fraction for each of 3"),
        (PartitionConfig(name="dirichlet"), SITES, "partition.alpha is missing"),
        (PartitionConfig(), tuple(map(str, range(301))), "301 sites but 300 items"),
        (PartitionConfig(), tuple(map(str, range(150))), "site '0' has 2 molecules"),
    ],
)
def test_what_cannot_be_dealt_is_refused(config, sites, message) -> None:
    with pytest.raises(ValueError, match=message):
        deal(MOLECULES, sites, config, 0)


def test_a_limit_is_a_random_sample_that_never_changes() -> None:
    again, _ = MoleculeSource(limit=300).read(("C", "N", "O", "F"), 9)
    whole, _ = MoleculeSource().read(("C", "N", "O", "F"), 9)
    assert again.smiles == MOLECULES.smiles
    assert MOLECULES.num_atoms.mean() == pytest.approx(whole.num_atoms.mean(), abs=0.3)
    with pytest.raises(ValueError, match="data.limit=0"):
        MoleculeSource(limit=0)
