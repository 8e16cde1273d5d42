"""Why the masks here are not OpenFL's own: its aggregator can take each of them away.

Run on OpenFL 1.9's callback and aggregator side, which speak to each other in memory.
"""

import json
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from openfl.databases import TensorDB
from openfl.interface.aggregation_functions import SecureWeightedAverage
from openfl.utilities import LocalTensor, TensorKey

pytest.importorskip("Crypto", reason="needs pycryptodome")

from openfl.callbacks import SecAggBootstrapping
from openfl.utilities.secagg.bootstrap import SecAggSetup

SITES = ["site-1", "site-2", "site-3"]


class Client:
    """A site's connection to an aggregator in the same process."""

    def __init__(self, setup: SecAggSetup, database: TensorDB) -> None:
        self.setup, self.database = setup, database

    def send_local_task_results(self, round_: int, task: str, size: int, tensors: Any) -> None:
        self.setup.process_secagg_setup_tensors(tensors)

    def get_aggregated_tensor(self, name: str, *_: Any) -> Any:
        key = TensorKey(name, "aggregator", -1, False, ("secagg",))
        found = self.database.get_tensor_from_cache(key)
        return SimpleNamespace(data_bytes=json.dumps(found, default=np.ndarray.tolist))


@pytest.fixture(scope="module")
def federation() -> tuple[SecAggSetup, TensorDB, dict[str, SecAggBootstrapping]]:
    database = TensorDB()
    setup = SecAggSetup("aggregator", SITES, database)
    sites = {}
    for name in SITES:
        site = sites[name] = SecAggBootstrapping()
        site.set_tensor_db(TensorDB())
        site.set_params({"origin": name, "client": Client(setup, database)})
        site.name, site.client = name, site.params["client"]
        site._generate_keys()
    publics = {name: site._fetch_public_keys() for name, site in sites.items()}
    for name, site in sites.items():
        site._generate_ciphertexts(publics[name])
    for name, site in sites.items():
        site._decrypt_ciphertexts(publics[name])
        site._save_mask_tensors()
    return setup, database, sites


def mask(site: SecAggBootstrapping) -> float:
    """What OpenFL's collaborator adds to every element of every tensor in every round."""
    keys = [
        TensorKey(f"{kind}_mask", site.name, -1, False, ("secagg",))
        for kind in ("private", "shared")
    ]
    return sum(float(site.tensor_db.get_tensor_from_cache(key)[0]) for key in keys)


def test_its_aggregator_has_every_sites_private_key_before_the_first_round(federation):
    setup, _, sites = federation
    for name, site in sites.items():
        index = setup._results["index"][name]
        assert setup._results["private_keys"][index].decode() == site.params["private_key"][0]
        assert setup._results["private_seeds"][index] == site.params["private_seed"]


def test_its_mask_is_one_number_which_hides_no_difference(federation):
    _, _, sites = federation
    update = np.random.default_rng(0).standard_normal(10_000)
    sent = update + mask(sites["site-1"])
    assert np.corrcoef(sent, update)[0, 1] > 0.999999


@pytest.mark.parametrize(("weights", "off"), [((1, 1, 1), False), ((100, 10, 1), True)])
def test_its_masks_stay_in_the_mean_where_weights_differ(federation, weights, off):
    _, database, sites = federation
    updates = [np.full(3, 0.25 * number, "float32") for number in range(3)]
    shares = np.array(weights) / sum(weights)
    local = [
        LocalTensor(col_name=name, tensor=update + mask(sites[name]), weight=share)
        for name, update, share in zip(SITES, updates, shares, strict=True)
    ]
    joined = SecureWeightedAverage().call(local, database._iterate())
    error = np.abs(joined - np.average(updates, axis=0, weights=shares)).max()
    assert (error > 0.05) == off, error
