"""The report says what was proved, and loudly that nothing was."""

from typing import Any

from openfl_flows.report.attestation import NOT_ATTESTED, read_attestation

VERDICT = {"kind": "sgx", "measurement": "ab" * 32, "status": "UpToDate", "policy": "c" * 64}


def record(*attestations: Any, seconds: dict[str, float]) -> dict[str, Any]:
    return {
        "rounds": [
            {"round": number, "sites": {"a": {"seconds": seconds}}, "attestation": attestation}
            for number, attestation in enumerate(attestations, 1)
        ]
    }


def test_a_federation_where_nobody_proved_anything():
    found = read_attestation(record(None, seconds={"train": 1.0, "upload": 1.0}))
    assert found is not None
    assert found.warning == NOT_ATTESTED
    assert found.table is None


def test_a_simulation_has_no_parties():
    assert read_attestation(record(None, seconds={"train": 1.0})) is None


def test_an_attested_federation():
    standing = {"a": {"aggregator": VERDICT, "site": None}}
    found = read_attestation(record(standing, standing, seconds={"upload": 1.0}))
    assert found is not None
    assert not found.warning
    assert found.table is not None
    assert found.table.rows == (("a", "1 to 2", f"sgx {'ab' * 8}, UpToDate", "none", "c" * 16),)


def test_rounds_beside_it_are_told():
    standing = {"a": {"aggregator": VERDICT, "site": None}}
    found = read_attestation(record(None, standing, seconds={"upload": 1.0}))
    assert found is not None
    assert "Only 1 of 2 rounds" in found.warning
