"""Whose evidence is accepted: what the parties agree on beside the plan.

It cannot be part of the plan: the plan is measured into the enclaves whose measurements stand here.
An alternative in which nothing is pinned is refused when it is read.
"""

import functools
import re
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, TypeVar, cast

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from pydantic import (
    AfterValidator,
    ConfigDict,
    Discriminator,
    StrictBool,
    StrictInt,
    StrictStr,
    Tag,
    TypeAdapter,
    ValidationError,
)

from openfl_flows.pki.plan import Role

FORMAT = "openfl_flows.policy/1"
INTEL_SGX_ROOT_CA = "44a0196b2b99f889b8e149e95b807a350e7424964399e885a7cbb8ccfab674d3"
"""SHA-256 of Intel's SGX Root CA in DER, under which all of SGX and TDX stands."""

Status = Literal[
    "UpToDate",
    "SWHardeningNeeded",
    "ConfigurationNeeded",
    "ConfigurationAndSWHardeningNeeded",
    "OutOfDate",
    "OutOfDateConfigurationNeeded",
    "TDRelaunchAdvised",
    "TDRelaunchAdvisedConfigurationNeeded",
]
"""What a platform can be and still be accepted; a revoked one never is."""

Value = StrictStr | StrictInt | StrictBool
Wanted = Mapping[str, Value | tuple[Value, ...]]
"""Claims that a plug-in's answer must have, by name: this value, or one of these."""

_NAME = re.compile(r"[a-z0-9]([a-z0-9_.-]{0,62}[a-z0-9])?")
_STRICT = ConfigDict(extra="forbid")
_T = TypeVar("_T")


def _digits(count: int) -> AfterValidator:
    def check(text: str) -> str:
        if len(text) != count or not set(text) <= set("0123456789abcdef"):
            raise ValueError(f"expected {count} hexadecimal digits in lower case, in quotes")
        return text

    return AfterValidator(check)


def _root(text: str) -> str:
    """SHA-256 of the root in DER, also where the whole certificate is given."""
    if text.lstrip().startswith("-----BEGIN"):
        try:
            return x509.load_pem_x509_certificate(text.encode()).fingerprint(hashes.SHA256()).hex()
        except ValueError as error:
            raise ValueError(f"not a readable certificate: {error}") from None
    if not re.fullmatch("[0-9a-f]{64}", text):
        raise ValueError("expected a root's certificate in PEM, or its SHA-256 in hexadecimal")
    return text


Hash32 = Annotated[StrictStr, _digits(64)]
Hash48 = Annotated[StrictStr, _digits(96)]
Versions = Annotated[StrictStr, _digits(32)]
Root = Annotated[StrictStr, AfterValidator(_root)]
_ZERO48 = "0" * 96


@dataclass(frozen=True, kw_only=True)
class Endorsement:
    """What else must vouch for a party, by a plug-in: its GPU.

    Attributes:
        claims: What the plug-in must find.
    """

    __pydantic_config__ = _STRICT

    claims: Wanted

    def __post_init__(self) -> None:
        """Refuse what everything would fulfil."""
        _check_wanted(self.claims)


@dataclass(frozen=True, kw_only=True)
class Sgx:
    """Enclaves that are accepted, hashes in hexadecimal.

    Attributes:
        mrenclave: Of their content: one of these.
        mrsigner: Of their signer: one of these; empty for any, as the content is pinned.
        prod_id: Their product.
        min_svn: Least security version.
        endorsements: What plug-ins must vouch for besides, by their names.
    """

    __pydantic_config__ = _STRICT

    kind: Literal["sgx"]
    mrenclave: tuple[Hash32, ...]
    prod_id: StrictInt
    min_svn: StrictInt
    mrsigner: tuple[Hash32, ...] = ()
    endorsements: Mapping[str, Endorsement] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse to pin nothing."""
        if not self.mrenclave:
            raise ValueError("mrenclave is empty: nothing is pinned, expected measurements")
        for name in ("prod_id", "min_svn"):
            if not 0 <= getattr(self, name) < 2**16:
                raise ValueError(f"{name}={getattr(self, name)}, expected 0 to 65535")


@dataclass(frozen=True, kw_only=True)
class Tdx:
    """A domain that is accepted, hashes in hexadecimal: one build of an image, all of it.

    Attributes:
        mrtd: Its firmware.
        rtmr0: Its configuration, as the firmware has measured it.
        rtmr1: Its kernel.
        rtmr2: Its command line and initial file system.
        rtmr3: What it measured itself.
        min_tcb_svn: Least security versions of the TDX module, byte for byte.
        mrseam: TDX modules: one of these; empty for any of Intel's that collateral knows.
        mrconfigid: What the host may say of it: nothing, unless it is pinned here.
        mrowner: Likewise.
        mrownerconfig: Likewise.
        endorsements: What plug-ins must vouch for besides, by their names.
    """

    __pydantic_config__ = _STRICT

    kind: Literal["tdx"]
    mrtd: Hash48
    rtmr0: Hash48
    rtmr1: Hash48
    rtmr2: Hash48
    rtmr3: Hash48
    min_tcb_svn: Versions = "0" * 32
    mrseam: tuple[Hash48, ...] = ()
    mrconfigid: Hash48 = _ZERO48
    mrowner: Hash48 = _ZERO48
    mrownerconfig: Hash48 = _ZERO48
    endorsements: Mapping[str, Endorsement] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse to pin nothing: a register of zeros is one that nobody has measured into."""
        for name in ("mrtd", "rtmr1", "rtmr2"):
            if getattr(self, name) == _ZERO48:
                raise ValueError(f"{name} is zero: nothing is pinned, expected a measurement")


@dataclass(frozen=True, kw_only=True)
class Other:
    """Evidence of a kind that a plug-in verifies.

    Attributes:
        kind: The plug-in's name.
        measurement: Which of the claims is the measurement.
        claims: What the plug-in must find, the measurement among it.
        endorsements: What plug-ins must vouch for besides, by their names.
    """

    __pydantic_config__ = _STRICT

    kind: StrictStr
    measurement: StrictStr
    claims: Wanted
    endorsements: Mapping[str, Endorsement] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse what everything would fulfil."""
        if not _NAME.fullmatch(self.kind):
            raise ValueError(f"kind={self.kind!r}, expected a plug-in's name")
        _check_wanted(self.claims)
        if self.measurement not in self.claims:
            raise ValueError(f"claims have no {self.measurement!r}: nothing is pinned")


def _kind_of(value: Any) -> str:
    kind = value.get("kind") if isinstance(value, Mapping) else getattr(value, "kind", None)
    return kind if kind in ("sgx", "tdx") else "other"


Alternative = Annotated[
    Annotated[Sgx, Tag("sgx")] | Annotated[Tdx, Tag("tdx")] | Annotated[Other, Tag("other")],
    Discriminator(_kind_of),
]


@dataclass(frozen=True, kw_only=True)
class Tcb:
    """Which platforms are accepted.

    Attributes:
        statuses: In which state.
        advisories: Known weaknesses that are accepted, such as INTEL-SA-00615; all others are not.
        min_evaluation: Least TCB evaluation data number: how recent the judgement must be.
    """

    __pydantic_config__ = _STRICT

    statuses: tuple[Status, ...] = ("UpToDate",)
    advisories: tuple[StrictStr, ...] = ()
    min_evaluation: StrictInt = 0

    def __post_init__(self) -> None:
        """Refuse a list that accepts nothing."""
        if not self.statuses:
            raise ValueError("statuses is empty, expected at least UpToDate")


@dataclass(frozen=True, kw_only=True)
class Age:
    """How old collateral may be.

    Attributes:
        max_age_days: Days since it was issued; it must not have ended in any case.
    """

    __pydantic_config__ = _STRICT

    max_age_days: StrictInt = 30

    def __post_init__(self) -> None:
        """Refuse what no collateral keeps."""
        if not 1 <= self.max_age_days <= 365:
            raise ValueError(f"max_age_days={self.max_age_days}, expected 1 to 365")


@dataclass(frozen=True, kw_only=True)
class Policy:
    """Whose evidence is accepted.

    Attributes:
        format: :data:`FORMAT`.
        version: A number that only rises, so that nobody goes back to an older one.
        roles: What each role may be; a role that is not there is never accepted.
        tcb: Which of Intel's platforms.
        collateral: How old what is known of them may be.
        authorities: SHA-256 of the roots in DER that platforms may stand under.
    """

    __pydantic_config__ = _STRICT

    format: Literal["openfl_flows.policy/1"]
    version: StrictInt
    roles: Mapping[Role, tuple[Alternative, ...]]
    tcb: Tcb = Tcb()
    collateral: Age = Age()
    authorities: tuple[Root, ...] = (INTEL_SGX_ROOT_CA,)

    def __post_init__(self) -> None:
        """Refuse what accepts nobody, or has no number."""
        if self.version < 1:
            raise ValueError(f"version={self.version}, expected at least 1")
        empty = [role for role, alternatives in self.roles.items() if not alternatives]
        if not self.roles or empty:
            raise ValueError(f"roles: nothing is pinned for {', '.join(empty) or 'any role'}")
        if not self.authorities:
            raise ValueError("authorities is empty, expected a root at least")


def policy_of(document: Any) -> Policy:
    """The policy that a document holds.

    Raises:
        ValueError: One line that names the key, the value and what was expected.
    """
    return checked("policy", Policy, document)


def checked(key: str, kind: type[_T], value: Any) -> _T:
    """``value`` as ``kind``, checked.

    Raises:
        ValueError: One line that names the key, the value and what was expected.
    """
    try:
        found: _T = _adapter(cast(Hashable, kind)).validate_python(value)
        return found
    except ValidationError as error:
        first = error.errors()[0]
        path = ".".join([key, *(str(part) for part in first["loc"])])
        shown = "" if isinstance(first["input"], Mapping) else f"={first['input']!r}"
        raise ValueError(f"{path}{shown}: {first['msg'].removeprefix('Value error, ')}") from None


@functools.cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    """Made once: that takes longer than to verify a quote."""
    return TypeAdapter(kind)


def _check_wanted(claims: Wanted) -> None:
    if not claims:
        raise ValueError("claims is empty: nothing is pinned, expected claims with values")
    for name, value in claims.items():
        if value == ():
            raise ValueError(f"claims.{name} is empty, expected values")
