"""The public keys that sites announce to each other through the aggregator, who cannot change them.

OpenFL's own secure aggregation has sites hand the aggregator what it needs to compute their masks;
here only public keys pass. Each is signed with the key of the site's certificate and verified by
the other sites against the roots that they trust: an aggregator that put its own keys in their
place would read every update.
"""

import json
import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from openfl.protocols import utils
from openfl.utilities import TensorKey

from openfl_flows.atomic import write_atomically
from openfl_flows.pki.files import read
from openfl_flows.pki.party import CHAIN, read_certificates
from openfl_flows.pki.plan import Party
from openfl_flows.pki.verify import verified_chain
from openfl_flows.privacy.masks import Masks
from openfl_flows.privacy.withheld import WithheldError
from openfl_flows.taskrunner.serving import refusals_told

logger = logging.getLogger(__name__)

ANNOUNCE = "secagg_announce"
"""Stands for the task where a site announces its key."""
TAG = "secagg"
"""The tag of what has to do with keys, as in OpenFL's own protocol."""
SECONDS = 1.0
"""How long a site waits before it asks again for the others' keys."""

_ROUND = -1
_MOST_BYTES = 2**16
_ECDSA = ec.ECDSA(SHA256())


def announcement(workspace: Path, site: str, federation: str, public: bytes) -> bytes:
    """What a site announces: its key, and what proves that it is the site's.

    Args:
        workspace: Where its certificate is.
        site: Its name.
        federation: Name of the federation.
        public: The key.

    Raises:
        ValueError: The certificate or its key is not readable, or is of another kind.
    """
    party = Party(role="collaborator", name=site)
    path = party.file(workspace, ".key")
    key = serialization.load_pem_private_key(read(path, "the key of the certificate"), None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ValueError(
            f"{path}: not a key that `openfl-flows pki request` made, which "
            "federation.secure_aggregation=true needs"
        )
    certificates = read(party.file(workspace, ".crt"), f"the certificate of {party}").decode()
    document = {
        "public": public.hex(),
        "certificates": certificates,
        "signature": key.sign(_signed(site, federation, public.hex()), _ECDSA).hex(),
    }
    return json.dumps(document).encode()


def announced(workspace: Path, site: str, federation: str, content: bytes) -> bytes:
    """The key that another site announced.

    Args:
        workspace: Where the trusted roots are.
        site: The other site's name.
        federation: Name of the federation.
        content: What came in its name.

    Raises:
        WithheldError: It is not the site's.
    """
    party = Party(role="collaborator", name=site)
    roots = read_certificates(read(workspace / CHAIN, "the roots to trust"), str(CHAIN))
    try:
        document = json.loads(content)
        leaf, *others = read_certificates(document["certificates"].encode(), str(party))
        verified_chain(party, leaf, others, roots)
        certified = leaf.public_key()
        if not isinstance(certified, ec.EllipticCurvePublicKey):
            raise ValueError("its certificate has a key of another kind")
        signature = bytes.fromhex(document["signature"])
        certified.verify(signature, _signed(site, federation, document["public"]), _ECDSA)
        return bytes.fromhex(document["public"])
    except InvalidSignature:
        reason = "its signature is not by the key of its certificate"
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        reason = str(error)
    raise WithheldError(
        f"the key that came for the masks with {site!r} is refused: {reason}. Whoever sent it may "
        "want to read updates; nothing is sent"
    )


def agree(
    client: Any, masks: Masks, *, workspace: Path, site: str, sites: Sequence[str], federation: str
) -> None:
    """Announce a site's key, wait for all others', and make the keys of the masks.

    Args:
        client: Calls the aggregator, and again while it is away.
        masks: The site's.
        workspace: Where its certificate and the roots are.
        site: Its name.
        sites: All sites.
        federation: Name of the federation.

    Raises:
        WithheldError: A key is not of the site that it came for.
    """
    own = announcement(workspace, site, federation, masks.public)
    key = TensorKey(site, site, _ROUND, False, (TAG,))
    client.send_local_task_results(
        _ROUND, ANNOUNCE, _ROUND, [utils.construct_named_tensor(key, own, {}, lossless=True)]
    )
    publics: dict[str, bytes] = {}
    for other in sorted({*sites} - {site}):
        while not (
            content := client.get_aggregated_tensor(other, _ROUND, False, (TAG,), True).data_bytes
        ):
            time.sleep(SECONDS)
        publics[other] = announced(workspace, other, federation, content)
    masks.agree(publics)
    logger.info("Agreed on the keys of masks with %s", ", ".join(publics))


class Announcements:
    """The aggregator's side: keeps what came of each site, for the others.

    Args:
        folder: Where it is kept over restarts.
        sites: Names of the sites.
    """

    def __init__(self, folder: Path, sites: Sequence[str]) -> None:
        self._folder = folder
        self._sites = frozenset(sites)

    @refusals_told()
    def take(self, site: str, tensors: Sequence[Any]) -> None:
        """Keep what a site announces.

        Raises:
            ValueError: It is no announcement, or another one than before.
        """
        sizes = [len(tensor.data_bytes) for tensor in tensors]
        if len(sizes) != 1 or not 0 < sizes[0] <= _MOST_BYTES or site not in self._sites:
            raise ValueError(f"announcement of {site!r} refused: expected a key of a site")
        content, file = tensors[0].data_bytes, self._file(site)
        if file.is_file() and _public(file.read_bytes()) != _public(content):
            raise ValueError(
                f"announcement of {site!r} refused: its key is another one than before, so that "
                "its masks would not cancel: bring back its local_state, or start a new federation"
            )
        write_atomically(file, content)

    @refusals_told()
    def of(self, site: str) -> Any:
        """What a site announced, as OpenFL's message: empty as long as nothing came.

        Raises:
            ValueError: There is no such site.
        """
        if site not in self._sites:
            raise ValueError(f"no site {site[:80]!r} in this federation")
        file = self._file(site)
        content = file.read_bytes() if file.is_file() else b""
        key = TensorKey(site, "", _ROUND, False, (TAG,))
        return utils.construct_named_tensor(key, content, {}, lossless=True)

    def _file(self, site: str) -> Path:
        return self._folder / f"{site}.json"


def _signed(site: str, federation: str, public: str) -> bytes:
    return json.dumps(["openfl_flows masks", federation, site, public]).encode()


def _public(content: bytes) -> Any:
    try:
        document = json.loads(content)
    except ValueError:
        return None
    return document.get("public") if isinstance(document, Mapping) else None
