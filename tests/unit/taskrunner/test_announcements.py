"""Keys that pass through the aggregator: only a site's own, and always the same one."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from openfl_flows.pki.authority import create_authority, issue_party
from openfl_flows.privacy.masks import Masks
from openfl_flows.privacy.withheld import WithheldError
from openfl_flows.taskrunner.announcements import (
    ANNOUNCE,
    Announcements,
    agree,
    announced,
    announcement,
)

SITES = ("site-1", "site-2", "site-3")
FEDERATION = "plan.yaml_0a1b"
KEY = bytes(range(32))


@pytest.fixture(scope="module")
def parties(tmp_path_factory) -> Path:
    """A workspace for each site, with certificates of one authority, and one of another."""
    folder = tmp_path_factory.mktemp("parties")
    for authority, names in (("ca", SITES), ("other-ca", ("stranger",))):
        create_authority(folder / authority)
        for name in names:
            plan = folder / name / "plan"
            plan.mkdir(parents=True)
            (plan / "plan.yaml").write_text("network: {settings: {agg_addr: localhost}}\n")
            (plan / "cols.yaml").write_text(f"collaborators: {[*SITES]}\n")
            site = name if name in SITES else "site-2"
            issue_party(folder / authority, folder / name, site=site)
    return folder


class Relay:
    """The client of a site, and the aggregator behind it."""

    def __init__(self, folder: Path, site: str, change: Callable[[str, bytes], bytes]) -> None:
        self.kept, self.site, self.change = Announcements(folder, SITES), site, change

    def send_local_task_results(self, round_: int, task: str, size: int, tensors: Any) -> None:
        assert task == ANNOUNCE
        self.kept.take(self.site, tensors)

    def get_aggregated_tensor(self, name: str, *_: Any) -> Any:
        tensor = self.kept.of(name)
        tensor.data_bytes = self.change(name, tensor.data_bytes)
        return tensor


def all_agree(
    parties: Path, out: Path, change: Callable[[str, bytes], bytes] = lambda name, content: content
) -> dict[str, Masks]:
    masks = {site: Masks(out / site, site, FEDERATION) for site in SITES}
    for site in SITES:
        content = announcement(parties / site, site, FEDERATION, masks[site].public)
        (out / "kept").mkdir(exist_ok=True)
        (out / "kept" / f"{site}.json").write_bytes(content)
    for site in SITES:
        agree(
            Relay(out / "kept", site, change),
            masks[site],
            workspace=parties / site,
            site=site,
            sites=SITES,
            federation=FEDERATION,
        )
    return masks


def test_a_key_arrives_as_it_was_announced(parties):
    content = announcement(parties / "site-2", "site-2", FEDERATION, KEY)
    assert announced(parties / "site-1", "site-2", FEDERATION, content) == KEY


def test_all_sites_get_the_same_keys_of_pairs(parties, tmp_path):
    masks = all_agree(parties, tmp_path)
    assert masks["site-1"]._pairs["site-2"] == masks["site-2"]._pairs["site-1"]
    assert masks["site-1"]._pairs["site-2"] != masks["site-1"]._pairs["site-3"]


def exchanged(name: str, content: bytes) -> bytes:
    document = json.loads(content)
    said = {**document["said"], "public": KEY.hex()}
    return json.dumps({**document, "said": said}).encode()


def test_an_aggregator_that_puts_its_own_key_in_is_refused(parties, tmp_path):
    with pytest.raises(WithheldError, match="masks with 'site-2' is refused: its signature is not"):
        all_agree(parties, tmp_path, exchanged)


@pytest.mark.parametrize(
    ("workspace", "site", "federation", "reason"),
    [
        ("stranger", "site-2", FEDERATION, "does not chain up to a trusted root"),
        ("site-3", "site-3", FEDERATION, "common name 'site-3', expected 'site-2'"),
        ("site-2", "site-2", "plan.yaml_ffff", "of another site or federation"),
    ],
)
def test_what_is_not_the_sites_is_refused(parties, workspace, site, federation, reason):
    content = announcement(parties / workspace, site, federation, KEY)
    with pytest.raises(WithheldError, match=reason):
        announced(parties / "site-1", "site-2", FEDERATION, content)


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b'{"certificates": 3}', b"\xff"])
def test_what_is_no_announcement_is_refused(parties, content):
    with pytest.raises(WithheldError, match="masks with 'site-2' is refused"):
        announced(parties / "site-1", "site-2", FEDERATION, content)


def test_the_aggregator_keeps_the_first_key(parties, tmp_path):
    kept = Announcements(tmp_path, SITES)
    assert kept.of("site-2").data_bytes == b""
    tensor = kept.of("site-2")
    tensor.data_bytes = announcement(parties / "site-2", "site-2", FEDERATION, KEY)
    kept.take("site-2", [tensor])
    # A site that was restarted: the same key under another signature.
    tensor.data_bytes = announcement(parties / "site-2", "site-2", FEDERATION, KEY)
    kept.take("site-2", [tensor])
    tensor.data_bytes = announcement(parties / "site-2", "site-2", FEDERATION, bytes(32))
    with pytest.raises(ValueError, match="'site-2' refused: its key is another one than before"):
        kept.take("site-2", [tensor])
    found = Announcements(tmp_path, SITES).of("site-2").data_bytes
    assert json.loads(found)["said"]["public"] == KEY.hex()


def test_the_aggregator_takes_keys_of_sites_only(tmp_path):
    kept = Announcements(tmp_path, SITES)
    tensor = kept.of("site-1")
    for site, size, count in (("site-9", 10, 1), ("site-1", 0, 1), ("site-1", 70_000, 1),
                              ("site-1", 10, 2), ("../site-1", 10, 1)):  # fmt: skip
        tensor.data_bytes = bytes(size)
        with pytest.raises(ValueError, match="refused: expected a key of a site"):
            kept.take(site, [tensor] * count)
    with pytest.raises(ValueError, match="no site '../site-1'"):
        kept.of("../site-1")
    assert not [*tmp_path.iterdir()]
