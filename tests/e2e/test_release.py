"""A federation of real processes is released: its sites sign what they know themselves."""

import shutil

from openfl_flows.cli import main
from openfl_flows.taskrunner.rehearsal import rehearse
from tests.fx_processes import TOY, launch


def test_the_sites_of_a_federation_release_its_model(prepared, tmp_path, capsys) -> None:
    parties = prepared(*TOY, "codec=int4")
    shutil.copytree(parties, tmp_path / "parties", symlinks=True)
    parties = tmp_path / "parties"
    run = rehearse(parties, out=parties, launch=launch, resume=True)
    names = ("site-1", "site-2")
    local = {name: parties / name / "local_state" / name for name in names}
    assert main(["ledger", "verify", str(run.path)]) == 0

    signers, release = str(tmp_path / "signers.json"), str(tmp_path / "release")
    for name in names:
        assert main(["release", "key", str(tmp_path / name)]) == 0
    listed = [f"{name}={tmp_path / name}.pub" for name in names]
    assert main(["release", "signers", signers, "--need", "2", *listed]) == 0
    words = ["release", "make", str(run.path), "--out", release, "--signers", signers]
    assert main([*words, "--weights", "best"]) == 0
    for name in names:
        words = ["release", "sign", release, "--key", str(tmp_path / name)]
        assert main([*words, "--site", str(local[name])]) == 0
    assert main(["release", "verify", release, "--signers", signers]) == 0
    assert run.record["best"]["digest"] in capsys.readouterr().out

    file = local["site-1"] / "own_part.json"
    file.write_text(file.read_text().replace('"num_steps": ', '"num_steps": 1', 1))
    words = ["release", "sign", release, "--key", str(tmp_path / "site-1")]
    assert main([*words, "--site", str(local["site-1"])]) == 1
    assert "of round 1 site-1 knows" in capsys.readouterr().err
