"""Quality of checkpoints: numbers that depend on nothing but the run."""

import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image
from runs import call, load

from score_sde.build.settings import depends
from score_sde.data import FolderSource, digits
from score_sde.data.image_sets import to_bytes
from score_sde.devices import Placement
from score_sde.errors import UserError
from score_sde.metrics import (
    Moments,
    density_coverage,
    frechet_distance,
    kernel_distance,
    precision_recall,
    small_pixels,
)
from score_sde.metrics.statistics import load_statistics
from score_sde.parallel.samples import Drawn
from score_sde.workdir import measurements, quality
from score_sde.workdir.config import load_json
from score_sde.workdir.levels import load_levels
from score_sde.workdir.quality import over_seeds, small_sample_settings, tag
from score_sde.workdir.run import Run
from score_sde.workdir.store import SampleStore
from score_sde.workdir.which import weights_checksum

DIGITS = "configs/vp/ddpmpp_cont.py:digits"
TRAIN, TEST = (to_bytes(digits(split).images, 17) for split in ("train", "test"))


def values(workdir: Path, step: int = 20) -> dict[str, float]:
    return {row["metric"]: row["value"] for row in measurements.read(workdir)[step]}


def fid(workdir: Path, step: int = 20) -> float:
    return values(workdir, step)["fid"]


def pieces(workdir: Path) -> list[Path]:
    return sorted((workdir / "eval" / "samples").rglob("samples_*.npz"))


def stored(files: list[Path]) -> np.ndarray:
    """The samples in these files, as levels."""
    found = []
    for path in files:
        with np.load(path) as file:
            found.append(file["images"])
    return np.concatenate(found)


def samples_of(workdir: Path) -> np.ndarray:
    """The samples of its one checkpoint and seed as 0 .. 255."""
    return to_bytes(stored(pieces(workdir)), 17)


def pixels(images: np.ndarray) -> np.ndarray:
    return small_pixels(images.astype(np.float32) / 255)


# What samples are of


def test_weights_are_told_apart_by_values_and_names() -> None:
    one, two = np.zeros(2, np.float32), np.ones(2, np.float32)
    trees = ({"a": one, "b": two}, {"a": two, "b": one}, {"a": one, "c": two})
    assert len({weights_checksum(tree) for tree in trees}) == 3
    assert weights_checksum(trees[0]) == weights_checksum({"b": two, "a": one})


def test_samples_of_older_versions_are_found_again() -> None:
    """The literals are those of commit de54691, over the same entries."""
    settings = load(DIGITS)
    how = depends(settings.sampling, "samples") | {"evaluations": 201, "dtype": "float32"}
    assert tag(how) == "33bf347f"
    assert small_sample_settings(settings) == "0e99e79b"
    tree = {"a": {"kernel": np.arange(3, dtype=np.float32)}}
    assert weights_checksum(tree) == "35cdb7ccfe4df9a1"


def test_the_checkpoint_decides_whose_samples_are_used(measured: Path, other_weights: Path) -> None:
    """Samples of other weights at the same step are refused."""
    shutil.rmtree(measured / "checkpoints" / "20")
    shutil.copytree(other_weights / "checkpoints" / "20", measured / "checkpoints" / "20")
    with pytest.raises(UserError, match=r"holds results of other settings \(.*weights"):
        call("eval", measured)


# Numbers


def test_the_number_is_that_of_the_samples(measured: Path, capsys) -> None:
    """FID of --mode eval is the Frechet distance of what --mode sample draws.

    The other side are the training images.
    """
    before = pieces(measured)
    call("eval", measured)
    said, progress = capsys.readouterr()
    assert "checkpoint 20, seed 42" not in progress  # nothing was drawn
    assert pieces(measured) == before
    call("sample", measured, values={"sampling.num_samples": 40})
    with np.load(measured / "samples" / "step_20" / "samples.npz") as file:
        samples = to_bytes(file["images"], 17)
    wanted = frechet_distance(*(Moments.of(pixels(a)) for a in (samples, TRAIN)))
    assert fid(measured) == pytest.approx(wanted, rel=1e-3)
    assert "not comparable with published numbers: 40 samples" in said
    assert "checkpoint 20: FID" in said
    assert load_statistics(measured / "eval" / "reference_pixels.npz").provenance["images"] == 1437


def test_every_metric(measured: Path, capsys) -> None:
    """Each of its own function, on the samples kept before.

    The reference is made anew where it lacks features. The bound takes no ODE.
    """
    assert load_statistics(measured / "eval" / "reference_pixels.npz").features is None
    few = {"eval.num_examples": 8, "eval.batch_size": 8, "eval.probes": -1, "eval.bound_draws": 2}
    before = {path: path.stat().st_mtime_ns for path in pieces(measured)}
    call("eval", measured, values=few | {"eval.metrics": "loss,levels,bits,fid,kid,pr,dc"})
    assert {path: path.stat().st_mtime_ns for path in pieces(measured)} == before
    found, real, samples = values(measured), pixels(TRAIN), pixels(samples_of(measured))
    wanted = frechet_distance(Moments.of(samples), Moments.of(real))
    assert found["fid"] == pytest.approx(wanted, rel=1e-5)
    assert found["kid"] == pytest.approx(kernel_distance(samples, real).value, rel=1e-5)
    assert (found["precision"], found["recall"]) == pytest.approx(precision_recall(real, samples))
    assert (found["density"], found["coverage"]) == pytest.approx(density_coverage(real, samples))
    kept = load_statistics(measured / "eval" / "reference_pixels.npz").features
    np.testing.assert_allclose(kept, real, rtol=1e-6)
    folder = measured / "eval" / "likelihood_test_step_20"
    told = json.loads((folder / "summary.json").read_text())["bound_bits_per_dim"]
    rows = measurements.read(measured)[20]
    bits = next(row for row in rows if row["metric"] == "bound_bits_per_dim")
    assert [bits[n] for n in ("value", "low", "high")] == [told[n] for n in ("mean", "low", "high")]
    how = {"images": 8, "bound_draws": 2, "split": "test", "dequantization": "uniform"}
    assert bits["how"] == bits["how"] | how and "bits_tol" not in bits["how"]
    levels = load_levels(measured, 20)
    assert levels["images"] == 8 and levels["seed"] == 42
    assert levels["levels"][0]["train"] != levels["levels"][0]["heldout"]
    said = capsys.readouterr().out
    assert "checkpoint 20: losses per noise level: " in said and "checkpoint 20: KID " in said


def test_own_reference_and_own_extractor(measured: Path, tmp_path: Path) -> None:
    """FID of the samples to the held-out images, in features of a function.

    --mode fid made the statistics of the held-out images.
    """
    (tmp_path / "mine.py").write_text(
        "def f(images):\n    x = images.mean(axis=(2, 3)) / 255\n    return x[:, ::2], 9 * x\n"
    )
    np.savez(tmp_path / "test.npz", TEST)
    how = {"extractor": f"{tmp_path / 'mine.py'}:f", "metrics": "kid"}
    call("fid", a=str(tmp_path / "test.npz"), output=str(tmp_path / "kept.npz"), **how)
    settings = {"quality.extractor": how["extractor"], "quality.reference": tmp_path / "kept.npz"}
    call("eval", measured, values=settings | {"eval.metrics": "fid,is,kid"})
    real, samples = (x.mean(axis=(2, 3))[:, ::2] / 255 for x in (TEST, samples_of(measured)))
    rows = measurements.read(measured)[20]
    row = rows[-1]
    assert row["how"]["extractor"] == "mine.py:f" and row["how"]["reference"]["images"] == 360
    found = {each["metric"]: each["value"] for each in rows if each["how"] == row["how"]}
    wanted = frechet_distance(Moments.of(samples), Moments.of(real))
    assert found["fid"] == pytest.approx(wanted, rel=1e-4)
    assert found["kid"] == pytest.approx(kernel_distance(samples, real).value, rel=1e-4)
    assert 1 < found["is"] < 8
    assert not (measured / "eval" / "reference_mine_py_f.npz").exists()


def test_number_does_not_depend_on_batches_devices_or_interruption(
    tiny: Path, evaluated: Path, tmp_path: Path, monkeypatch
) -> None:
    found = {"16": fid(evaluated)}
    whole = shutil.copytree(tiny, tmp_path / "whole")
    call("eval", whole, values={"sampling.batch_size": 1000})
    found["1000"] = fid(whole)
    assert len(stored(pieces(whole))) == 40  # exactly as many as asked for
    killed = shutil.copytree(tiny, tmp_path / "killed")
    write, calls = SampleStore.write, []

    def die(store, numbers, images):
        calls.append(numbers)
        if len(calls) == 3:
            raise KeyboardInterrupt
        write(store, numbers, images)

    monkeypatch.setattr(SampleStore, "write", die)
    with pytest.raises(KeyboardInterrupt):
        call("eval", killed, values={"sampling.batch_size": 7})  # on 8 devices
    monkeypatch.setattr(SampleStore, "write", write)
    before = {path: path.stat().st_mtime_ns for path in pieces(killed)}
    assert len(before) == 2
    call("eval", killed, values={"sampling.batch_size": 16})
    assert {path: path.stat().st_mtime_ns for path in pieces(killed) if path in before} == before
    found["7, killed"] = fid(killed)
    one = shutil.copytree(tiny, tmp_path / "one")
    first, of = jax.devices()[:1], Placement.of
    on_one = classmethod(lambda cls, devices=None: of(devices or first))
    monkeypatch.setattr(Placement, "of", on_one)
    monkeypatch.setattr(jax, "local_devices", lambda: first)
    call("eval", one)
    found["one device"] = fid(one)
    np.testing.assert_allclose(list(found.values()), found["16"], rtol=1e-4)


def test_seeds_give_an_interval_and_samples_of_their_own(fresh: Path) -> None:
    """Seed 43 of a sweep over seeds is what --config.seed=43 draws."""
    call("eval", fresh, values={"quality.seeds": 3, "quality.num_samples": 16})
    row = next(row for row in measurements.read(fresh)[20] if row["metric"] == "fid")
    assert row["low"] < row["value"] < row["high"]
    assert row["how"]["seeds"] == 3 and row["how"]["seed"] == 42
    folders = sorted(fresh.glob("eval/samples/*/*"))
    assert [path.name for path in folders] == ["seed_42", "seed_43", "seed_44"]
    sets = [stored(sorted(path.glob("*.npz"))) for path in folders]
    assert not any((sets[0] == other).all(axis=(1, 2, 3)).any() for other in sets[1:])
    call("sample", fresh, values={"seed": 43})
    with np.load(fresh / "samples" / "step_20" / "samples.npz") as file:
        assert np.abs(file["images"].astype(int) - sets[1][:12]).max() <= 1


def test_interval_over_seeds_is_students() -> None:
    """Means 1, 2, 4 of three seeds: 7/3 +- 4.302653 sqrt(7/9)."""
    found = over_seeds([{"fid": {"value": value}} for value in (1.0, 2.0, 4.0)])["fid"]
    assert found["value"] == pytest.approx(7 / 3)
    assert found["standard_error"] == pytest.approx((7 / 9) ** 0.5)
    assert found["high"] - found["value"] == pytest.approx(4.302653 * (7 / 9) ** 0.5, rel=1e-6)
    one = {"kid": {"value": 0.1, "standard_error": 0.01}}
    assert over_seeds([one]) == one


@pytest.mark.parametrize(
    ("name", "values", "low", "high"),
    [
        ("recall", (0.9, 0.99), None, 1.0),
        ("precision", (0.01, 0.1), 0.0, None),
        ("coverage", (0.01, 0.99), 0.0, 1.0),
        ("density", (1.0, 9.0), 0.0, None),
        ("fid", (1.0, 9.0), 0.0, None),
        ("is", (1.1, 3.0), 1.0, None),
        ("kid", (1.0, 9.0), None, None),
    ],
)
def test_intervals_end_where_no_value_can_be(name, values, low, high) -> None:
    """Student's t: 12.7062 standard errors, of two values half their difference."""
    found = over_seeds([{name: {"value": value}} for value in values])[name]
    mean, radius = sum(values) / 2, 12.7062 * (values[1] - values[0]) / 2
    assert found["low"] == pytest.approx(mean - radius if low is None else low, abs=1e-3)
    assert found["high"] == pytest.approx(mean + radius if high is None else high, abs=1e-3)


def test_interval_over_seeds_covers() -> None:
    """In 2,000 experiments of 4 seeds the true mean lies in 95 +- 2 % of the intervals."""
    draws = np.random.default_rng(0).normal(5, 2, (2000, 4))
    rows = [over_seeds([{"fid": {"value": float(v)}} for v in values])["fid"] for values in draws]
    assert np.mean([row["low"] < 5 < row["high"] for row in rows]) == pytest.approx(0.95, abs=0.02)


# References


def test_measurements_of_other_settings_lie_side_by_side(measured: Path) -> None:
    """The reference is made once."""
    reference = (measured / "eval" / "reference_pixels.npz").stat().st_mtime_ns
    call("eval", measured, values={"sampling.t_end": 0.03, "quality.num_samples": 16})
    call("eval", measured)
    assert (measured / "eval" / "reference_pixels.npz").stat().st_mtime_ns == reference
    rows = measurements.read(measured)[20]
    assert [row["how"]["samples"] for row in rows] == [16, 40]  # the last was measured last
    assert len({row["how"]["sampling"] for row in rows}) == 2
    assert len({path.parent.parent.name for path in pieces(measured)}) == 2


def test_numbers_against_other_references_are_not_taken_for_each_other(
    measured: Path, tmp_path: Path
) -> None:
    """Files of other codes say nothing of what they are of."""
    moments = load_statistics(measured / "eval" / "reference_pixels.npz").moments
    for name, shift in (("a", 0), ("b", 1)):
        np.savez(tmp_path / name, mu=moments.mean + shift, sigma=moments.covariance)
        call("eval", measured, values={"quality.reference": tmp_path / f"{name}.npz"})
    found = [row["value"] for row in measurements.read(measured)[20]]
    assert len(found) == 3 and found[1] == pytest.approx(found[0], rel=1e-6) != found[2]


def test_reference_is_made_anew_where_an_image_of_the_folder_changed(tmp_path: Path) -> None:
    folder, rng = tmp_path / "images", np.random.default_rng(0)
    folder.mkdir()
    for i in range(60):
        image = rng.integers(0, 256, (8, 8, 3)).astype(np.uint8)
        Image.fromarray(image).save(folder / f"{i:02}.png")
    entries = {"data.path": folder, "quality.extractor": "pixels", "data.in_memory": False}
    run = Run.of(load("vp/ddpmpp_cont:folder", entries), tmp_path)
    found = [quality.make_quality(run, ["fid"]).reference for _ in range(2)]
    assert found[0].provenance["fingerprint"] == found[1].provenance["fingerprint"]
    source = run.source(train=True)
    assert isinstance(source, FolderSource) and len(source) > 50
    for path in source.files[1:3]:
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(path)
    found.append(quality.make_quality(run, ["fid"]).reference)
    assert np.abs(found[2].moments.mean - found[1].moments.mean).max() > 0.005


# During training


def test_distance_during_training_is_that_of_the_first_samples(fresh: Path) -> None:
    """As --mode eval measures so many samples of the first seed."""
    call("eval", fresh, values={"quality.num_samples": 16})
    settings = load_json(fresh / "config.json").change("training", quality_samples=16)
    run = Run.of(settings, fresh)
    found = quality.train_measure(run)(run.weights(20)[0], 20)
    assert found == pytest.approx(fid(fresh), rel=1e-4)


def test_distance_during_training_is_unknown_where_samples_are_not_finite(
    tmp_path: Path, monkeypatch, capsys
) -> None:
    class Spoiled:
        @staticmethod
        def batches(*_, **__):
            images = np.full((4, 8, 8, 1), np.nan, np.float32)
            yield slice(0, 4), Drawn(images, np.full(4, 9))

    monkeypatch.setattr(quality, "make_generator", lambda *_, **__: Spoiled)
    monkeypatch.setattr(quality, "make_quality", lambda *_: None)
    assert quality.train_measure(Run.of(load(DIGITS), tmp_path))({}, 7) is None
    assert capsys.readouterr().out == "step 7: samples are not finite, no Frechet distance\n"
