"""What a quote's body says of an enclave or of a domain, read from its raw bytes and judged.

Attributes that let others look in, or that the hardware gives to its own enclaves only, are never
accepted, whatever a policy says. Source: Intel SDM volume 3D (REPORT, ATTRIBUTES); Intel TDX Module
ABI Specification 348551-008US, tables on ATTRIBUTES and TDINFO.
"""

from dataclasses import dataclass

from openfl_flows.attestation.refusal import RefusedEvidence

_SGX_NEEDED = {0: "INIT", 2: "MODE64BIT"}
_SGX_NAMES = {1: "DEBUG", 4: "PROVISION_KEY", 5: "EINITTOKEN_KEY", 6: "CET", 7: "KSS"}
_SGX_ZERO = ((16, 48), (96, 128), (160, 256), (260, 320))

_TDX_NEEDED = {28: "SEPT_VE_DISABLE"}
_TDX_ALLOWED = {27, 30, 63}
_TDX_NAMES = {0: "DEBUG", 17: "SERVTD_EXT", 29: "MIGRATABLE", 31: "KL"}


@dataclass(frozen=True, kw_only=True, slots=True)
class SgxReport:
    """An enclave, hashes in hexadecimal.

    Attributes:
        mrenclave: Of its content.
        mrsigner: Of its signer's key.
        prod_id: Which of the signer's products it says to be.
        svn: Security version that it says to have.
    """

    mrenclave: str
    mrsigner: str
    prod_id: int
    svn: int


@dataclass(frozen=True, kw_only=True, slots=True)
class TdxReport:
    """A trust domain, hashes in hexadecimal.

    Attributes:
        mrtd: Of what it began with: its firmware.
        rtmr: Of what the firmware measured since: configuration, kernel, command line, and so on.
        mrseam: Of the TDX module.
        mrconfigid: What the host said that its configuration is.
        mrowner: What the host said who owns it.
        mrownerconfig: What the host said of the owner's configuration.
        tcb_svn: Security versions of the TDX module.
    """

    mrtd: str
    rtmr: tuple[str, str, str, str]
    mrseam: str
    mrconfigid: str
    mrowner: str
    mrownerconfig: str
    tcb_svn: bytes


def read_sgx(body: bytes) -> SgxReport:
    """The enclave of a body of 384 bytes.

    Raises:
        RefusedEvidence: No enclave with such attributes is ever accepted.
    """
    check_sgx(body)
    return fields_of_sgx(body)


def check_sgx(body: bytes) -> None:
    """Refuse attributes with which no enclave is ever accepted.

    Raises:
        RefusedEvidence: It has them.
    """
    attributes = int.from_bytes(body[48:56], "little")
    _check_attributes("enclave", attributes, _SGX_NEEDED, set(), _SGX_NAMES)
    for start, end in _SGX_ZERO:
        if any(body[start:end]):
            raise RefusedEvidence(
                f"enclave's report has {body[start:end].hex()} in bytes {start} to {end}, "
                "expected zeros: MISCSELECT and keys of KSS are not used"
            )


def fields_of_sgx(body: bytes) -> SgxReport:
    """What a body of 384 bytes says, whether it is ever accepted or not."""
    return SgxReport(
        mrenclave=body[64:96].hex(),
        mrsigner=body[128:160].hex(),
        prod_id=int.from_bytes(body[256:258], "little"),
        svn=int.from_bytes(body[258:260], "little"),
    )


def read_tdx(body: bytes) -> TdxReport:
    """The domain of a body of 584 bytes.

    Raises:
        RefusedEvidence: No domain with such attributes is ever accepted.
    """
    check_tdx(body)
    return fields_of_tdx(body)


def check_tdx(body: bytes) -> None:
    """Refuse attributes with which no domain is ever accepted.

    Raises:
        RefusedEvidence: It has them.
    """
    attributes = int.from_bytes(body[120:128], "little")
    _check_attributes("domain", attributes, _TDX_NEEDED, _TDX_ALLOWED, _TDX_NAMES)


def fields_of_tdx(body: bytes) -> TdxReport:
    """What a body of 584 bytes says, whether it is ever accepted or not."""
    hashes = [body[start : start + 48].hex() for start in range(136, 520, 48)]
    mrtd, mrconfigid, mrowner, mrownerconfig, *registers = hashes
    first, second, third, fourth = registers
    return TdxReport(
        mrtd=mrtd,
        rtmr=(first, second, third, fourth),
        mrseam=body[16:64].hex(),
        mrconfigid=mrconfigid,
        mrowner=mrowner,
        mrownerconfig=mrownerconfig,
        tcb_svn=body[:16],
    )


def _check_attributes(
    what: str, found: int, needed: dict[int, str], allowed: set[int], names: dict[int, str]
) -> None:
    for bit in range(64):
        is_set = bool(found >> bit & 1)
        if not is_set and bit in needed:
            raise RefusedEvidence(f"{what}'s attributes {found:#x} lack {needed[bit]}")
        if is_set and bit not in needed and bit not in allowed:
            name = names.get(bit, f"bit {bit}")
            raise RefusedEvidence(f"{what}'s attributes {found:#x} have {name}, which is refused")
