"""An enclave's party: a workspace, what stands where Gramine would, and its manifest."""

import shutil
import tomllib
from pathlib import Path
from typing import Any

import pytest

from openfl_flows.release.keys import make_key
from openfl_flows.tee.manifest import fx_of
from tests.enclave_view import gramine_folder, manifest_of

ROOT = Path(__file__).parents[3]
PARTIES = {"aggregator": None, "collaborator": "site-1"}


def workspace_of(model: str, folder: Path) -> Path:
    shutil.copytree(ROOT / "workspaces" / model, folder)
    (folder / "cert").mkdir(exist_ok=True)
    (folder / "cert" / "cert_chain.crt").write_text("the federation's root")
    (folder / "save").mkdir(exist_ok=True)
    init = folder / "save" / "init.pbuf"
    if not init.exists():
        init.write_bytes(b"as fx plan initialize writes it" * 1000)
    return folder


@pytest.fixture(scope="session")
def gramine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return gramine_folder(tmp_path_factory.mktemp("gramine"))


@pytest.fixture(scope="session")
def manifests(tmp_path_factory: pytest.TempPathFactory, gramine: Path) -> dict[str, str]:
    """By role, of the DiGress workspace."""
    folder = workspace_of("digress", tmp_path_factory.mktemp("digress") / "workspace")
    return {role: manifest_of(folder, gramine, site) for role, site in PARTIES.items()}


@pytest.fixture(scope="session")
def documents(manifests: dict[str, str]) -> dict[str, dict[str, Any]]:
    """Parsed, with few of the library's files: what is done to one is done to all of them."""
    found = {}
    for role, text in manifests.items():
        document = tomllib.loads(text)
        entries = document["sgx"]["trusted_files"]
        start = document["fs"]["start_dir"]
        mounts = [
            mount for mount in document["fs"]["mounts"] if "/site-packages/" not in mount["path"]
        ]
        first = {
            next((e["uri"] for e in entries if e["uri"].startswith(mount["uri"])), None)
            for mount in mounts
            if "uri" in mount
        }
        named = {document["libos"]["entrypoint"], fx_of(document)[0]}
        named |= {document["loader"]["entrypoint"]["uri"].removeprefix("file:")}
        document["sgx"]["trusted_files"] = [
            entry
            for number, entry in enumerate(entries)
            if (number % 400 == 0 and "/site-packages/" not in entry["uri"])
            or entry["uri"] in first
            or entry["uri"].startswith(f"file:{start}/")
            or entry["uri"].removeprefix("file:") in named
        ]
        document["fs"]["mounts"] = mounts
        found[role] = document
    return found


@pytest.fixture(scope="session")
def keeper_key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("keeper") / "keeper.key"
    make_key(file)
    return file.with_name("keeper.key.pub")


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    return workspace_of("toy", tmp_path / "toy")
