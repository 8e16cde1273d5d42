"""The policies in the documents are policies."""

import re

import pytest
import yaml

from openfl_flows.attestation.policy import policy_of
from tests.quoting_authority import ROOT


@pytest.mark.parametrize("page", ["attestation.md", "gpu_sites.md"])
def test_a_documented_policy_is_one(page):
    text = (ROOT / "docs" / page).read_text()
    found = [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", text, re.S)]
    (policy,) = [document for document in found if "format" in document]
    assert policy_of(policy).version == 1
