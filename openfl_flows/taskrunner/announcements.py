"""The public keys that sites announce to each other through the aggregator, who cannot change them.

OpenFL's own secure aggregation has sites hand the aggregator what it needs to compute their masks;
here only public keys pass. Each is signed with the key of the site's certificate and verified by
the other sites against the roots that they trust: an aggregator that put its own keys in their
place would read every update.
"""

import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from openfl.protocols import utils
from openfl.utilities import TensorKey

from openfl_flows.atomic import write_atomically
from openfl_flows.pki.files import read
from openfl_flows.pki.party import CHAIN, read_certificates
from openfl_flows.pki.plan import Party
from openfl_flows.pki.signing import said_by, signed
from openfl_flows.privacy.masks import Masks
from openfl_flows.privacy.withheld import WithheldError
from openfl_flows.strict_json import parse
from openfl_flows.taskrunner.serving import refusals_told

logger = logging.getLogger(__name__)

ANNOUNCE = "secagg_announce"
"""Stands for the task where a site announces its key."""
TAG = "secagg"
"""The tag of what has to do with keys, as in OpenFL's own protocol."""
SECONDS = 1.0
"""How long a site waits before it asks again for the others' keys."""

FORMAT = "openfl_flows.announcement/1"

_ROUND = -1
_MOST_BYTES = 2**16


def announcement(workspace: Path, site: str, federation: str, public: bytes) -> bytes:
    """What a site announces: its key, and what proves that it is the site's.

    Args:
        workspace: Where its certificate is.
        site: Its name.
        federation: Name of the federation.
        public: The key.

    Raises:
        ValueError: The certificate or its key is not readable.
    """
    party = Party(role="collaborator", name=site)
    return signed(_said(site, federation, public.hex()), workspace, party)


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
        said = said_by(content, party, roots, most_bytes=_MOST_BYTES)
        if said != _said(site, federation, said["public"]):
            raise ValueError(f"of another site or federation, expected {site!r} in {federation}")
        return bytes.fromhex(said["public"])
    except (ValueError, KeyError, TypeError) as error:
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


def _said(site: str, federation: str, public: str) -> dict[str, str]:
    return {"format": FORMAT, "federation": federation, "site": site, "public": public}


def _public(content: bytes) -> Any:
    try:
        document = parse(content)
    except ValueError:
        return None
    said = document.get("said") if isinstance(document, Mapping) else None
    return said.get("public") if isinstance(said, Mapping) else None
