"""Deployments: what is written for whom, and what standard linters say of it."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from openfl_flows.cli import main
from openfl_flows.deploy import KINDS
from openfl_flows.deploy.deployment import UID

ROOT = Path(__file__).parents[3]
PARTIES = ("aggregator", "site")
WRITES = {"aggregator": {"local_state", "logs", "save"}, "site": {"local_state", "logs"}}
YAMLLINT = "{extends: default, rules: {line-length: {max: 120}, document-start: disable}}"
# What Compose fills in from .env, here without the program.
VARIABLE = re.compile(r"\$\{(\w+)(?::\?[^}]*)?\}")


def deploy(workspace: Path, role: str, kind: str, *more: str) -> Path:
    out = workspace.parent / f"{kind}-{role}"
    site = ("--site", "site-1") if role == "site" else ()
    arguments = ("deploy", str(workspace), "--role", role, *site, "--kind", kind, *more)
    assert main([*arguments, "--out", str(out)]) == 0
    return out


def composed(folder: Path) -> dict[str, Any]:
    lines = (folder / ".env").read_text().splitlines()
    values = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    text = (folder / "compose.yaml").read_text()
    document: dict[str, Any] = yaml.safe_load(VARIABLE.sub(lambda m: values[m[1]], text))
    return document


def tool(name: str) -> str:
    found = shutil.which(
        name, path=f"{Path(sys.executable).parent}:/usr/bin:/usr/sbin:/usr/local/bin"
    )
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def passes(*command: str | Path) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "arning" not in done.stdout + done.stderr, done.stdout + done.stderr


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("role", PARTIES)
def test_no_secret_and_no_data_is_copied(workspace: Path, role: str, kind: str) -> None:
    out = deploy(workspace, role, kind)
    files = [file for file in out.rglob("*") if file.is_file()]
    assert not [file for file in files if "SECRET" in file.read_text(errors="replace")]
    inside = {str(f.relative_to(out / "workspace")) for f in files if "workspace" in f.parts[-4:]}
    assert not [name for name in inside if name.startswith(("cert", "data", "local", "logs"))]
    if kind != "systemd":
        init = out / "workspace" / "save" / "init.pbuf"
        assert init.read_bytes() == (workspace / "save" / "init.pbuf").read_bytes()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("role", PARTIES)
def test_the_same_workspace_gives_the_same_bytes(workspace: Path, role: str, kind: str) -> None:
    def contents(out: Path) -> dict[str, bytes]:
        files = {str(f.relative_to(out)): f.read_bytes() for f in out.rglob("*") if f.is_file()}
        shutil.rmtree(out)
        return files

    first, second = (contents(deploy(workspace, role, kind)) for _ in range(2))
    assert first == second


@pytest.mark.parametrize("role", PARTIES)
def test_a_container_can_do_no_more_than_its_part(workspace: Path, role: str) -> None:
    document = composed(deploy(workspace, role, "compose"))
    for service in document["services"].values():
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert not {"privileged", "cap_add", "network_mode", "pid"} & service.keys()
    party = document["services"]["party"]
    assert party["user"] == f"{UID}:{UID}"
    named = [volume for volume in party["volumes"] if isinstance(volume, str)]
    assert {volume.rpartition("/")[2] for volume in named} == WRITES[role]
    binds = [volume for volume in party["volumes"] if not isinstance(volume, str)]
    assert all(bind["read_only"] for bind in binds)
    assert ("ports" in party) == (role == "aggregator")


def test_a_site_has_no_port_and_one_way_out(workspace: Path) -> None:
    document = composed(deploy(workspace, "site", "compose"))
    services, networks = document["services"], document["networks"]
    assert not [service for service in services.values() if "ports" in service]
    (only,) = services["party"]["networks"]
    assert networks[only]["internal"] is True
    way_out = services["forwarder"]["networks"][only]["ipv4_address"]
    assert services["party"]["extra_hosts"] == [f"fl.example.org:{way_out}"]
    config = (workspace.parent / "compose-site" / "haproxy.cfg").read_text()
    assert re.findall(r"^ +server .*", config, flags=re.MULTILINE) == [
        "    server aggregator fl.example.org:50051 resolvers system init-addr last,libc,none"
    ]


def planned(workspace: Path, section: str, **values: Any) -> None:
    """Set what the plan says in a section."""
    file = workspace / "plan" / "plan.yaml"
    plan = yaml.safe_load(file.read_text())
    settings = plan[section]["settings"]
    settings.get("experiment", settings).update(values)
    file.write_text(yaml.safe_dump(plan, sort_keys=False))


def test_the_key_of_a_blind_split_is_a_sites_secret(workspace: Path) -> None:
    planned(workspace, "task_runner", split={"name": "blind", "key_file": "private/blind.key"})
    (workspace / "private").mkdir()
    (workspace / "private" / "blind.key").write_text("SECRET")
    for role, needed in (("aggregator", False), ("site", True)):
        out = deploy(workspace, role, "compose")
        targets = {s["target"] for s in composed(out)["services"]["party"]["secrets"]}
        assert ("/federation/private/blind.key" in targets) == needed
        chart = deploy(workspace, role, "helm")
        for file in ("templates/job.yaml", "README.md", "values.yaml"):
            assert ("blind-key" in (chart / file).read_text()) == needed
        copied = [f for f in (*out.rglob("*"), *chart.rglob("*")) if f.is_file()]
        assert not [f for f in copied if "SECRET" in f.read_text(errors="replace")]


def test_a_site_gets_the_baseline_that_it_measures(workspace: Path) -> None:
    (workspace / "save" / "baseline.safetensors").write_bytes(b"model")
    out = deploy(workspace, "site", "compose")
    assert (out / "workspace" / "save" / "baseline.safetensors").read_bytes() == b"model"


def test_a_unit_may_open_the_port_of_its_figures(workspace: Path) -> None:
    planned(workspace, "aggregator", metrics_port=9464)
    (unit,) = deploy(workspace, "aggregator", "systemd").glob("*.service")
    allowed = re.findall(r"^SocketBindAllow=tcp:(\d+)$", unit.read_text(), flags=re.MULTILINE)
    assert allowed == ["50051", "9464"]


@pytest.mark.parametrize("role", PARTIES)
def test_a_charts_values_are_checked(workspace: Path, role: str) -> None:
    out = deploy(workspace, role, "helm")
    values = yaml.safe_load((out / "values.yaml").read_text())
    schema = json.loads((out / "values.schema.json").read_text())
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(values, schema)
    values["image"] |= {"repository": "r.example.org/x", "digest": "sha256:" + "a" * 64}
    addresses = "aggregatorCidrs" if role == "site" else "siteCidrs"
    values[addresses] = ["192.0.2.0/24"]
    values.get("data", {})["claimName"] = "molecules"
    jsonschema.validate(values, schema)
    for wrong in ({addresses: []}, {"image": values["image"] | {"digest": "latest"}}, {"typo": 1}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(values | wrong, schema)


@pytest.mark.parametrize("role", PARTIES)
def test_linters_have_nothing_to_say(workspace: Path, role: str) -> None:
    compose, chart = (deploy(workspace, role, kind) for kind in ("compose", "helm"))
    passes(tool("hadolint"), compose / "Containerfile")
    schema = ("--builtin-schema", "vendor.compose-spec")
    passes(tool("check-jsonschema"), *schema, compose / "compose.yaml")
    files = (compose / "compose.yaml", chart / "Chart.yaml", chart / "values.yaml")
    passes(tool("yamllint"), "--strict", "-d", YAMLLINT, *files)


@pytest.mark.parametrize(("role", "has"), [("site", True), ("aggregator", False)])
def test_a_site_of_openfold3_has_what_rdkit_draws_with(
    workspace: Path, role: str, has: bool
) -> None:
    """Whoever imports OpenFold3 imports that, and Python's own images have no such libraries."""
    shutil.copytree(
        ROOT / "workspaces" / "openfold3" / "plan", workspace / "plan", dirs_exist_ok=True
    )
    plan = workspace / "plan" / "plan.yaml"
    plan.write_text(plan.read_text().replace("agg_addr: localhost", "agg_addr: fl.example.org"))
    recipe = deploy(workspace, role, "compose") / "Containerfile"
    assert ("libxext6 libxrender1" in recipe.read_text()) == has
    passes(tool("hadolint"), recipe)


@pytest.mark.parametrize("role", PARTIES)
def test_helm_takes_the_chart(workspace: Path, role: str) -> None:
    helm, chart = tool("helm"), deploy(workspace, role, "helm")
    own = ("aggregatorCidrs={192.0.2.1/32},data.claimName=c", "siteCidrs={192.0.2.0/24}")
    image = f"image.repository=r,image.digest=sha256:{'a' * 64}"
    passes(helm, "lint", "--strict", chart, "--set", f"{image},{own[role != 'site']}")


@pytest.mark.parametrize("role", PARTIES)
def test_systemd_takes_the_unit(workspace: Path, role: str) -> None:
    analyze = tool("systemd-analyze")
    prefix = Path(sys.executable).parents[1]
    (unit,) = deploy(workspace, role, "systemd", "--prefix", str(prefix)).glob("*.service")
    passes(analyze, "verify", unit)
    # Of 100, where 0 is nothing exposed: in tenths.
    passes(analyze, "security", "--offline=true", "--threshold=15", unit)


@pytest.mark.parametrize(
    ("change", "arguments", "named"),
    [
        ((), ("--role", "site"), "--site NAME"),
        ((), ("--role", "aggregator", "--site", "site-1"), "--site=site-1"),
        ((), ("--role", "site", "--site", "elsewhere"), "'elsewhere'"),
        ((), ("--role", "aggregator", "--prefix", "/opt"), "--prefix=/opt"),
        (("use_tls: true", "use_tls: false"), ("--role", "aggregator"), "use_tls=false"),
        (("fl.example.org", "localhost"), ("--role", "aggregator"), "agg_addr=localhost"),
        (("fl.example.org", "192.0.2.1"), ("--role", "site", "--site", "site-1"), "192.0.2.1"),
    ],
)
def test_what_cannot_work_is_refused_by_name(
    change: tuple[str, str] | tuple[()],
    arguments: tuple[str, ...],
    named: str,
    workspace: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    plan, out = workspace / "plan" / "plan.yaml", workspace.parent / "out"
    if change:
        plan.write_text(plan.read_text().replace(*change))
    command = ("deploy", str(workspace), *arguments, "--kind", "compose", "--out", str(out))
    assert main(command) == 1
    said = capsys.readouterr().err
    assert named in said
    assert "expected" in said
    assert len(said.strip().splitlines()) == 1
    assert not out.exists()


def test_a_folder_in_use_is_left_alone(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = deploy(workspace, "site", "systemd")
    before = {file: file.read_bytes() for file in out.iterdir()}
    arguments = ("deploy", str(workspace), "--role", "aggregator", "--kind", "systemd")
    assert main([*arguments, "--out", str(out)]) == 1
    assert "--out=" in capsys.readouterr().err
    assert {file: file.read_bytes() for file in out.iterdir()} == before
