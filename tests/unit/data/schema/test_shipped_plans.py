"""Schemas of the shipped plans: of the model's own data, which fit also where sites have few."""

from pathlib import Path

import pytest

from openfl_flows.cli.plan import compose
from openfl_flows.data.schema.validate import site_card
from openfl_flows.experiment import Experiment
from tests.schema_data import planned, protein_records, write_proteins


@pytest.mark.parametrize("sites", [2, 8])
@pytest.mark.parametrize("name", ["demo", "esm_scl", "of3_demo"])
def test_every_sites_share_fits(name: str, sites: int, tmp_path: Path) -> None:
    experiment = Experiment.from_config(
        compose((f"experiment={name}", f"federation.sites={sites}"))
    )
    assert experiment.schema is not None
    for site in experiment.task.sites:
        folder = tmp_path / site
        folder.mkdir()
        experiment.task.write_site_data(site, folder)
        assert site_card(experiment.schema, folder).fits


@pytest.mark.parametrize(
    ("experiment", "schema", "expected"),
    [
        ("demo", "proteins_v1", "schema.kind is the plan's data.kind, which it does not have"),
        ("demo", "structures_v1", "expected none or molecules_v1"),
        ("esm_scl", "molecules_v1", "schema.atoms.most is the plan's model.network.max_atoms"),
        ("esm_scl", "structures_v1", "expected none or proteins_v1"),
        ("of3_demo", "molecules_v1", "schema.atoms.most is the plan's model.network.max_atoms"),
        ("of3_demo", "proteins_v1", "schema.kind is the plan's data.kind"),
        ("toy", "structures_v1", "expected none"),
    ],
)
def test_a_schema_of_other_data_is_refused(experiment: str, schema: str, expected: str) -> None:
    with pytest.raises(ValueError, match=rf"^schema\.name={schema} with model\.task=") as error:
        Experiment.from_config(compose((f"experiment={experiment}", f"schema={schema}")))
    assert expected in str(error.value)
    assert "\n" not in str(error.value)


def test_parts_of_a_blind_split_are_not_the_schemas(tmp_path: Path) -> None:
    records = [
        [header.replace("SET=train", "SET=val"), sequence]
        for header, sequence in protein_records(40)
    ]
    folder = write_proteins(tmp_path, records)
    with pytest.raises(ValueError, match="do not fit the plan's schema proteins_v1: split"):
        site_card(planned("experiment=esm_scl"), folder)
    assert site_card(planned("experiment=esm_scl", "split=blind"), folder).fits
