"""A maker of processors for tests: its root, platforms, collateral and quotes, of SGX and TDX.

Everything is signed as Intel signs it, by keys of our own, so that whatever a policy accepts or
refuses can be made, at any date. A policy names its root, as it would Intel's.
"""

import datetime as dt
import hashlib
import json
import pickle
import struct
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.x509.oid import NameOID, ObjectIdentifier

from openfl_flows.attestation.collateral import read_collateral
from openfl_flows.attestation.quoters import Quoted
from openfl_flows.attestation.signed_policy import POLICY, SIGNATURES, pin_policy, sign_policy
from openfl_flows.release.keys import PrivateKey, Signers
from tests.quoted_bytes import (
    CPU_SVN,
    DOMAIN,
    ENCLAVE,
    EXTENSION,
    FMSPC,
    PCE_SVN,
    SEAM_SIGNER,
    Domain,
    Enclave,
    domain_report,
    enclave_report,
    platform_extension,
)

ROOT = Path(__file__).resolve().parents[1]
VENDOR = bytes.fromhex("939a7233f79c4ca9940a0db3957f0607")
QE_SIGNER = bytes([0x8C] * 32)
NAMES = ("root", "issuer", "leaf", "signer", "attestation")


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """What collateral says of the platform."""

    status: str = "UpToDate"
    advisories: Sequence[str] = ()
    evaluation: int = 17
    cpu_svn: bytes = CPU_SVN
    fmspc: bytes = FMSPC
    issued: dt.timedelta = dt.timedelta(days=-1)
    valid: dt.timedelta = dt.timedelta(days=30)
    qe_svn: int = 8
    leaf_revoked: bool = False
    issuer_revoked: bool = False
    signer: str = "signer"


AS_IT_SHOULD_BE = Judgement()


class Authority:
    """Signs as the maker of processors does.

    Args:
        now: The moment around which everything is dated.
        keys: Private keys by name; new ones by default.
    """

    def __init__(
        self,
        now: dt.datetime | None = None,
        keys: Mapping[str, ec.EllipticCurvePrivateKey] | None = None,
    ):
        self.now = (now or dt.datetime.now(dt.UTC)).replace(microsecond=0)
        self.keys = dict(keys or {}) or {n: ec.generate_private_key(ec.SECP256R1()) for n in NAMES}
        self.certificates: dict[str, x509.Certificate] = {}
        for name, common, issuer in (
            ("root", "Intel SGX Root CA", "root"),
            ("issuer", "Intel SGX PCK Platform CA", "root"),
            ("leaf", "Intel SGX PCK Certificate", "issuer"),
            ("signer", "Intel SGX TCB Signing", "root"),
        ):
            self.certificates[name] = self._certificate(name, common, issuer)

    @property
    def root_sha256(self) -> str:
        return self.certificates["root"].fingerprint(hashes.SHA256()).hex()

    def sgx(self, report_data: bytes, enclave: Enclave = ENCLAVE) -> bytes:
        """A quote of an enclave."""
        body = enclave_report(report_data, enclave)
        signed = struct.pack("<HHIHH", 3, 2, 0, 8, PCE_SVN) + VENDOR + bytes(20) + body
        tail = self._quoting_enclave()
        data = self._sign("attestation", signed) + self._point() + tail
        return signed + struct.pack("<I", len(data)) + data

    def tdx(self, report_data: bytes, domain: Domain = DOMAIN) -> bytes:
        """A quote of a domain."""
        body = domain_report(report_data, domain)
        signed = struct.pack("<HHIHH", 4, 2, 0x81, 0, 0) + VENDOR + bytes(20) + body
        tail = self._quoting_enclave()
        data = self._sign("attestation", signed) + self._point()
        data += struct.pack("<HI", 6, len(tail)) + tail
        return signed + struct.pack("<I", len(data)) + data

    def collateral(self, kind: str = "sgx", judgement: Judgement = AS_IT_SHOULD_BE) -> bytes:
        """What is known of the platform, as a party's file has it."""
        issued = self.now + judgement.issued
        dates = {"issueDate": _iso(issued), "nextUpdate": _iso(issued + judgement.valid)}
        common = {**dates, "tcbEvaluationDataNumber": judgement.evaluation}
        level = {
            "tcb": {
                "sgxtcbcomponents": [{"svn": number} for number in judgement.cpu_svn],
                "pcesvn": PCE_SVN,
            },
            "tcbDate": "2025-01-01T00:00:00Z",
            "tcbStatus": judgement.status,
            "advisoryIDs": list(judgement.advisories),
        }
        tcb = {"id": kind.upper(), "version": 3, "tcbType": 0, "tcbLevels": [level], **common}
        tcb |= {"fmspc": judgement.fmspc.hex().upper(), "pceId": "0000"}
        if kind == "tdx":
            level["tcb"]["tdxtcbcomponents"] = [{"svn": 0}] * 16
            module = {"mrsigner": SEAM_SIGNER.hex(), "attributes": "00" * 8}
            tcb["tdxModule"] = {**module, "attributesMask": "FF" * 8}
        enclave = {
            "id": "QE" if kind == "sgx" else "TD_QE",
            "version": 2,
            "miscselect": "00000000",
            "miscselectMask": "FFFFFFFF",
            "attributes": "11000000000000000000000000000000",
            "attributesMask": "FBFFFFFFFFFFFFFF0000000000000000",
            "mrsigner": QE_SIGNER.hex().upper(),
            "isvprodid": 1,
            "tcbLevels": [
                {
                    "tcb": {"isvsvn": judgement.qe_svn},
                    "tcbDate": "2025-01-01T00:00:00Z",
                    "tcbStatus": "UpToDate",
                }
            ],
            **common,
        }
        signers = [judgement.signer, *(["issuer"] if judgement.signer == "leaf" else []), "root"]
        texts = {"tcb_info": _compact(tcb), "qe_identity": _compact(enclave)}
        parts = dict(texts)
        for name, text in texts.items():
            parts[f"{name}_issuer_chain"] = self._pem(*signers).decode()
            parts[f"{name}_signature"] = self._sign(judgement.signer, text.encode()).hex()
        parts["pck_crl_issuer_chain"] = self._pem("issuer", "root").decode()
        parts["root_ca_crl"] = self._crl("root", ["issuer"] * judgement.issuer_revoked).hex()
        parts["pck_crl"] = self._crl("issuer", ["leaf"] * judgement.leaf_revoked).hex()
        return json.dumps(parts).encode()

    def save(self, folder: Path) -> None:
        """Write keys and certificates, for processes that quote."""
        folder.mkdir(parents=True, exist_ok=True)
        for name, key in self.keys.items():
            encoded = key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
            (folder / f"{name}.key").write_bytes(encoded)
        for name in self.certificates:
            (folder / f"{name}.crt").write_bytes(self._pem(name))
        (folder / "now").write_text(self.now.isoformat())

    @classmethod
    def load(cls, folder: Path) -> "Authority":
        """The authority that was written there."""
        keys: dict[str, Any] = {
            name: serialization.load_pem_private_key((folder / f"{name}.key").read_bytes(), None)
            for name in NAMES
        }
        found = cls(dt.datetime.fromisoformat((folder / "now").read_text()), keys)
        for name in found.certificates:
            content = (folder / f"{name}.crt").read_bytes()
            found.certificates[name] = x509.load_pem_x509_certificate(content)
        return found

    def _quoting_enclave(self) -> bytes:
        """The quoting enclave's report of its key, signed by the platform, and the chain."""
        inside = bytes([0xAA] * 32)
        said = hashlib.sha256(self._point() + inside).digest().ljust(64, b"\0")
        quoting = Enclave(mrsigner=QE_SIGNER, prod_id=1, svn=8, attributes=0x11)
        report = enclave_report(said, replace(quoting, mrenclave=bytes([0x33] * 32)))
        chain = self._pem("leaf", "issuer", "root")
        signature = self._sign("leaf", report)
        return (
            report
            + signature
            + struct.pack("<H", len(inside))
            + inside
            + struct.pack("<HI", 5, len(chain))
            + chain
        )

    def _point(self) -> bytes:
        numbers = self.keys["attestation"].public_key().public_numbers()
        return numbers.x.to_bytes(32, "big") + numbers.y.to_bytes(32, "big")

    def _sign(self, name: str, message: bytes) -> bytes:
        r, s = decode_dss_signature(self.keys[name].sign(message, ec.ECDSA(hashes.SHA256())))
        return r.to_bytes(32, "big") + s.to_bytes(32, "big")

    def _pem(self, *names: str) -> bytes:
        pem = serialization.Encoding.PEM
        return b"".join(self.certificates[name].public_bytes(pem) for name in names)

    def _certificate(self, name: str, common: str, issuer: str) -> x509.Certificate:
        key, signing = self.keys[name].public_key(), self.keys[issuer]
        is_authority = name in ("root", "issuer")
        above = self.certificates.get(issuer)
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])
        usage = x509.KeyUsage(
            not is_authority, False, False, False, False, is_authority, is_authority, False, False
        )
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(above.subject if above else subject)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(self.now - dt.timedelta(days=400))
            .not_valid_after(self.now + dt.timedelta(days=3650))
            .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), True)
            .add_extension(usage, True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(signing.public_key()), False
            )
        )
        if name == "leaf":
            extension = x509.UnrecognizedExtension(
                ObjectIdentifier(EXTENSION), platform_extension()
            )
            builder = builder.add_extension(extension, False)
        return builder.sign(signing, hashes.SHA256())

    def _crl(self, issuer: str, revoked: Sequence[str]) -> bytes:
        key = self.keys[issuer]
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self.certificates[issuer].subject)
            .last_update(self.now - dt.timedelta(days=1))
            .next_update(self.now + dt.timedelta(days=365))
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), False
            )
            .add_extension(x509.CRLNumber(1), False)
        )
        for name in revoked:
            entry = (
                x509.RevokedCertificateBuilder()
                .serial_number(self.certificates[name].serial_number)
                .revocation_date(self.now - dt.timedelta(days=2))
                .build()
            )
            builder = builder.add_revoked_certificate(entry)
        return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


@dataclass(frozen=True, kw_only=True)
class SyntheticQuoter:
    """Quotes one enclave or domain, whoever asks; ``report_data`` replaces what it is asked for."""

    authority: Authority
    of: Enclave | Domain = field(default_factory=Enclave)
    report_data: bytes | None = None

    def quote(self, report_data: bytes) -> Quoted:
        said = self.report_data or report_data
        if isinstance(self.of, Enclave):
            return Quoted(kind="sgx", quote=self.authority.sgx(said, self.of))
        return Quoted(kind="tdx", quote=self.authority.tdx(said, self.of))


def write_quoter(
    folder: Path,
    authority: Authority,
    *,
    name: str = "synthetic",
    of: Enclave | Domain = ENCLAVE,
    report_data: bytes | None = None,
) -> None:
    """Make a folder for PYTHONPATH with which a process finds a quoter of that name.

    Args:
        folder: A new folder.
        authority: Who signs.
        name: The quoter's, as plans name it.
        of: What every quote is of.
        report_data: What every quote is of, too, where it is not what was asked for.
    """
    authority.save(folder / "authority")
    (folder / "quoted.pickle").write_bytes(pickle.dumps((of, report_data)))
    module = f"synthetic_quoter_{name}"
    (folder / f"{module}.py").write_text(
        textwrap.dedent(f"""\
        import sys
        from pathlib import Path

        sys.path.append({str(ROOT)!r})

        from tests.quoting_authority import quoter_in


        def quoter():
            return quoter_in(Path(__file__).parent)
        """)
    )
    information = folder / f"{module}-1.dist-info"
    information.mkdir()
    (information / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1\n")
    (information / "entry_points.txt").write_text(
        f"[openfl_flows.quoters]\n{name} = {module}:quoter\n"
    )


def quoter_in(folder: Path) -> SyntheticQuoter:
    """The quoter that :func:`write_quoter` has written."""
    of, report_data = pickle.loads((folder / "quoted.pickle").read_bytes())
    authority = Authority.load(folder / "authority")
    return SyntheticQuoter(authority=authority, of=of, report_data=report_data)


def sgx_alternative(enclave: Enclave = ENCLAVE, **changes: Any) -> dict[str, Any]:
    """An alternative of a policy that accepts the enclave."""
    pinned = {"kind": "sgx", "mrenclave": [enclave.mrenclave.hex()], "prod_id": enclave.prod_id}
    return {**pinned, "min_svn": enclave.svn, **changes}


def tdx_alternative(domain: Domain = DOMAIN, **changes: Any) -> dict[str, Any]:
    """An alternative of a policy that accepts the domain."""
    pinned = {f"rtmr{n}": value.hex() for n, value in enumerate(domain.registers)}
    return {"kind": "tdx", "mrtd": domain.mrtd.hex(), **pinned, **changes}


def policy_document(authority: Authority, **changes: Any) -> dict[str, Any]:
    """A policy, as its file has it: one enclave as either role, under the authority's root."""
    return {
        "format": "openfl_flows.policy/1",
        "version": 1,
        "roles": {"aggregator": [sgx_alternative()], "collaborator": [sgx_alternative()]},
        "authorities": [authority.root_sha256],
        **changes,
    }


def agreed(keys: Mapping[str, PrivateKey], need: int = 1) -> Signers:
    """The signers with these keys."""
    return Signers(need=need, keys={name: key.public_key() for name, key in keys.items()})


def write_party(
    workspace: Path,
    authority: Authority,
    keys: Mapping[str, PrivateKey],
    *,
    policy: Mapping[str, Any] | None = None,
    judgement: Judgement = AS_IT_SHOULD_BE,
) -> str:
    """Write a party's ``attestation/``: a policy that all have signed, its pin, and collateral.

    Returns:
        SHA-256 of the policy's file: the same for all parties with the same policy.
    """
    path = workspace / POLICY
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(policy or policy_document(authority), indent=1))
    for key in keys.values():
        sign_policy(path, workspace / SIGNATURES, key)
    both = [json.loads(authority.collateral(kind, judgement)) for kind in ("sgx", "tdx")]
    (path.parent / "collateral.json").write_text(json.dumps(both))
    assert len(read_collateral((path.parent / "collateral.json").read_bytes())) == 2
    return pin_policy(workspace, agreed(keys))[1]


def _iso(moment: dt.datetime) -> str:
    return f"{moment:%Y-%m-%dT%H:%M:%SZ}"


def _compact(document: Mapping[str, Any]) -> str:
    return json.dumps(document, separators=(",", ":"))
