"""The lint: all of OpenFL's weaknesses, none of ours, and each line of ours weakened in turn."""

import copy
import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jinja2
import pytest

from openfl_flows.cli import main
from openfl_flows.tee.expected import FIXED_ENV, RISKY_ENV
from openfl_flows.tee.lint import lint
from openfl_flows.tee.lint_files import SIGNED, lint_contents
from openfl_flows.tee.manifest import read_manifest

ROLES = ("aggregator", "collaborator")
# Keys of Gramine's that weaken what they touch, with the value that does.
DANGEROUS: dict[str, Any] = {
    "loader.insecure__use_cmdline_argv": True,
    "loader.insecure__use_host_env": True,
    "loader.insecure__disable_aslr": True,
    "loader.argv_src_file": "file:/argv",
    "loader.env_src_file": "file:/env",
    "loader.log_file": "/log",
    "loader.pal_internal_mem_size": "64M",
    "libos.check_invalid_pointers": False,
    "fs.insecure__keys.party": "00112233445566778899aabbccddeeff",
    "fs.root.uri": "file:/",
    "fs.experimental__enable_sysfs_topology": True,
    "sys.insecure__allow_eventfd": True,
    "sys.experimental__enable_flock": True,
    "sys.debug__mock_syscalls": [{"name": "clock_gettime", "return": 0}],
    "sys.allowed_ioctls": [{"request_code": 1}],
    "sys.ioctl_structs.a": [{"size": 8, "direction": "out"}],
    "sgx.insecure__rpc_thread_num": 8,
    "sgx.insecure__allow_memfaults_without_exinfo": True,
    "sgx.preheat_enclave": True,
    "sgx.enable_stats": True,
    "sgx.vtune_profile": True,
    "sgx.profile.enable": "all",
    "sgx.ra_client_linkable": True,
    "sgx.seal_key.flags_mask": "0x0000000000000000",
    "sgx.cpu_features.mpx": "required",
    "sgx.allowed_ioctls": [{"request_code": 1}],
}
RISKY = (
    "LD_PRELOAD", "PYTHONPATH", "PYTHONOPTIMIZE", "RA_TLS_MRENCLAVE", "SECRET_PROVISION_SERVERS",
    "RA_TLS_ALLOW_DEBUG_ENCLAVE_INSECURE", "SSL_CERT_DIR", "https_proxy", "HOME", "LD_LIBRARY_PATH",
    "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH", "OMP_NUM_THREADS", "ANYTHING",
)  # fmt: skip


def test_ours_have_no_weakness(manifests: dict[str, str]) -> None:
    for text in manifests.values():
        assert not [str(finding) for finding in lint(tomllib.loads(text))]


TEMPLATE = Path(
    str(metadata.distribution("openfl").locate_file("openfl-docker"))
) / "gramine_app" / "fx.manifest.template"  # fmt: skip


def openfls(workspace: str = "/workspace") -> dict[str, Any]:
    """OpenFL's own template, filled in as its Makefile does."""
    text = jinja2.Template(TEMPLATE.read_text(), undefined=jinja2.StrictUndefined).render(
        entrypoint="/opt/venv/bin/python3",
        gramine=SimpleNamespace(libos="/gramine/libsysdb.so", runtimedir=lambda: "/gramine/glibc"),
        log_level="error",
        venv_root="/opt/venv",
        arch_libdir="/lib/x86_64-linux-gnu",
        workspace_root=workspace,
        python=SimpleNamespace(
            stdlib="/usr/lib/python3.10",
            distlib="/usr/lib/python3/dist-packages",
            get_sys_path=lambda _: [Path("/usr")],
        ),
    )
    return tomllib.loads(text)


def test_a_template_is_found_as_weak_as_what_it_makes() -> None:
    def rules(manifest: dict[str, Any]) -> set[str]:
        return {finding.rule for finding in lint(manifest)}

    assert rules(read_manifest(TEMPLATE)) >= rules(openfls())


@pytest.mark.parametrize(
    ("rule", "key", "value"),
    [
        ("host-arguments", "loader.insecure__use_cmdline_argv", "True"),
        ("host-environment", "loader.insecure__use_host_env", "True"),
        ("python-not-isolated", "loader.argv", "(nothing)"),
        ("no-role", "loader.argv", "(nothing)"),
        ("variable", "loader.env.LD_LIBRARY_PATH", "/opt/venv"),
        ("unknown-variable", "loader.env.SSL_CERT_DIR", "/etc/ssl/certs"),
        ("plan-by-host", "sgx.allowed_files", "plan/plan.yaml"),
        ("plan-by-host", "sgx.allowed_files", "plan/cols.yaml"),
        ("plan-by-host", "sgx.allowed_files", "plan/data.yaml"),
        ("keys-by-host", "sgx.allowed_files", "/workspace/cert"),
        ("file-by-host", "sgx.allowed_files", "/workspace/data"),
        ("file-by-host", "sgx.allowed_files", "/workspace/save"),
        ("file-by-host", "sgx.allowed_files", "/workspace/local_state"),
        ("file-by-host", "sgx.allowed_files", "/workspace/logs"),
        ("not-encrypted", "fs.mounts", "/workspace/local_state"),
        ("not-encrypted", "fs.mounts", "/workspace/logs"),
        ("not-encrypted", "fs.mounts", "/workspace/save"),
        ("not-measured", "sgx.trusted_files", "/workspace/plan/plan.yaml"),
        ("not-measured", "sgx.trusted_files", "/workspace/plan/cols.yaml"),
        ("not-measured", "sgx.trusted_files", "/workspace/cert/cert_chain.crt"),
        ("not-measured", "sgx.trusted_files", "/workspace/save/init.pbuf"),
        ("measured-folder", "sgx.trusted_files", "/workspace/src/"),
        ("measured-folder", "sgx.trusted_files", "/opt/venv/"),
        ("measured-folder", "sgx.trusted_files", "/usr//lib/x86_64-linux-gnu/"),
        ("host-authorities", "sgx.trusted_files", "/etc/ssl/certs/"),
        ("no-hash", "sgx.trusted_files", "/opt/venv/bin/python3"),
        ("host-root", "fs.root.type", "(nothing)"),
        ("wide-mount", "fs.mounts", "'/usr'"),
        ("wide-mount", "fs.mounts", "/etc/ssl/certs"),
        ("wide-mount", "fs.mounts", "'file:/workspace'"),
        ("threads", "sgx.max_threads", "512"),
        ("no-edmm", "sgx.edmm_enable", "(nothing)"),
        ("no-product", "sgx.isvprodid", "(nothing)"),
        ("no-security-version", "sgx.isvsvn", "(nothing)"),
        ("unmeasured-files", "sgx.file_check_policy", "(nothing)"),
        ("subprocesses", "sys.disallow_subprocesses", "(nothing)"),
    ],
)  # fmt: skip
def test_openfls_template_has_each_known_weakness(rule: str, key: str, value: str) -> None:
    found = lint(openfls())
    assert [
        finding
        for finding in found
        if finding.rule == rule and finding.key.startswith(key) and value in finding.value
    ], [str(finding) for finding in found if finding.key.startswith(key)]


def leaves(tree: Any, where: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    pairs = tree.items() if isinstance(tree, dict) else enumerate(tree)
    for name, value in pairs:
        if isinstance(value, dict | list):
            yield from leaves(value, (*where, name))
        else:
            yield (*where, name)


def parent(tree: Any, where: tuple[Any, ...]) -> Any:
    for name in where[:-1]:
        tree = tree[name]
    return tree


def put(tree: dict[str, Any], key: str, value: Any) -> None:
    *above, last = key.split(".")
    for name in above:
        tree = tree.setdefault(name, {})
    tree[last] = value


def harmless_to_lose(where: tuple[Any, ...], signed: int) -> bool:
    """What may go without a finding, and why.

    - ``sgx.allowed_files``: a file less that the host may write; the gate says what it lacks.
    - ``fs.mounts[n]`` as a whole is not taken here; of ``sgx.trusted_files`` neither: what is not
      measured cannot be opened.
    """
    return where[:2] == ("sgx", "allowed_files") and signed > 0


@pytest.mark.parametrize("role", ROLES)
def test_no_key_can_be_lost(role: str, documents: dict[str, Any]) -> None:
    ours = documents[role]
    kept = []
    for where in leaves(ours):
        changed = copy.deepcopy(ours)
        del parent(changed, where)[where[-1]]
        if not lint(changed) and not harmless_to_lose(where, len(ours["sgx"]["allowed_files"])):
            kept.append(where)
    assert not kept


@pytest.mark.parametrize("role", ROLES)
def test_no_place_takes_a_key_of_no_name(role: str, documents: dict[str, Any]) -> None:
    mounts = documents[role]["fs"]["mounts"]
    for number in (n for n, mount in enumerate(mounts) if "key_name" in mount):
        for value in ("", "..", "_sgx_mrsigner", "_sgx_other", "default", "Key", "a/b", 0, None,
                      "other"):  # fmt: skip
            changed = copy.deepcopy(documents[role])
            changed["fs"]["mounts"][number]["key_name"] = value
            assert lint(changed)


def other_values(value: Any) -> list[Any]:
    """What a value could be in its place, and must not."""
    if isinstance(value, bool):
        return [not value, str(not value), 1, None]
    if isinstance(value, int):
        return [0, -1, 10**9, str(value), float(value), True]
    return ["", value + "/../x", value + "x", "//" + value, 0, True, {"passthrough": True}, [value]]


@pytest.mark.parametrize("role", ROLES)
def test_no_value_can_be_another(role: str, documents: dict[str, Any]) -> None:
    ours = documents[role]
    kept = []
    for where in leaves(ours):
        # Another site is another party, whose manifest is as good; see the next test for hashes.
        if where == ("loader", "argv", 15) or where[-1] == "sha256":
            continue
        # A file more or less in the library is one that cannot be opened, or is not there.
        if where[:2] == ("sgx", "trusted_files"):
            entry = ours["sgx"]["trusted_files"][where[2]]
            if not entry["uri"].startswith(f"file:{ours['fs']['start_dir']}/"):
                continue
        before = parent(ours, where)[where[-1]]
        for value in other_values(before):
            changed = copy.deepcopy(ours)
            parent(changed, where)[where[-1]] = value
            if value != before and not lint(changed):
                kept.append((where, value))
    assert not kept


@pytest.mark.parametrize("role", ROLES)
def test_every_hash_is_one(role: str, documents: dict[str, Any]) -> None:
    for value in ("", "0" * 63, "0" * 65, "g" * 64, "A" * 64, 0, None):
        for number in range(0, len(documents[role]["sgx"]["trusted_files"]), 5):
            changed = copy.deepcopy(documents[role])
            changed["sgx"]["trusted_files"][number]["sha256"] = value
            assert "no-hash" in {finding.rule for finding in lint(changed)}


def test_no_hash_can_be_anothers(
    manifests: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is measured is what is here: each of thousands of hashes, and a file that has gone."""
    text = manifests["aggregator"]
    ours = tomllib.loads(text)
    assert not [str(finding) for finding in lint_contents(ours)]
    entries = ours["sgx"]["trusted_files"]
    for entry in entries:
        entry["sha256"] = entry["sha256"][::-1]
    found = list(lint_contents(ours))
    assert [finding.rule for finding in found] == ["other-content"] * len(entries)
    assert entries[7]["uri"].removeprefix("file:") == found[7].value

    file = tmp_path / "party.manifest"
    file.write_text(text.replace("/plan/cols.yaml", "/plan/gone.yaml"))
    assert main(["tee", "lint", "--files", str(file)]) == 1
    assert "/plan/gone.yaml: No such file or directory" in capsys.readouterr().out
    file.write_text(text)
    assert main(["tee", "lint", "--files", str(file)]) == 0


@pytest.mark.parametrize("key", DANGEROUS)
def test_every_dangerous_key_is_found(key: str, documents: dict[str, Any]) -> None:
    for role in ROLES:
        changed = copy.deepcopy(documents[role])
        put(changed, key, DANGEROUS[key])
        assert [finding for finding in lint(changed) if finding.key.startswith(key[:20])]


@pytest.mark.parametrize("name", RISKY)
def test_no_variable_comes_from_the_host(name: str, documents: dict[str, Any]) -> None:
    for role in ROLES:
        for value in ({"passthrough": True}, {"value": "x"}, "/data"):
            changed = copy.deepcopy(documents[role])
            changed["loader"]["env"][name] = value
            (found,) = lint(changed)
            assert found.key == f"loader.env.{name}"
            assert ("steers" in found.why) == name.startswith(RISKY_ENV)


@pytest.mark.parametrize("role", ROLES)
def test_no_measured_file_can_be_the_hosts(role: str, documents: dict[str, Any]) -> None:
    ours = documents[role]
    for number, entry in enumerate(ours["sgx"]["trusted_files"]):
        for keep in (True, False):
            changed = copy.deepcopy(ours)
            changed["sgx"]["allowed_files"].append(entry["uri"])
            if not keep:
                del changed["sgx"]["trusted_files"][number]
            assert [f for f in lint(changed) if f.key.startswith("sgx.allowed_files")], entry


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize(
    "path", ["", "/attestation", "/attestation/", "/attestation/verifiers.yaml", "/cert",
             "/cert/client/col_site-1.key", "/data", "/local_state", "/src/evil.py", "/plan"],
)  # fmt: skip
def test_nothing_else_is_the_hosts(role: str, path: str, documents: dict[str, Any]) -> None:
    changed = copy.deepcopy(documents[role])
    changed["sgx"]["allowed_files"].append(f"file:{changed['fs']['start_dir']}{path}")
    assert lint(changed)


@pytest.mark.parametrize("role", ROLES)
def test_no_mount_can_be_of_another_kind(role: str, documents: dict[str, Any]) -> None:
    ours = documents[role]
    encrypted = 0
    for number, mount in enumerate(ours["fs"]["mounts"]):
        for kind in ("chroot", "encrypted", "tmpfs", "untrusted_shm", "device"):
            if kind == mount.get("type", "chroot"):
                continue
            changed = copy.deepcopy(ours)
            changed["fs"]["mounts"][number]["type"] = kind
            assert lint(changed), (mount, kind)
        if mount.get("type") == "encrypted":
            encrypted += 1
            for change in ({"key_name": "_sgx_mrsigner"}, {"key_name": "default"}):
                changed = copy.deepcopy(ours)
                changed["fs"]["mounts"][number].update(change)
                assert lint(changed), (mount, change)
            changed = copy.deepcopy(ours)
            changed["fs"]["mounts"][number] = {"path": mount["path"], "uri": mount["uri"]}
            assert "not-encrypted" in {finding.rule for finding in lint(changed)}
            del changed["fs"]["mounts"][number]
            assert "not-encrypted" in {finding.rule for finding in lint(changed)}
    assert encrypted == 4


@pytest.mark.parametrize("folder", ["/", "/usr", "/etc", "/etc/ssl/certs", "/home", "/lib64"])
def test_the_hosts_folders_are_not_to_be_seen(folder: str, documents: dict[str, Any]) -> None:
    for role in ROLES:
        changed = copy.deepcopy(documents[role])
        changed["fs"]["mounts"].insert(0, {"path": folder, "uri": f"file:{folder}"})
        assert "wide-mount" in {finding.rule for finding in lint(changed)}


@pytest.mark.parametrize("role", ROLES)
def test_a_later_mount_that_hides_others_is_found(role: str, documents: dict[str, Any]) -> None:
    for path in ("/tmp", "/lib", documents[role]["fs"]["start_dir"]):
        changed = copy.deepcopy(documents[role])
        changed["fs"]["mounts"].append({"type": "tmpfs", "path": path})
        assert "hidden-mount" in {finding.rule for finding in lint(changed)}


def test_roles_are_not_exchanged(documents: dict[str, Any]) -> None:
    sites = set(SIGNED["collaborator"]) - set(SIGNED["aggregator"])
    assert sites == {"rollback.json", "rollback.sig"}
    changed = copy.deepcopy(documents["aggregator"])
    changed["loader"]["argv"][12:] = ["collaborator", "start", "-n", "site-1"]
    assert {"not-encrypted", "not-measured"} <= {finding.rule for finding in lint(changed)}


@pytest.mark.parametrize(
    "arguments",
    [["-p", "plan/other.yaml"], ["plan", "initialize"], [], ["collaborator", "start"]],
)
def test_only_a_party_starts(arguments: list[str], documents: dict[str, Any]) -> None:
    for role in ROLES:
        changed = copy.deepcopy(documents[role])
        argv = changed["loader"]["argv"]
        changed["loader"]["argv"] = [*argv[:12], *arguments]
        assert "no-role" in {finding.rule for finding in lint(changed)}
        changed["loader"]["argv"] = [argv[0], *argv[5:]]
        assert "python-not-isolated" in {finding.rule for finding in lint(changed)}


def test_bytecode_and_doubles_are_found(documents: dict[str, Any]) -> None:
    changed = copy.deepcopy(documents["aggregator"])
    entry = changed["sgx"]["trusted_files"][0]
    changed["sgx"]["trusted_files"] += [entry, {**entry, "uri": "file:/a/__pycache__/b.pyc"}]
    assert {"measured-twice", "bytecode"} <= {finding.rule for finding in lint(changed)}


def test_variables_have_no_second_value(documents: dict[str, Any]) -> None:
    for name in FIXED_ENV:
        changed = copy.deepcopy(documents["aggregator"])
        changed["loader"]["env"][name] += "2"
        assert lint(changed)


def test_the_command_says_what_why_and_how_better(
    tmp_path: Path, manifests: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    good, bad, none = (tmp_path / name for name in ("good", "bad", "none"))
    good.write_text(manifests["aggregator"])
    bad.write_text(manifests["aggregator"].replace("sgx.debug = false", "sgx.debug = true"))
    none.write_text("sgx.debug = {{ debug }}")
    assert main(["tee", "lint", str(good)]) == 0
    assert main(["tee", "lint", str(good), str(bad)]) == 1
    shown = capsys.readouterr().out
    assert f"{bad}: debug: sgx.debug=True: the host reads and writes the enclave's memory" in shown
    assert "better: false" in shown
    assert main(["tee", "lint", str(none)]) == 1
    assert "expected a manifest in TOML" in capsys.readouterr().err
