"""Collateral: fetched from a service, kept in a file, and refused with a clear word."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import quote as percent
from urllib.parse import urlsplit

import pytest

from openfl_flows.attestation.collateral import (
    fetch_collateral,
    merged,
    read_collateral,
    write_collateral,
)
from openfl_flows.attestation.evidence import to_bytes
from openfl_flows.cli import main
from tests.quoted_bytes import DOMAIN, ENCLAVE
from tests.quoting_authority import Judgement

KINDS = pytest.mark.parametrize("of", [ENCLAVE, DOMAIN], ids=["sgx", "tdx"])


@pytest.fixture(scope="module")
def service(authority) -> Iterator[str]:
    """What a caching service (PCCS) answers, for the authority's platform."""
    known = {kind: json.loads(authority.collateral(kind)) for kind in ("sgx", "tdx")}

    class Service(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            kind, _, _, what = urlsplit(self.path).path.strip("/").split("/", 3)
            parts = known[kind]
            chain = ""
            match what:
                case "pckcrl":
                    body = bytes.fromhex(parts["pck_crl"])
                    chain = "SGX-PCK-CRL-Issuer-Chain", parts["pck_crl_issuer_chain"]
                case "rootcacrl":
                    body = parts["root_ca_crl"].encode()
                case "tcb":
                    body = self.signed("tcbInfo", "tcb_info")
                    chain = "TCB-Info-Issuer-Chain", parts["tcb_info_issuer_chain"]
                case "qe/identity":
                    body = self.signed("enclaveIdentity", "qe_identity")
                    chain = "SGX-Enclave-Identity-Issuer-Chain", parts["qe_identity_issuer_chain"]
            self.send_response(200)
            if chain:
                self.send_header(chain[0], percent(chain[1]))
            self.end_headers()
            self.wfile.write(body)

        def signed(self, name: str, part: str) -> bytes:
            parts = known[self.path.split("/")[1]]
            signature = parts[f"{part}_signature"]
            return f'{{"{name}":{parts[part]},"signature":"{signature}"}}'.encode()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Service)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


@KINDS
def test_what_a_service_gives_is_what_evidence_is_verified_with(party, authority, service, of):
    evidence = party.shows(of)
    fetched = fetch_collateral(service, evidence.quote)
    party.verified(evidence, collateral=write_collateral([fetched]))
    (known,) = read_collateral(authority.collateral(evidence.kind))
    assert (fetched.kind, fetched.parts["tcb_info"]) == (evidence.kind, known.parts["tcb_info"])


def test_one_file_holds_what_all_platforms_need(tmp_path, capsys, party, service):
    for name, of in (("a", ENCLAVE), ("b", DOMAIN)):
        (tmp_path / name).write_bytes(to_bytes(party.shows(of)))
    out = tmp_path / "collateral.json"
    for names in (["a"], ["a", "b"]):
        files = [str(tmp_path / name) for name in names]
        words = ["attest", "collateral", *files, "--pccs", service, "--out", str(out)]
        assert main(words) == 0
    assert [each.kind for each in read_collateral(out.read_bytes())] == ["sgx", "tdx"]
    assert "sgx 00a067110000  issued" in capsys.readouterr().out
    for of in (ENCLAVE, DOMAIN):
        party.verified(party.shows(of), collateral=out.read_bytes())


@pytest.mark.parametrize("url", ["", "pccs.example", "file:///etc/passwd"])
def test_a_service_is_chosen_never_assumed(party, url):
    with pytest.raises(ValueError, match="expected the URL of a service"):
        fetch_collateral(url, party.shows().quote)


def test_newer_collateral_takes_the_place_of_older(authority):
    old, new = (
        read_collateral(authority.collateral("sgx", Judgement(evaluation=number)))
        for number in (16, 17)
    )
    other = read_collateral(authority.collateral("tdx"))
    assert [each.evaluation for each in merged([*old, *other], new)] == [17, 17]


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("pck_crl", "zz", "pck_crl is not hexadecimal"),
        ("pck_crl", "00", "collateral: "),
        ("tcb_info", "[]", "tcb_info is no object"),
        ("tcb_info", "{}", "no 'issueDate' in tcb_info"),
        ("tcb_info", '{"id":"SGX","id":"TDX"}', "key 'id' occurs twice"),
        ("qe_identity", "{", "qe_identity: not readable as JSON"),
        ("tcb_info", 1, "tcb_info is a int, expected text"),
    ],
)
def test_collateral_that_cannot_be_read_is_refused(authority, key, value, reason):
    document = {**json.loads(authority.collateral()), key: value}
    with pytest.raises(ValueError, match=reason):
        read_collateral(json.dumps(document).encode())
