"""What is measured of checkpoints: which is best, what is kept, and what is refused before work."""

import errno
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from processes import JOIN, run_two
from runs import call

from score_sde.errors import UserError
from score_sde.metrics.statistics import load_statistics, save_statistics
from score_sde.parallel.levels import Levels
from score_sde.parallel.samples import Generator
from score_sde.workdir import measure, measurements
from score_sde.workdir.levels import load_levels


def fid(workdir: Path, step: int) -> float:
    rows = measurements.read(workdir)[step]
    return next(row["value"] for row in rows if row["metric"] == "fid")


def pieces(workdir: Path) -> list[Path]:
    return sorted((workdir / "eval" / "samples").rglob("samples_*.npz"))


# Checkpoints


def test_curves_over_checkpoints_and_the_best(fresh: Path, capsys) -> None:
    call("eval", fresh, checkpoint="all", values={"eval.metrics": "loss,fid"})
    distances = {step: fid(fresh, step) for step in (10, 20)}
    best = min(distances, key=distances.__getitem__)
    said = capsys.readouterr().out
    assert f"checkpoint {best:>9}  FID {distances[best]:.5g}  <- best" in said
    assert "held-out loss:" in said and f"--checkpoint best is now {best}, by FID" in said
    assert (fresh / "eval" / "fid.png").exists() and (fresh / "eval" / "loss.png").exists()
    call("sample", fresh, checkpoint="best")
    assert f"samples of checkpoint {best} " in capsys.readouterr().out
    call("eval", fresh, checkpoint=str(10 + 20 - best))  # one alone chooses nothing
    assert json.loads((fresh / "eval" / "selection.json").read_text())["best"] == best


def test_loss_of_a_single_image_has_no_error(fresh: Path) -> None:
    call("eval", fresh, values={"eval.metrics": "loss", "eval.num_examples": 1})
    (row,) = measurements.read(fresh)[20]
    assert row["how"]["images"] == 1 and "standard_error" not in row


def test_losses_per_level_alone_choose_nothing(fresh: Path, monkeypatch) -> None:
    ones = np.ones(1)
    found = Levels(ones, ones, ones, np.ones((2, 1)), np.ones((2, 1)))
    monkeypatch.setattr(measure, "level_losses", lambda *_: found)
    call("eval", fresh, checkpoint="all", values={"eval.metrics": "levels"})
    assert all(load_levels(fresh, step)["images"] == 2 for step in (10, 20))
    assert not (fresh / "eval" / "selection.json").exists()


PROCESS = """
import sys
from score_sde import program
values = {"eval.metrics": "bits,fid,kid", "eval.rtol": "1e-2", "eval.atol": "1e-2",
          "eval.num_examples": "8"}
program.run("eval", {"workdir": [sys.argv[1]], "checkpoint": ["all"]}, list(values.items()))
"""


@pytest.mark.slow
def test_two_processes_measure_what_one_measures(fresh: Path, tmp_path: Path) -> None:
    """Every file is written by one of them, and read by the others when it is there."""
    both = shutil.copytree(fresh, tmp_path / "both")
    run_two(["-c", JOIN + PROCESS, both])
    values = {"eval.rtol": 1e-2, "eval.atol": 1e-2, "eval.num_examples": 8}
    call("eval", fresh, checkpoint="all", values=values | {"eval.metrics": "bits,fid,kid"})
    assert measurements.best_step(both) == measurements.best_step(fresh)
    for step, rows in measurements.read(fresh).items():
        for one, two in zip(rows, measurements.read(both)[step], strict=True):
            assert one["how"] == two["how"] and one["metric"] == two["metric"]
            assert two["value"] == pytest.approx(one["value"], rel=1e-3)


# Failures


def heldout_losses(*losses: float):
    """Stands for `heldout_loss`: these losses, one for each image."""
    return lambda *_: lambda params, key: np.asarray([losses])


def test_what_was_measured_before_a_failure_is_kept(fresh: Path, monkeypatch) -> None:
    def fail(*_):
        raise UserError("no samples")

    monkeypatch.setattr(measure, "measure_samples", fail)
    for losses in ((2.0,), (1.0, 2.0, 6.0)):
        monkeypatch.setattr(measure, "heldout_loss", heldout_losses(*losses))
        with pytest.raises(UserError, match="no samples"):
            call("eval", fresh, values={"eval.metrics": "loss,fid"})
    one, three = measurements.read(fresh)[20]
    assert one["value"] == 2 and "standard_error" not in one
    assert three["value"] == 3 and three["standard_error"] == pytest.approx((7 / 3) ** 0.5)
    assert [row["how"]["images"] for row in (one, three)] == [1, 3]


def test_loss_that_is_not_finite_is_refused(fresh: Path, monkeypatch) -> None:
    monkeypatch.setattr(measure, "heldout_loss", heldout_losses(2.0, np.nan, 3.0))
    message = r"loss of 1 of 3 images at checkpoint 20 is not finite.*Try another --checkpoint"
    with pytest.raises(UserError, match=message):
        call("eval", fresh, values={"eval.metrics": "loss"})
    assert not measurements.read(fresh)


def test_samples_that_are_not_finite_are_named_and_the_others_kept(
    fresh: Path, monkeypatch
) -> None:
    batches = Generator.batches

    def spoiled(*arguments, **options):
        for number, (part, drawn) in enumerate(batches(*arguments, **options)):
            spoil = np.where(number == 1, np.nan, 1.0).astype(np.float32)
            yield part, drawn._replace(images=spoil * drawn.images)

    monkeypatch.setattr(Generator, "batches", spoiled)
    message = r"16 samples are not finite \(numbers \[16, 17, 18, 19, 20\]\)"
    with pytest.raises(UserError, match=message):
        call("eval", fresh)
    assert [path.name for path in pieces(fresh)] == ["samples_0000000_0000016.npz"]
    assert 20 not in measurements.read(fresh)


def test_a_full_disk_is_said(measured: Path, monkeypatch) -> None:
    """The same command goes on with what is missing."""

    def full(file, **arrays):
        file.write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    before = sorted(measured.rglob("*"))
    monkeypatch.setattr(np, "savez_compressed", full)
    message = r"cannot write to .*eval \(No space left .*the same command goes on"
    with pytest.raises(UserError, match=message):
        call("eval", measured, values={"quality.num_samples": 48})
    assert sorted(measured.rglob("*")) == before


# Refused before the work


@pytest.mark.parametrize("mode", ["eval", "select"])
def test_a_place_that_cannot_be_written_to_is_said_before_sampling(fresh: Path, mode: str) -> None:
    (fresh / "eval").write_text("a file where the folder should be")
    message = r"cannot write to .*eval .*the same command goes on|2 of 2 failed.*\. The same"
    with pytest.raises(UserError, match=message):
        call(mode, fresh)


def test_reference_of_another_extractor_is_refused_before_sampling(
    measured: Path, tmp_path: Path
) -> None:
    found = load_statistics(measured / "eval" / "reference_pixels.npz")
    checksum, found.provenance["checksum"] = found.provenance["checksum"], "0123"
    save_statistics(tmp_path / "other.npz", found)
    values = {"quality.reference": str(tmp_path / "other.npz"), "sampling.steps": 3}
    with pytest.raises(UserError, match=r"different weights of the extractor \(SHA-256\)"):
        call("eval", measured, values=values)
    np.savez(tmp_path / "long.npz", mu=np.zeros(65), sigma=np.eye(65))
    message = r"the samples has features of 64 dimensions and .*long.npz of 65"
    with pytest.raises(UserError, match=message):
        call("eval", measured, values=values | {"quality.reference": str(tmp_path / "long.npz")})
    found.provenance["checksum"] = checksum
    save_statistics(tmp_path / "other.npz", found)
    with pytest.raises(UserError, match="holds no features, which kid need"):
        call("eval", measured, values=values | {"eval.metrics": "fid,kid"})
    assert len({path.parent.parent.name for path in pieces(measured)}) == 1


def test_a_reference_that_is_none_says_how_to_make_one(fresh: Path, tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    message = r"config.quality.reference: .* is a folder.*--mode fid --a DIR --output x.npz"
    with pytest.raises(UserError, match=message):
        call("eval", fresh, values={"quality.reference": str(tmp_path / "x")})


@pytest.mark.parametrize("given", [False, True])
def test_inception_score_without_classes_is_refused_before_sampling(
    fresh: Path, tmp_path: Path, given: bool
) -> None:
    np.savez(tmp_path / "other.npz", mu=np.zeros(64), sigma=np.eye(64))
    values = {"quality.reference": tmp_path / "other.npz"} if given else {}
    with pytest.raises(UserError, match="extractor 'pixels' has no classes"):
        call("eval", fresh, values=values | {"eval.metrics": "fid,is"})
    assert not pieces(fresh)


@pytest.mark.parametrize("text", ["fit", "", "fid,,loss,x"])
def test_unknown_metrics_are_listed(fresh: Path, text: str) -> None:
    message = r"config.eval.metrics: .* is no metric; known.*: loss, levels, bits, fid"
    with pytest.raises(UserError, match=message):
        call("eval", fresh, values={"eval.metrics": text})
