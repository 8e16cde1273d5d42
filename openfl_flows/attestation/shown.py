"""What evidence says of itself, for a person to read: nothing is verified."""

from collections.abc import Callable

from openfl_flows.attestation.claims import read_claims, report_data
from openfl_flows.attestation.evidence import Evidence, digest
from openfl_flows.attestation.quote import parse_quote
from openfl_flows.attestation.refusal import RefusedEvidence, one_line
from openfl_flows.attestation.report import check_sgx, check_tdx, fields_of_sgx, fields_of_tdx


def fields_of(evidence: Evidence) -> dict[str, str]:
    """Everything that evidence says, by name.

    Raises:
        RefusedEvidence: It cannot be read.
    """
    claims = read_claims(evidence.claims)
    found = {
        "evidence": digest(evidence),
        "kind": one_line(evidence.kind),
        "role": claims.role,
        "name": one_line(claims.name),
        "federation": claims.federation,
        "policy": claims.policy,
        "key": claims.key.hex(),
        "endorsements": one_line(", ".join(sorted(evidence.endorsements))),
    }
    if evidence.kind == "sgx":
        quote = parse_quote(evidence.quote, "sgx")
        enclave, check = fields_of_sgx(quote.body), check_sgx
        found |= {"mrenclave": enclave.mrenclave, "mrsigner": enclave.mrsigner}
        found |= {"prod_id": str(enclave.prod_id), "svn": str(enclave.svn)}
    elif evidence.kind == "tdx":
        quote = parse_quote(evidence.quote, "tdx")
        domain, check = fields_of_tdx(quote.body), check_tdx
        found |= {"mrtd": domain.mrtd}
        found |= {f"rtmr{number}": value for number, value in enumerate(domain.rtmr)}
        found |= {name: getattr(domain, name) for name in ("mrseam", "mrconfigid", "mrowner")}
        found |= {"mrownerconfig": domain.mrownerconfig, "tcb_svn": domain.tcb_svn.hex()}
    else:
        return found
    is_bound = quote.report_data == report_data(evidence.claims)
    return {
        **found,
        "attributes": _judged(check, quote.body),
        "bound": "the quote names these claims" if is_bound else "the quote is of OTHER claims",
        "root": quote.root_sha256,
    }


def _judged(check: Callable[[bytes], None], body: bytes) -> str:
    try:
        check(body)
    except RefusedEvidence as error:
        return f"REFUSED under any policy: {error}"
    return "none that is refused under any policy"
