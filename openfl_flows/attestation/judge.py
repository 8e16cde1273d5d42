"""What evidence was found to be of, held against one of a policy's alternatives."""

from collections.abc import Sequence

from openfl_flows.attestation.policy import Alternative, Other, Sgx, Tdx
from openfl_flows.attestation.refusal import RefusedEvidence
from openfl_flows.attestation.report import SgxReport, TdxReport
from openfl_flows.attestation.verifiers import Claimed, check_claims


def judge(found: SgxReport | TdxReport | Claimed, wanted: Alternative) -> tuple[str, int, int]:
    """Make sure that an enclave, a domain or a plug-in's claims are what the policy wants.

    Returns:
        Its measurement in hexadecimal, product, and security version; 0 where it has none.

    Raises:
        RefusedEvidence: It is another.
    """
    if isinstance(wanted, Sgx):
        assert isinstance(found, SgxReport), "evidence is held against its own kind only"
        return _judge_sgx(found, wanted)
    if isinstance(wanted, Tdx):
        assert isinstance(found, TdxReport), "evidence is held against its own kind only"
        return _judge_tdx(found, wanted)
    assert isinstance(wanted, Other)
    assert not isinstance(found, SgxReport | TdxReport)
    check_claims(wanted.kind, found, wanted.claims)
    return str(found[wanted.measurement]), 0, 0


def _judge_sgx(found: SgxReport, wanted: Sgx) -> tuple[str, int, int]:
    _expect("measurement (MRENCLAVE)", found.mrenclave, wanted.mrenclave)
    if wanted.mrsigner:
        _expect("signer (MRSIGNER)", found.mrsigner, wanted.mrsigner)
    _expect("product", str(found.prod_id), [str(wanted.prod_id)])
    if found.svn < wanted.min_svn:
        raise RefusedEvidence(
            f"security version is {found.svn}, expected at least {wanted.min_svn}"
        )
    return found.mrenclave, found.prod_id, found.svn


def _judge_tdx(found: TdxReport, wanted: Tdx) -> tuple[str, int, int]:
    _expect("measurement (MRTD)", found.mrtd, [wanted.mrtd])
    registers = (wanted.rtmr0, wanted.rtmr1, wanted.rtmr2, wanted.rtmr3)
    for number, (register, pinned) in enumerate(zip(found.rtmr, registers, strict=True)):
        _expect(f"register RTMR{number}", register, [pinned])
    if wanted.mrseam:
        _expect("TDX module (MRSEAM)", found.mrseam, wanted.mrseam)
    for name in ("mrconfigid", "mrowner", "mrownerconfig"):
        _expect(name.upper(), getattr(found, name), [getattr(wanted, name)])
    least = bytes.fromhex(wanted.min_tcb_svn)
    if any(version < other for version, other in zip(found.tcb_svn, least, strict=True)):
        raise RefusedEvidence(
            f"TDX module's security versions are {found.tcb_svn.hex()}, expected at least "
            f"{least.hex()}, byte for byte"
        )
    return found.mrtd, 0, 0


def _expect(what: str, found: str, accepted: Sequence[str]) -> None:
    if found not in accepted:
        raise RefusedEvidence(f"{what} is {found}, expected {' or '.join(accepted)}")
