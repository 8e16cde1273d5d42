"""Manifests: what is in them, that it is enough and no more, and that it is always the same."""

import json
import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml

from openfl_flows.cli import main
from openfl_flows.tee import elf
from openfl_flows.tee.plan import read_party, scalars
from openfl_flows.tee.render import recipe_folder
from openfl_flows.tee.sizes import enclave_bytes, max_threads
from tests.enclave_view import KEEPER, make_view, manifest_of, trusted
from tests.unit.tee.conftest import PARTIES, ROOT, workspace_of

GIB = 1 << 30
IMPORTS = {
    "aggregator": "openfl.interface.cli openfl_flows.taskrunner.aggregator "
    "openfl_flows.taskrunner.aggregation openfl_flows.taskrunner.assigner "
    "openfl_flows.taskrunner.pipeline openfl_flows.taskrunner.start",
    "collaborator": "openfl.interface.cli openfl_flows.taskrunner.collaborator "
    "openfl_flows.taskrunner.runner openfl_flows.taskrunner.loader "
    "openfl_flows.taskrunner.readiness openfl_flows.taskrunner.start "
    "openfl_flows.learners.digress_task",
}


@pytest.mark.parametrize("role", PARTIES)
def test_a_digress_party_starts_with_few_files(role: str, manifests: dict[str, str]) -> None:
    files = trusted(manifests[role])
    assert 3_000 < len(files) < 10_000
    assert [str(file) for file in files] == sorted(str(file) for file in files)
    assert not [file for file in files if file.suffix == ".pyc" or "__pycache__" in file.parts]
    assert not [file for file in files if file.name in ("RECORD", "direct_url.json")]


@pytest.mark.parametrize("role", PARTIES)
def test_hashes_are_of_what_is_there(role: str, manifests: dict[str, str]) -> None:
    files = trusted(manifests[role])
    few = {file: digest for number, (file, digest) in enumerate(files.items()) if number % 97 == 0}
    said = subprocess.run(["sha256sum", *few], capture_output=True, text=True, check=True).stdout
    assert said.splitlines() == [f"{digest}  {file}" for file, digest in few.items()]


# PyTorch without bytecode takes a while.
@pytest.mark.parametrize(
    "role", ["aggregator", pytest.param("collaborator", marks=pytest.mark.slow)]
)
def test_what_is_measured_is_enough_to_import(
    role: str, manifests: dict[str, str], tmp_path: Path
) -> None:
    files = list(trusted(manifests[role]))
    python = make_view(files, tmp_path / "view")
    program = (
        f"import importlib, sys\nfor n in {IMPORTS[role].split()!r}: importlib.import_module(n)"
    )
    program += "\nprint('torch' in sys.modules)"
    done = subprocess.run(
        [python, "-I", "-B", "-W", "ignore", "-c", program],
        env={"LOADED": str(tmp_path / "loaded"), "HOME": "/tmp", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-1500:]
    assert done.stdout.split() == [str(role == "collaborator")]
    loaded = {Path(line).resolve() for line in (tmp_path / "loaded").read_text().splitlines()}
    measured = {file.resolve() for file in files}
    libraries = {file for file in loaded - measured if "-linux-gnu" in str(file)}
    assert all(f.name.startswith(("lib", "ld-", "gconv")) for f in libraries)
    assert not [f for f in loaded - measured - libraries if f.suffix in (".py", ".so")]


def test_two_renders_are_one(toy: Path, gramine: Path) -> None:
    first = manifest_of(toy, gramine)
    for file in sorted(toy.rglob("*"), reverse=True):
        os.utime(file, (10**9, 10**9))
    other = subprocess.run(
        [sys.executable, "-c", "import sys; from pathlib import Path\n"
         "from tests.enclave_view import manifest_of\n"
         f"sys.stdout.write(manifest_of(Path({str(toy)!r}), Path({str(gramine)!r})))"],
        cwd=ROOT,
        env={**os.environ, "LC_ALL": "C", "TZ": "Asia/Tokyo", "PYTHONHASHSEED": "7"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout  # fmt: skip
    assert first == other


def test_what_changes_is_told(toy: Path, gramine: Path) -> None:
    before = trusted(manifest_of(toy, gramine))
    plan = toy / "plan" / "plan.yaml"
    plan.write_text(plan.read_text().replace("use_tls: true", "use_tls: false"))
    (toy / "src" / "__pycache__").mkdir(exist_ok=True)
    (toy / "src" / "__pycache__" / "x.pyc").write_bytes(b"bytecode")
    after = trusted(manifest_of(toy, gramine))
    assert {file for file in before if after.pop(file) != before[file]} == {plan}
    assert not after


def test_a_party_has_its_own_folders_and_no_others(manifests: dict[str, str]) -> None:
    for role, text in manifests.items():
        document = tomllib.loads(text)
        start = document["fs"]["start_dir"]
        encrypted = {
            mount["path"].removeprefix(f"{start}/"): mount["key_name"]
            for mount in document["fs"]["mounts"]
            if mount.get("type") == "encrypted"
        }
        state = dict.fromkeys(("local_state", "logs"), "_sgx_mrenclave")
        assert encrypted == (
            {**state, "save": "_sgx_mrenclave", "cert/server": "party"}
            if role == "aggregator"
            else {**state, "data": "party", "cert/client": "party"}
        )
        seen = {mount["path"] for mount in document["fs"]["mounts"]}
        assert not [path for path in seen if path.endswith(("site-packages", "/torch_geometric"))]
        assert any(path.endswith("/torch") for path in seen) == (role == "collaborator")


@pytest.mark.parametrize("model", ["toy", "digress", "esm", "openfold3"])
def test_a_plan_is_read_as_yaml_reads_it(model: str) -> None:
    plan = ROOT / "workspaces" / model / "plan" / "plan.yaml"
    found = scalars(plan)
    assert len(found) > 60
    for key, text in found.items():
        value = yaml.safe_load(plan.read_text())
        for part in key.split("."):
            value = value[part]
        said = yaml.safe_load(text)
        assert value in (said, text), key


def test_an_enclave_is_as_large_as_the_model_asks_for(tmp_path: Path) -> None:
    folder = workspace_of("toy", tmp_path / "toy")
    sizes = []
    for million in (1, 1_000, 3_000):
        with (folder / "save" / "init.pbuf").open("wb") as file:
            file.truncate(million * 10**6)
        parties = [read_party(folder, role=r, site=s) for r, s in PARTIES.items()]  # type: ignore[arg-type]
        sizes.append([enclave_bytes(party) // GIB for party in parties])
        assert all(max_threads(party) == 48 for party in parties)
    assert sizes == [[4, 8], [8, 8], [32, 16]]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--role", "aggregator", "--name", "site-1"], "expected none: the plan names it"),
        (["--role", "collaborator"], "--name=None, expected one of"),
        (["--role", "collaborator", "--name", "site-9"], "--name=site-9, expected one of"),
        (["--role", "aggregator", "--isvsvn", "0"], "--isvsvn=0, expected 1 to 65535"),
        (["--role", "aggregator", "--gramine", "/nowhere"], "expected Gramine 1.9"),
        (["--role", "aggregator", "--python", "/bin/false"], "does not run, expected Python"),
        (["--role", "aggregator", "--test-key", "xyz"], "expected 32 digits"),
        (["--role", "aggregator", "--state-key", "_sgx_mrsigner"], "expected _sgx_mrenclave or"),
        (["--role", "aggregator", "--state-key", "other"], "expected _sgx_mrenclave or party"),
        (["--role", "aggregator", "--keeper", "keeper"], "--keeper=keeper, expected HOST:PORT"),
        (["--role", "aggregator", "--keeper", "a:70000"], "--keeper=a:70000, expected HOST:PORT"),
        (["--role", "aggregator", "--keeper-key", "/nowhere"], "expected the keeper's public key"),
        (["--role", "aggregator", "--test-key", "00" * 16], "--keeper with --test-key"),
    ],
)
def test_what_cannot_be_rendered_is_one_line(
    arguments: list[str],
    said: str,
    toy: Path,
    gramine: Path,
    keeper_key: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    usual = ["--gramine", str(gramine), "--keeper", "a:1", "--keeper-key", str(keeper_key)]
    assert main(["tee", "render", str(toy), *usual, *arguments]) == 1
    error = capsys.readouterr().err.strip()
    assert said in error
    assert len(error.splitlines()) == 1


@pytest.mark.parametrize(
    "lost", ["plan/plan.yaml", "plan/cols.yaml", "plan/data.yaml", "cert/cert_chain.crt",
             "save/init.pbuf", "requirements.txt"],
)  # fmt: skip
def test_a_file_that_is_missing_is_named(
    lost: str, toy: Path, gramine: Path, keeper_key: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (toy / lost).unlink()
    arguments = ["--role", "collaborator", "--name", "site-1", "--gramine", str(gramine)]
    arguments += ["--keeper", "a:1", "--keeper-key", str(keeper_key)]
    assert main(["tee", "render", str(toy), *arguments]) == 1
    assert f"{toy / lost}: no such file" in capsys.readouterr().err


def test_what_no_enclave_can_do_is_refused(toy: Path) -> None:
    (toy / "plan" / "data.yaml").write_text("site-1,/srv/data\n")
    with pytest.raises(ValueError, match="the enclave sees its workspace only"):
        read_party(toy, role="collaborator", site="site-1")
    plan = toy / "plan" / "plan.yaml"
    document = yaml.safe_load(plan.read_text())
    document["task_runner"]["settings"]["experiment"]["model"]["training"] = {"kernels": "native"}
    plan.write_text(yaml.safe_dump(document))
    with pytest.raises(ValueError, match="starts no compiler"):
        read_party(toy, role="aggregator", site=None)


def test_a_test_key_does_not_pass_the_lint(toy: Path, gramine: Path, tmp_path: Path) -> None:
    out = tmp_path / "party.manifest"
    arguments = ["--gramine", str(gramine), "--test-key", "00" * 16, "--out", str(out)]
    assert main(["tee", "render", str(toy), "--role", "aggregator", *arguments]) == 0
    keys = {m.get("key_name") for m in tomllib.loads(out.read_text())["fs"]["mounts"]} - {None}
    assert keys == {"test"}
    assert main(["tee", "lint", str(out)]) == 1


def test_only_the_standard_library_is_asked(toy: Path, gramine: Path) -> None:
    program = (
        "import json, sys, tomllib\nfrom pathlib import Path\n"
        "from openfl_flows.tee.lint import lint\nfrom openfl_flows.tee.plan import read_party\n"
        "from openfl_flows.tee.render import Options, render\n"
        f"party = read_party(Path({str(toy)!r}), role='aggregator', site=None)\n"
        f"given = Options(gramine=Path({str(gramine)!r}), python=Path(sys.executable), "
        f"**{KEEPER})\n"
        "done = len(lint(tomllib.loads(render(party, given))))\n"
        "names = {name.partition('.')[0] for name in sys.modules}\n"
        "print(json.dumps([done, sorted(names - set(sys.stdlib_module_names))]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    status, foreign = json.loads(done.stdout.splitlines()[-1])
    assert status == 0
    assert {name for name in foreign if not name.startswith("_")} == {"openfl_flows"}


def test_linked_names_are_those_that_readelf_tells() -> None:
    readelf = shutil.which("readelf")
    if readelf is None:
        pytest.skip("no readelf")
    for file in (Path(sys.executable).resolve(), Path("/bin/ls").resolve()):
        said = subprocess.run(
            [readelf, "-d", file], capture_output=True, text=True, check=True, env={"LC_ALL": "C"}
        ).stdout
        names = [line.split("[")[1][:-1] for line in said.splitlines() if "(NEEDED)" in line]
        assert list(elf.needed(file)) == names
        assert names


def test_a_broken_library_is_one_line(tmp_path: Path) -> None:
    whole = Path("/bin/ls").resolve().read_bytes()
    for length in (17, 64, 100, 700):
        (tmp_path / "broken.so").write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"broken\.so: broken, expected an ELF file"):
            elf.needed(tmp_path / "broken.so")


def test_the_recipe_passes_its_linter() -> None:
    hadolint = shutil.which("hadolint", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if hadolint is None:
        pytest.skip("hadolint is not installed")
    recipe = recipe_folder() / "Containerfile"
    done = subprocess.run([hadolint, recipe], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    text = recipe.read_text()
    assert "ARG BASE\n" in text
    assert "ARG DEBS_SHA256\n" in text
    assert text.count("--no-compile") == 2
    assert "--require-hashes" in text


@pytest.mark.slow
def test_two_installations_measure_the_same(tmp_path: Path) -> None:
    pytest.importorskip("build")
    environment = {**os.environ, "SOURCE_DATE_EPOCH": "0"}
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", tmp_path]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True, env=environment)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        assert "openfl_flows/tee/recipe/aggregator.manifest.toml" in archive.namelist()
    hashes = []
    for number in range(2):
        target = tmp_path / f"environment-{number}"
        install = [sys.executable, "-m", "pip", "install", "--no-compile", "--no-deps",
                   "--no-index", "--target", target, wheel]  # fmt: skip
        subprocess.run(install, check=True, capture_output=True)
        code = (
            "import json, sys; from pathlib import Path\n"
            "from openfl_flows.tee import measured\n"
            "here = Path(sys.argv[1])\n"
            "files = [f for f in measured._tree(here / 'openfl_flows')]\n"
            "print(json.dumps({str(f.relative_to(here)): measured.sha256(f) for f in files}))"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, target],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
        hashes.append(json.loads(done.stdout))
    assert hashes[0] == hashes[1]
    assert len(hashes[0]) > 300
