from openfl_flows.ops.run import RunDirectory
from openfl_flows.report.series import series, sites, tasks


def test_series_of_a_run(make_run):
    record = RunDirectory.open(make_run()).record
    found = {s.name: s for s in series(record)}
    assert list(found) == ["nll", "elbo", "train_loss"]
    assert found["nll"].pooled == {0: 130.25, 1: 84.0, 2: 83.0}
    assert found["elbo"].pooled == {1: 29.0, 2: 28.0}
    assert found["nll"].local["site-a"] == {1: 83.0, 2: 82.0}
    assert found["train_loss"].pooled == {}
    assert set(found["train_loss"].local) == {"site-a", "site-b"}


def test_received_belongs_to_the_model_of_the_round_before(make_run):
    record = RunDirectory.open(make_run()).record
    nll = next(s for s in series(record) if s.name == "nll")
    assert nll.received["site-a"] == {0: 85.0, 1: 84.0}


def test_site_that_leaves_is_still_listed(make_run):
    record = RunDirectory.open(make_run()).record
    del record["rounds"][1]["sites"]["site-b"]
    assert sites(record) == ("site-a", "site-b")
    assert tasks(record) == ("receive", "train")
    nll = next(s for s in series(record) if s.name == "nll")
    assert set(nll.local["site-b"]) == {1}


def test_recalls_and_precisions_of_classes_are_given_on_demand(make_run):
    record = RunDirectory.open(make_run()).record
    record["rounds"][0]["metrics"]["recall_Nucleus"] = 0.5
    record["rounds"][0]["sites"]["site-a"]["metrics"]["precision_Nucleus"] = 0.25
    assert [s.name for s in series(record)] == ["nll", "elbo", "train_loss"]
    found = {s.name: s for s in series(record, rates=True)}
    assert found["recall_Nucleus"].pooled == {1: 0.5}
    assert found["precision_Nucleus"].local == {"site-a": {1: 0.25}}
