"""Attested federations: what proves itself is trusted, and nothing leaves for what does not."""

import contextlib
import copy
import datetime as dt
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import grpc
import pytest
from openfl.transport.grpc.aggregator_client import AggregatorGRPCClient

from openfl_flows.attestation.claims import read_claims
from openfl_flows.attestation.evidence import from_bytes
from openfl_flows.attestation.refusal import RefusedEvidence
from openfl_flows.attestation.rollback import Rollback, sign_rollback
from openfl_flows.cli import main
from openfl_flows.cli.plan import compose
from openfl_flows.experiment import Experiment
from openfl_flows.flows.simulation import simulate_experiment
from openfl_flows.ops.ledger import LEDGER, read_ledger
from openfl_flows.ops.ledger_lines import disagreements
from openfl_flows.ops.run import RunDirectory
from openfl_flows.ops.seen import FILE
from openfl_flows.ops.standings import PROOFS, proof
from openfl_flows.pki.certificates import new_key, pem, root_certificate
from openfl_flows.pki.party import CHAIN, read_certificates
from openfl_flows.pki.plan import Party as Member
from openfl_flows.taskrunner.attested_party import COLLATERAL
from openfl_flows.taskrunner.attested_site import (
    SWITCHES,
    AttestedClient,
    attested,
    fetch_certificate,
)
from openfl_flows.taskrunner.parity import compare_rounds
from openfl_flows.taskrunner.proofs import check_proofs
from openfl_flows.taskrunner.workspace import read_workspace
from tests.attested_parties import PARTIES, SITES, Consortium, Impostor, Server, copied
from tests.e2e.test_federation_faults import log
from tests.federation_ends import local
from tests.federation_host import messages
from tests.fx_processes import TOY
from tests.quoted_bytes import DOMAIN, ENCLAVE, Enclave
from tests.quoting_authority import (
    Authority,
    policy_document,
    sgx_alternative,
    tdx_alternative,
)
from tests.recording_proxy import RecordingProxy

LONG = ("model.samples=2000", "federation.steps=300", "network.readiness.wait_seconds=1")
ANOTHER = Enclave(mrenclave=bytes(31) + b"\1")
DEBUG = Enclave(attributes=0x7)


@pytest.fixture(scope="session")
def consortium(tmp_path_factory: pytest.TempPathFactory) -> Consortium:
    return Consortium(tmp_path_factory.mktemp("consortium"))


@pytest.fixture
def parties(consortium: Consortium, prepared: Callable[..., Path], tmp_path: Path) -> Path:
    """The folders of a federation whose aggregator has to prove itself."""
    out = copied(prepared(*consortium.plan("aggregator")), tmp_path)
    consortium.equip(out)
    return out


@pytest.fixture(scope="module")
def simulation(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """The same federation in one process, where nobody proves anything."""
    plan = compose((*TOY, "federation.rounds=2"))
    return simulate_experiment(Experiment.from_config(plan), tmp_path_factory.mktemp("s") / "run")


@pytest.mark.parametrize(
    ("required", "of_site_2"),
    [("aggregator", ENCLAVE), ("both", DOMAIN)],
    ids=["the aggregator is attested", "all are, of two makers' kinds"],
)
def test_an_honest_federation(required, of_site_2, consortium, simulation, prepared, tmp_path):
    plan = consortium.plan(required, "network.attestation.site_quoter={site-2: machine}")
    out = copied(prepared(*plan), tmp_path)
    roles = {
        "aggregator": [sgx_alternative()], "collaborator": [sgx_alternative(), tdx_alternative()],
    }  # fmt: skip
    consortium.equip(out, policy=policy_document(consortium.authority, roles=roles))
    # It makes its keys itself: its enclave has no such folder.
    shutil.rmtree(out / "aggregator" / "cert" / "server")
    machine = {"of": of_site_2, "called": "machine"}
    with consortium.running(out, **{"site-2": machine}) as processes:
        statuses = {name: process.wait() for name, process in processes.items()}
    assert set(statuses.values()) == {0}, "\n".join(log(out, name)[-3000:] for name in statuses)
    made = RunDirectory.open(out / "run")
    assert [row.equal for row in compare_rounds(simulation, made)] == [True] * 3
    assert made.record["metrics"] == simulation.record["metrics"]
    record = json.loads((out / "run" / "run.json").read_text())
    ledger = read_ledger(out / "run" / LEDGER)
    assert not list(disagreements(ledger, record))
    for body in ledger.rounds:
        for site in SITES:
            found = body["attestation"][site]
            assert found["aggregator"]["status"] == "UpToDate"
            assert (out / "run" / PROOFS / f"{found['signed']}.json").is_file()
            kind = None if found["site"] is None else found["site"]["kind"]
            expected = {"site-1": "sgx", "site-2": "tdx"}[site]
            assert kind == (expected if required == "both" else None)
    assert_proved(out, ledger.rounds, consortium.signers, of_sites=required == "both")


def assert_proved(out: Path, rounds: Sequence[Any], signers: Path, *, of_sites: bool) -> None:
    """What the ledger says is signed by the sites, and no other thing passes for it."""
    run, chain = out / "run", out / "site-1" / CHAIN
    assert main(["ledger", "verify", str(run), "--roots", str(chain)]) == 0
    roots = read_certificates(chain.read_bytes(), "roots")
    assert check_proofs(run, rounds, roots) == 2

    def refused(said: str, change: Callable[[dict[str, Any]], object], by: Any = roots) -> None:
        changed = copy.deepcopy(list(rounds))
        change(changed[-1]["attestation"])
        with pytest.raises(ValueError, match=said):
            check_proofs(run, changed, by)

    refused("another verdict", lambda a: a["site-1"]["aggregator"].update(measurement="0" * 64))
    # What site-2 has signed stands for site-2 alone.
    refused("arrival of 'site-1'", lambda a: a["site-1"].update(a["site-2"]))
    refused("No such file", lambda a: a["site-1"].update(signed="0" * 64))
    refused("No such file", lambda a: a["site-1"]["aggregator"].update(evidence="0" * 64))
    key, now = new_key(), dt.datetime.now(dt.UTC)
    another = root_certificate(key, start=now, end=now + dt.timedelta(days=9))
    refused("arrival of 'site-1'", lambda _: None, [another])
    if of_sites:
        refused("site-2 showed evidence", lambda a: a["site-2"]["site"].update(evidence="0" * 64))
    # And anybody can judge the aggregator's evidence again.
    digest = rounds[-1]["attestation"]["site-1"]["aggregator"]["evidence"]
    site, shown = out / "site-1", from_bytes(proof(run, digest))
    words = [
        "attest", "verify", str(run / PROOFS / f"{digest}.json"), "--role", "aggregator",
        "--name", "localhost", "--federation", read_workspace(site).hash,
        "--policy", str(site / "attestation" / "policy.yaml"), "--signers", str(signers),
        "--collateral", str(site / COLLATERAL), "--key", read_claims(shown.claims).key.hex(),
    ]  # fmt: skip
    assert main(words) == 0


def client_of(folder: Path, site: str = "site-1") -> AttestedClient:
    plan = read_workspace(folder)
    network, member = plan.config["network"], Member(role="collaborator", name=site)
    client = AggregatorGRPCClient(
        agg_addr=network["agg_addr"],
        agg_port=network["agg_port"],
        aggregator_uuid=f"aggregator_plan.yaml_{plan.hash[:8]}",
        federation_uuid=f"plan.yaml_{plan.hash}",
        collaborator_name=site,
        root_certificate=str(folder / CHAIN),
        certificate=str(member.file(folder, ".crt")),
        private_key=str(member.file(folder, ".key")),
        resend_data_on_reconnection=False,
    )
    return AttestedClient(client, site, folder, plan, seconds=10)


@contextlib.contextmanager
def recording(folder: Path, server: Server) -> Iterator[RecordingProxy]:
    port = read_workspace(folder).config["network"]["agg_port"]
    with server.serving(), RecordingProxy(port, server.port) as proxy:
        yield proxy


def without_evidence(impostor: Impostor) -> Server:
    out = impostor.folder.parent
    member = Member(role="aggregator", name="localhost")
    content = [member.file(out / "aggregator", suffix).read_bytes() for suffix in (".crt", ".key")]
    return Server(content[0], content[1], out / "site-1" / CHAIN)


# What answers in the aggregator's place, and what the site says of it.
IMPOSTORS: dict[str, tuple[Callable[[Impostor], Server], str]] = {
    "another measurement": (lambda i: i.server(enclave=ANOTHER), "MRENCLAVE"),
    "a debug enclave": (lambda i: i.server(enclave=DEBUG), "DEBUG"),
    "a replayed quote beside its own claims": (lambda i: i.server(quoted=False), "report data"),
    "replayed evidence with its own key": (lambda i: i.server(other_key=True), "TLS key"),
    "another enclave's evidence": (
        lambda i: i.server(role="collaborator", name="site-2"), "collaborator",
    ),
    "another federation's evidence": (lambda i: i.server(federation="0" * 96), "the plan"),
    "evidence under another policy": (lambda i: i.server(policy="0" * 64), "the policy"),
    "an authority of its own": (lambda i: i.server(authority=Authority()), "root"),
    "a certificate without evidence": (without_evidence, "there is none"),
}  # fmt: skip


@pytest.mark.parametrize("name", IMPOSTORS)
def test_nothing_leaves_for_what_does_not_prove_to_be_the_aggregator(name, consortium, parties):
    make, said = IMPOSTORS[name]
    folder = parties / "site-1"
    server, client = make(Impostor(consortium, folder)), client_of(folder)
    with recording(folder, server) as proxy:
        with pytest.raises(RefusedEvidence) as refused:
            client.get_tasks()
        proxy.assert_nothing_left()
    assert said in str(refused.value)
    assert "Nothing was sent" in str(refused.value)
    assert "\n" not in str(refused.value)
    assert not server.calls


def test_a_server_that_is_switched_after_attestation_fails_the_handshake(consortium, parties):
    folder = parties / "site-1"
    impostor = Impostor(consortium, folder)
    honest, other = impostor.server(), impostor.server(enclave=ANOTHER)
    client = client_of(folder)
    with recording(folder, honest) as proxy, other.serving():
        # It has no such call, but the site has made it: this server is trusted.
        with pytest.raises(grpc.RpcError) as caught:
            client.attest()
        assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED
        assert honest.calls
        proxy.sent.clear()
        proxy.targets = [honest.port, other.port]
        with pytest.raises(grpc.RpcError, match="another server than the attested one"):
            client.attest()
        with pytest.raises(RefusedEvidence, match="MRENCLAVE"):
            client.attest()
        proxy.assert_nothing_left()
    assert not other.calls


def test_attesting_one_server_and_connecting_to_another_ends(consortium, parties):
    folder = parties / "site-1"
    impostor = Impostor(consortium, folder)
    honest, other = impostor.server(), impostor.server(enclave=ANOTHER)
    client = client_of(folder)
    with recording(folder, honest) as proxy, other.serving():
        proxy.targets = [honest.port, other.port] * SWITCHES
        for _ in range(SWITCHES - 1):
            with pytest.raises(grpc.RpcError, match="another server than the attested one"):
                client.attest()
        with pytest.raises(RefusedEvidence, match="connections end at another server"):
            client.attest()
        proxy.assert_nothing_left()
    assert not other.calls + honest.calls


def test_a_site_ends_with_the_reason(consortium, parties):
    server = Impostor(consortium, parties / "site-1").server(enclave=ANOTHER)
    with recording(parties / "site-1", server) as proxy:
        with consortium.start(parties, "site-1") as site:
            assert site.wait() == 1
        proxy.assert_nothing_left()
    last = [line for line in messages(parties / "site-1" / "logs" / "fx.log") if line][-1]
    assert "does not prove to be the aggregator" in last
    assert ANOTHER.mrenclave.hex() in last
    assert not server.calls


def with_the_consortiums_certificate(client: AttestedClient, folder: Path, site: str) -> None:
    """Connect a client as it would to arrive, without that."""
    client.anchor = pem(fetch_certificate("localhost", int(client.uri.partition(":")[2]), {}))
    member = Member(role="collaborator", name=site)
    client._connect(*(member.file(folder, s).read_bytes() for s in (".key", ".crt")))


def assert_nothing_is_open(client: Any, said: str) -> None:
    for call in (
        client.get_tasks,
        client.ping,
        lambda: client.get_aggregated_tensor("clock", 0, False, ("readiness",), True),
        lambda: client.send_local_task_results(0, "train", 1, []),
    ):
        with pytest.raises(grpc.RpcError) as caught:
            call()
        assert caught.value.code() == grpc.StatusCode.FAILED_PRECONDITION
        assert said in caught.value.details()


def test_sites_are_let_in_by_their_evidence_alone(consortium, prepared, tmp_path, monkeypatch):
    out = copied(prepared(*consortium.plan("both")), tmp_path)
    consortium.equip(out)
    folder = out / "site-2"
    with consortium.running(out, ("aggregator",)):
        with consortium.start(out, "site-1", of=ANOTHER) as other:
            assert other.wait() == 1
        said = messages(out / "site-1" / "logs" / "fx.log")[-1]
        assert "arrival of 'site-1' refused" in said
        assert ANOTHER.mrenclave.hex() in said
        assert not (out / "aggregator" / "local_state" / "attested").exists()

        # The certificate of its company opens nothing, before and after it has arrived.
        client = client_of(folder, "site-2")
        with_the_consortiums_certificate(client, folder, "site-2")
        assert_nothing_is_open(client._client, "has not arrived")
        monkeypatch.syspath_prepend(consortium.quoter())
        assert client.attest()["measurement"] == ENCLAVE.mrenclave.hex()
        client.ping()
        with_the_consortiums_certificate(client, folder, "site-2")
        assert_nothing_is_open(client._client, "expected one that was issued for the evidence")

        # Halfway to the end of its certificate it arrives anew, and nobody notices.
        first, client._since = client._since, client._since - dt.timedelta(hours=13)
        client.ping()
        assert client._since > first


def rounds(out: Path) -> int:
    with contextlib.suppress(ValueError, OSError):
        return len(json.loads((out / "run" / "run.json").read_text())["rounds"])
    return 0


def seen(out: Path, site: str) -> int:
    with contextlib.suppress(ValueError, OSError):
        return int(json.loads((local(out, site) / FILE).read_text())["round"])
    return -1


@pytest.mark.slow
@pytest.mark.parametrize("required", ["aggregator", "both"])
def test_a_federation_that_was_put_back_is_refused_until_the_signers_say_why(
    required, consortium, prepared, tmp_path
):
    plan = consortium.plan(required, "federation.rounds=3", *LONG)
    out = copied(prepared(*plan), tmp_path)
    consortium.equip(out)
    state, old = out / "aggregator" / "local_state", tmp_path / "old"
    with consortium.running(out) as processes:
        processes["aggregator"].kill_when(lambda: rounds(out) >= 1)
        shutil.copytree(state, old)
        for site in SITES:
            shutil.copytree(local(out, site), old / site)
        put_back = rounds(out)
        # It has another key now, and the sites attest it anew.
        processes["aggregator"] = consortium.start(out, "aggregator")
        processes["aggregator"].kill_when(lambda: all(seen(out, site) > put_back for site in SITES))
        shutil.rmtree(state)
        shutil.copytree(old, state)
        processes["aggregator"] = consortium.start(out, "aggregator")
        for site in SITES:
            assert processes[site].wait() == 1
            said = messages(out / site / "logs" / "fx.log")[-1]
            assert f"the federation went back: after {put_back} rounds" in said
            assert "rollback.json: no such file" in said
        digest = json.loads((out / "run" / "run.json").read_text())["digest"]
        for site in SITES:
            why = Rollback(
                federation=read_workspace(out / site).hash,
                to_round=put_back,
                digest=digest,
                reason="the disk was restored from its backup",
            )
            sign_rollback(out / site, why, consortium.keys["board"])
            # What it has trained from goes back, too, but not what it has seen.
            shutil.copytree(
                old / site, local(out, site), ignore=lambda *_: [FILE], dirs_exist_ok=True
            )
            processes[site] = consortium.start(out, site)
        assert {name: process.wait() for name, process in processes.items()} == dict.fromkeys(
            PARTIES, 0
        )
    assert rounds(out) == 3


def test_a_plan_without_attestation_says_so(prepared, caplog):
    folder = prepared(*TOY) / "site-1"
    client = object()
    assert attested(client, "site-1", folder) is client
    assert "NO ATTESTATION" in caplog.text
