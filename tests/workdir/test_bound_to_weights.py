"""Results say which weights they are of: those of weights that are gone are never taken again."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from commands import refused
from runs import call

from score_sde.errors import UserError
from score_sde.modes.train import _tell_of_results
from score_sde.workdir import measurements
from score_sde.workdir.documents import read_document, write_document
from score_sde.workdir.rows import Pieces, claim_settings, keep_settings

BITS = {"eval.num_examples": 8, "eval.batch_size": 8, "eval.rtol": 0.1, "eval.atol": 0.1}
LOSS = BITS | {"eval.metrics": "loss,levels"}


def test_only_older_folders_may_not_say_their_weights(tmp_path: Path) -> None:
    keep_settings(tmp_path, claim_settings(tmp_path, {"images": 9, "weights": "a"}))
    with pytest.raises(UserError, match="weights: 'a' there, 'b' here"):
        Pieces(tmp_path, {"images": 9, "weights": "b"})
    with pytest.raises(UserError, match="weights: 'a' there, None here"):
        Pieces(tmp_path, {"images": 9})
    (tmp_path / "settings.json").write_text('{"images": 9}')  # of an older version
    Pieces(tmp_path, {"images": 9, "weights": "b"})
    with pytest.raises(UserError, match="images: 9 there, 8 here"):
        Pieces(tmp_path, {"images": 8, "weights": "b"})


def test_measures_of_other_weights_are_dropped_and_said(tmp_path: Path, capsys) -> None:
    row = {"metric": "fid", "value": 3.0, "how": {}}
    measurements.record(tmp_path, 7, [row], "a")
    measurements.record(tmp_path, 7, [row | {"metric": "kid"}], "a")
    measurements.check_weights(tmp_path, 7, "a")
    assert [found["metric"] for found in measurements.read(tmp_path)[7]] == ["fid", "kid"]
    with pytest.raises(UserError, match=r"step_7.json holds measures of other weights"):
        measurements.check_weights(tmp_path, 7, "b")
    assert not capsys.readouterr().out
    measurements.record(tmp_path, 7, [row | {"metric": "is"}], "b")
    assert "step_7.json held measures of other weights" in capsys.readouterr().out
    assert [found["metric"] for found in measurements.read(tmp_path)[7]] == ["is"]
    measurements.check_weights(tmp_path, 8, "b")  # there is none


@pytest.fixture(scope="module")
def retrained(tiny: Path, other_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with results of checkpoint 20, which then got other weights."""
    run = tmp_path_factory.mktemp("retrained") / "run"
    shutil.copytree(tiny, run)
    call("sample", run)
    call("eval", run, values=LOSS)
    call("likelihood", run, values=BITS)
    call("reconstruct", run, values=FEW, copies=1)
    shutil.rmtree(run / "checkpoints" / "20")
    shutil.copytree(other_weights / "checkpoints" / "20", run / "checkpoints" / "20")
    return run


FEW = {"inverse.images": 2, "inverse.solver": "projection"}


def test_rows_of_weights_that_are_gone_are_refused(retrained: Path) -> None:
    refused(r"holds results of other settings .weights: ", "likelihood", retrained, values=BITS)


def test_a_report_mixes_no_weights(retrained: Path) -> None:
    refused("the samples in .* are of other weights than", "report", retrained)


def test_reconstructions_are_made_anew(retrained: Path, capsys) -> None:
    file = retrained / "samples/reconstruct_step_20/reconstruction.npz"
    before = file.read_bytes()
    for said in ("PSNR", "there already"):
        call("reconstruct", retrained, values=FEW, copies=1)
        assert said in capsys.readouterr().out
    assert file.read_bytes() != before
    summary = file.with_name("summary.json")
    found = read_document(summary, {"weights": str}, "")
    del found["weights"]
    write_document(summary, found)  # as an older version
    call("reconstruct", retrained, values=FEW, copies=1)
    assert "there already" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["summary.json", "reconstruction.npz", "metrics.parquet"])
def test_damaged_reconstructions_are_made_anew(retrained: Path, capsys, name: str) -> None:
    call("reconstruct", retrained, values=FEW, copies=1)
    file = retrained / "samples/reconstruct_step_20" / name
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    capsys.readouterr()
    call("reconstruct", retrained, values=FEW, copies=1)
    said = capsys.readouterr().out
    assert str(file) in said and "is made anew" in said
    assert np.load(file.with_name("reconstruction.npz"))["images"].shape[:2] == (2, 1)


def test_measuring_again_drops_what_was_of_other_weights(retrained: Path, capsys) -> None:
    call("eval", retrained, values=LOSS)
    assert "step_20.json held measures of other weights" in capsys.readouterr().out
    call("sample", retrained)
    call("report", retrained)


def test_training_anew_says_that_results_are_of_weights_that_are_gone(
    retrained: Path, tmp_path: Path, capsys
) -> None:
    _tell_of_results(retrained, fresh=False)
    _tell_of_results(tmp_path, fresh=True)
    assert not capsys.readouterr().out
    _tell_of_results(retrained, fresh=True)
    assert "holds results of weights that are gone (eval, samples)" in capsys.readouterr().out
