"""Quality of checkpoints: samples that survive a kill, numbers that depend on nothing but the run."""

import errno
import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image
from processes import JOIN, run_two
from runs import call, random_run

import run_lib
from score_sde import config as config_lib
from score_sde import measurements, quality, session
from score_sde.build import build, open_source
from score_sde.data import FolderSource, digits
from score_sde.data.image_sets import to_bytes
from score_sde.errors import UserError
from score_sde.metrics import (
    Moments,
    density_coverage,
    frechet_distance,
    kernel_distance,
    precision_recall,
    small_pixels,
)
from score_sde.metrics.statistics import load_statistics, save_statistics
from score_sde.quality import SampleStore, over_seeds, weights_checksum
from score_sde.results import load_levels
from score_sde.training import sharding
from score_sde.training.levels import Levels

RECIPE = "configs/vp/ddpmpp_cont.py:digits"
SMALL = {
    "model.nf": 8,
    "model.ch_mult": "(1,)",
    "model.num_res_blocks": 1,
    "model.attn_resolutions": "()",
    "sampling.steps": 4,
    "sampling.corrector": "none",
    "sampling.num_samples": 12,
    "sampling.batch_size": 16,
    "sampling.t_end": 0.02,
    "eval.metrics": "fid",
    "eval.num_examples": 16,
    "eval.batch_size": 16,
    "quality.extractor": "pixels",
    "quality.num_samples": 40,
}


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    return random_run(tmp_path_factory.mktemp("runs") / "tiny", RECIPE, SMALL, steps=(10, 20))


@pytest.fixture(scope="module")
def evaluated(run, tmp_path_factory) -> Path:
    """A copy whose last checkpoint is measured; for copies alone."""
    workdir = shutil.copytree(run, tmp_path_factory.mktemp("evaluated") / "run")
    call("eval", workdir)
    return Path(workdir)


@pytest.fixture
def fresh(run, tmp_path) -> Path:
    """A copy without measurements."""
    return Path(shutil.copytree(run, tmp_path / "copy"))


@pytest.fixture
def measured(evaluated, tmp_path) -> Path:
    """A copy whose last checkpoint is measured: FID, and its samples are kept."""
    return Path(shutil.copytree(evaluated, tmp_path / "copy"))


def values(workdir: Path, step: int = 20) -> dict[str, float]:
    return {row["metric"]: row["value"] for row in measurements.read(workdir)[step]}


def fid(workdir: Path, step: int = 20) -> float:
    return values(workdir, step)["fid"]


def samples_of(workdir: Path) -> np.ndarray:
    """The samples of its one checkpoint and seed as 0 .. 255."""
    found = []
    for path in pieces(workdir):
        with np.load(path) as file:
            found.append(file["images"])
    return to_bytes(np.concatenate(found), 17)


TRAIN, TEST = (to_bytes(digits(split).images, 17) for split in ("train", "test"))


def pieces(workdir: Path) -> list[Path]:
    return sorted((workdir / "eval" / "samples").rglob("samples_*.npz"))


def images(number: int, levels: int = 17) -> np.ndarray:
    return np.random.default_rng(0).integers(0, levels, (number, 2, 2, 1)).astype(np.uint8)


# The store


def test_store_gives_back_what_was_written_in_any_order_and_says_what_is_missing(tmp_path):
    store, whole = SampleStore(tmp_path, {"seed": 1}, 17), images(30)
    assert store.missing(30).tolist() == list(range(30))
    store.write(np.arange(8), whole[:8])
    store.write(np.asarray([12, 13, 15]), whole[[12, 13, 15]])
    assert [p.name for p in sorted(tmp_path.glob("*.npz"))] == [
        "samples_0000000_0000008.npz", "samples_0000012_0000014.npz", "samples_0000015_0000016.npz",
    ]  # fmt: skip
    again = SampleStore(tmp_path, {"seed": 1}, 17)
    assert again.missing(17).tolist() == [8, 9, 10, 11, 14, 16]
    numbers = np.asarray([15, 3, 3, 13, 0])
    np.testing.assert_array_equal(again.read(numbers), np.rint(whole[numbers] * (255 / 16)).astype(np.uint8))
    with np.load(tmp_path / "samples_0000012_0000014.npz") as file:
        np.testing.assert_array_equal(file["images"], whole[12:14])  # levels, for other programs
        assert file["levels"] == 17


def test_store_refuses_other_settings_damage_and_gaps(tmp_path):
    settings = {"seed": 1, "step": 10}
    SampleStore(tmp_path, settings, 17).write(np.arange(4), images(4))
    with pytest.raises(UserError, match=r"holds results of other settings \(seed: 1 there, 2 here\)"):
        SampleStore(tmp_path, settings | {"seed": 2}, 17)
    store = SampleStore(tmp_path, settings, 17)
    with pytest.raises(UserError, match=r"lacks samples \[4\]"):
        store.read(np.arange(5))
    path = tmp_path / "samples_0000000_0000004.npz"
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(UserError, match=r"is damaged .*Remove it; the same command draws its samples again"):
        SampleStore(tmp_path, settings, 17).read(np.arange(2))


def test_weights_are_told_apart_by_values_and_names():
    one, two = np.zeros(2, np.float32), np.ones(2, np.float32)
    trees = ({"a": one, "b": two}, {"a": two, "b": one}, {"a": one, "c": two})
    assert len({weights_checksum(tree) for tree in trees}) == 3
    assert weights_checksum(trees[0]) == weights_checksum({"b": two, "a": one})


# Numbers


def test_the_number_is_that_of_the_samples(measured, capsys):
    """FID of --mode eval is the Frechet distance of what --mode sample draws to the training images."""
    call("eval", measured)
    said = capsys.readouterr().out
    call("sample", measured, values={"sampling.num_samples": 40})
    with np.load(measured / "samples" / "step_20" / "samples.npz") as file:
        samples = to_bytes(file["images"], 17)
    wanted = frechet_distance(*(Moments.of(pixels(a)) for a in (samples, TRAIN)))
    assert fid(measured) == pytest.approx(wanted, rel=1e-3)
    assert "not comparable with published numbers: 40 samples" in said and "checkpoint 20: FID" in said
    assert load_statistics(measured / "eval" / "reference_pixels.npz").provenance["images"] == 1437


def pixels(images: np.ndarray) -> np.ndarray:
    return small_pixels(images.astype(np.float32) / 255)


def test_every_metric(measured, capsys):
    """Each of its own function, on the samples kept before; the reference is made anew where it lacks features."""
    assert load_statistics(measured / "eval" / "reference_pixels.npz").features is None
    few = {"eval.probes": -1, "eval.bound_draws": 2, "eval.num_examples": 8, "eval.batch_size": 8}  # no ODE
    before = {path: path.stat().st_mtime_ns for path in pieces(measured)}
    call("eval", measured, values=few | {"eval.metrics": "loss,levels,bits,fid,kid,pr,dc"})
    assert {path: path.stat().st_mtime_ns for path in pieces(measured)} == before
    found, real, samples = values(measured), pixels(TRAIN), pixels(samples_of(measured))
    assert found["fid"] == pytest.approx(frechet_distance(Moments.of(samples), Moments.of(real)), rel=1e-5)
    assert found["kid"] == pytest.approx(kernel_distance(samples, real).value, rel=1e-5)
    assert (found["precision"], found["recall"]) == pytest.approx(precision_recall(real, samples))
    assert (found["density"], found["coverage"]) == pytest.approx(density_coverage(real, samples))
    np.testing.assert_allclose(
        load_statistics(measured / "eval" / "reference_pixels.npz").features, real, rtol=1e-6
    )
    summary = json.loads((measured / "eval" / "likelihood_test_step_20" / "summary.json").read_text())
    bits = next(row for row in measurements.read(measured)[20] if row["metric"] == "bound_bits_per_dim")
    wanted = summary["bound_bits_per_dim"]
    assert [bits[name] for name in ("value", "low", "high")] == [
        wanted[name] for name in ("mean", "low", "high")
    ]
    assert bits["how"]["images"] == 8 and bits["how"]["bound_draws"] == 2 and bits["how"]["split"] == "test"
    levels = load_levels(measured, 20)
    assert levels["images"] == 8 and levels["levels"][0]["train"] != levels["levels"][0]["heldout"]
    said = capsys.readouterr().out
    assert "checkpoint 20: losses per noise level: " in said and "checkpoint 20: KID " in said


def test_own_reference_and_own_extractor(measured, tmp_path):
    """FID of the samples to the held-out images, whose statistics --mode fid made, in features of a function."""
    (tmp_path / "mine.py").write_text(
        "def f(images):\n    x = images.mean(axis=(2, 3)) / 255\n    return x[:, ::2], 9 * x\n"
    )
    np.savez(tmp_path / "test.npz", TEST)
    how = {"extractor": f"{tmp_path / 'mine.py'}:f", "metrics": "kid"}
    call("fid", a=str(tmp_path / "test.npz"), output=str(tmp_path / "kept.npz"), **how)
    settings = {"quality.extractor": how["extractor"], "quality.reference": tmp_path / "kept.npz"}
    call("eval", measured, values=settings | {"eval.metrics": "fid,is,kid"})
    real, samples = (x.mean(axis=(2, 3))[:, ::2] / 255 for x in (TEST, samples_of(measured)))
    row = measurements.read(measured)[20][-1]
    assert row["how"]["extractor"] == "mine.py:f" and row["how"]["reference"]["images"] == 360
    rows = measurements.read(measured)[20]
    found = {each["metric"]: each["value"] for each in rows if each["how"] == row["how"]}
    assert found["fid"] == pytest.approx(frechet_distance(Moments.of(samples), Moments.of(real)), rel=1e-4)
    assert found["kid"] == pytest.approx(kernel_distance(samples, real).value, rel=1e-4)
    assert 1 < found["is"] < 8
    assert not (measured / "eval" / "reference_mine_py_f.npz").exists()


def test_number_does_not_depend_on_batches_devices_or_interruption(run, evaluated, tmp_path, monkeypatch):
    found = {"16": fid(evaluated)}
    for name, size in (("7", 7), ("1000", 1000)):
        copy = shutil.copytree(run, tmp_path / name)
        call("eval", copy, values={"sampling.batch_size": size})
        found[name] = fid(copy)
        stored = np.concatenate([np.load(p)["images"] for p in pieces(copy)])
        assert len(stored) == 40  # exactly as many as asked for
    killed = shutil.copytree(run, tmp_path / "killed")
    write, calls = SampleStore.write, []

    def die(store, numbers, images):
        calls.append(numbers)
        if len(calls) == 3:
            raise KeyboardInterrupt
        write(store, numbers, images)

    monkeypatch.setattr(SampleStore, "write", die)
    with pytest.raises(KeyboardInterrupt):
        call("eval", killed, values={"sampling.batch_size": 8})
    monkeypatch.setattr(SampleStore, "write", write)
    before = {path: path.stat().st_mtime_ns for path in pieces(killed)}
    assert len(before) == 2
    call("eval", killed, values={"sampling.batch_size": 16})
    assert {path: path.stat().st_mtime_ns for path in pieces(killed) if path in before} == before
    found["killed"] = fid(killed)
    one = shutil.copytree(run, tmp_path / "one")
    first, whole = jax.devices()[:1], sharding.make_mesh
    monkeypatch.setattr(sharding, "make_mesh", lambda devices=None: whole(devices or first))
    monkeypatch.setattr(jax, "local_devices", lambda: first)
    call("eval", one)
    found["one device"] = fid(one)
    np.testing.assert_allclose(list(found.values()), found["16"], rtol=1e-4)


def test_seeds_give_an_interval_and_samples_of_their_own(fresh):
    call("eval", fresh, values={"quality.seeds": 3})
    row = next(row for row in measurements.read(fresh)[20] if row["metric"] == "fid")
    assert row["low"] < row["value"] < row["high"] and row["how"]["seeds"] == 3 and row["how"]["seed"] == 42
    sets = [np.load(next(path.glob("*.npz")))["images"] for path in sorted(fresh.glob("eval/samples/*/*"))]
    assert [path.name for path in sorted(fresh.glob("eval/samples/*/*"))] == ["seed_42", "seed_43", "seed_44"]
    assert not any((sets[0] == other).all(axis=(1, 2, 3)).any() for other in sets[1:])
    call("sample", fresh, values={"seed": 43})
    with np.load(fresh / "samples" / "step_20" / "samples.npz") as file:  # seed 43 is --config.seed=43
        assert np.abs(file["images"].astype(int) - sets[1][:12]).max() <= 1


def test_interval_over_seeds_is_students():
    """Means 1, 2, 4 of three seeds: 7/3 +- 4.302653 sqrt(7/9)."""
    found = over_seeds([{"fid": {"value": value}} for value in (1.0, 2.0, 4.0)])["fid"]
    assert found["value"] == pytest.approx(7 / 3)
    assert found["standard_error"] == pytest.approx((7 / 9) ** 0.5)
    assert found["high"] - found["value"] == pytest.approx(4.302653 * (7 / 9) ** 0.5, rel=1e-6)
    one = {"kid": {"value": 0.1, "standard_error": 0.01}}
    assert over_seeds([one]) == one


@pytest.mark.parametrize(
    ("name", "values", "low", "high"),
    [("recall", (0.9, 0.99), None, 1.0), ("precision", (0.01, 0.1), 0.0, None), ("fid", (1.0, 9.0), 0.0, None),
     ("is", (1.1, 3.0), 1.0, None), ("kid", (1.0, 9.0), None, None)],
)  # fmt: skip
def test_intervals_end_where_no_value_can_be(name, values, low, high):
    """Student's t: 12.7062 standard errors, of two values half their difference."""
    found = over_seeds([{name: {"value": value}} for value in values])[name]
    mean, radius = sum(values) / 2, 12.7062 * (values[1] - values[0]) / 2
    assert found["low"] == pytest.approx(mean - radius if low is None else low, abs=1e-3)
    assert found["high"] == pytest.approx(mean + radius if high is None else high, abs=1e-3)


def test_interval_over_seeds_covers():
    """In 2,000 experiments of 4 seeds the true mean lies in 95 +- 2 % of the intervals."""
    draws = np.random.default_rng(0).normal(5, 2, (2000, 4))
    rows = [over_seeds([{"fid": {"value": float(v)}} for v in values])["fid"] for values in draws]
    assert np.mean([row["low"] < 5 < row["high"] for row in rows]) == pytest.approx(0.95, abs=0.02)


# Checkpoints


def test_curves_over_checkpoints_and_the_best(fresh, capsys):
    call("eval", fresh, checkpoint="all", values={"eval.metrics": "loss,fid"})
    distances = {step: fid(fresh, step) for step in (10, 20)}
    best = min(distances, key=distances.__getitem__)
    said = capsys.readouterr().out
    assert f"checkpoint {best:>9}  FID {distances[best]:.5g}  <- best" in said and "held-out loss:" in said
    assert f"--checkpoint best is now {best}, by FID" in said
    assert (fresh / "eval" / "fid.png").exists() and (fresh / "eval" / "loss.png").exists()
    call("sample", fresh, checkpoint="best")
    assert f"samples of checkpoint {best} " in capsys.readouterr().out
    call("eval", fresh, checkpoint=str(10 + 20 - best))  # one alone chooses nothing
    assert json.loads((fresh / "eval" / "selection.json").read_text())["best"] == best


def test_the_best_is_a_checkpoint_that_is_there(tmp_path, capsys):
    """The curve shows those that are gone too."""
    row = {"metric": "fid", "how": {"samples": 8}}
    for step, value in ((10, 1.0), (20, 3.0), (30, 2.0)):
        measurements.record(tmp_path, step, [row | {"value": value}])
    measurements.choose(tmp_path, [row | {"value": 3.0}, row | {"value": 2.0}], steps=[20, 30])
    assert measurements.best_step(tmp_path) == 30
    said = capsys.readouterr().out
    assert "checkpoint        10  FID 1\n" in said and "checkpoint        30  FID 2  <- best" in said


def test_loss_of_a_single_image_has_no_error(fresh):
    call("eval", fresh, values={"eval.metrics": "loss", "eval.num_examples": 1})
    (row,) = measurements.read(fresh)[20]
    assert row["how"]["images"] == 1 and "standard_error" not in row


def test_measurements_of_other_settings_lie_side_by_side(measured):
    reference = (measured / "eval" / "reference_pixels.npz").stat().st_mtime_ns
    call("eval", measured, values={"sampling.steps": 3, "quality.num_samples": 20})
    call("eval", measured)
    assert (measured / "eval" / "reference_pixels.npz").stat().st_mtime_ns == reference  # made once
    rows = measurements.read(measured)[20]
    assert [row["how"]["samples"] for row in rows] == [20, 40]  # the last was measured last
    assert len({row["how"]["sampling"] for row in rows}) == 2
    assert len({path.parent.parent.name for path in pieces(measured)}) == 2


def test_numbers_against_other_references_are_not_taken_for_each_other(fresh, tmp_path):
    """Files of other codes say nothing of what they are of."""
    call("eval", fresh)
    moments = load_statistics(fresh / "eval" / "reference_pixels.npz").moments
    for name, shift in (("a", 0), ("b", 1)):
        np.savez(tmp_path / name, mu=moments.mean + shift, sigma=moments.covariance)
        call("eval", fresh, values={"quality.reference": tmp_path / f"{name}.npz"})
    values = [row["value"] for row in measurements.read(fresh)[20]]
    assert len(values) == 3 and values[1] == pytest.approx(values[0], rel=1e-6) != values[2]


def test_reference_is_made_anew_where_an_image_of_the_folder_changed(tmp_path):
    folder, rng = tmp_path / "images", np.random.default_rng(0)
    folder.mkdir()
    for i in range(60):
        Image.fromarray(rng.integers(0, 256, (8, 8, 3)).astype(np.uint8)).save(folder / f"{i:02}.png")
    config = config_lib.load("configs/vp/ddpmpp_cont.py:folder")
    config_lib.override(
        config, [("data.path", str(folder)), ("quality.extractor", "pixels"), ("data.in_memory", "False")]
    )
    found = [quality.make_quality(config, (8, 8, 3), tmp_path, ["fid"]).reference for _ in range(2)]
    assert found[0].provenance["fingerprint"] == found[1].provenance["fingerprint"]
    source = open_source(config.data, train=True)
    assert isinstance(source, FolderSource) and len(source) > 50
    for path in source.files[1:3]:
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(path)
    found.append(quality.make_quality(config, (8, 8, 3), tmp_path, ["fid"]).reference)
    assert np.abs(found[2].moments.mean - found[1].moments.mean).max() > 0.005


def test_samples_of_other_weights_are_not_taken_for_these(measured, tmp_path):
    other = random_run(tmp_path / "other", RECIPE, SMALL, steps=(20,), scale=0.3)
    shutil.rmtree(measured / "checkpoints" / "20")
    shutil.copytree(other / "checkpoints" / "20", measured / "checkpoints" / "20")
    with pytest.raises(UserError, match=r"holds results of other settings \(.*weights"):
        call("eval", measured)


def test_losses_per_level_alone_choose_nothing(fresh, monkeypatch):
    ones = np.ones(1)
    monkeypatch.setattr(
        run_lib, "level_losses", lambda *_: Levels(ones, ones, ones, np.ones((2, 1)), np.ones((2, 1)))
    )
    call("eval", fresh, checkpoint="all", values={"eval.metrics": "levels"})
    assert all(load_levels(fresh, step)["images"] == 2 for step in (10, 20))
    assert not (fresh / "eval" / "selection.json").exists()


PROCESS = """
import sys, run_lib
values = {"eval.metrics": "bits,fid,kid", "eval.rtol": "1e-2", "eval.atol": "1e-2", "eval.num_examples": "8"}
run_lib.run("eval", None, list(values.items()), sys.argv[1], "all")
"""


@pytest.mark.slow
def test_two_processes_measure_what_one_measures(fresh, tmp_path):
    """Every file is written by one of them, and read by the others when it is there."""
    both = shutil.copytree(fresh, tmp_path / "both")
    run_two(["-c", JOIN + PROCESS, both])
    values = {"eval.metrics": "bits,fid,kid", "eval.rtol": 1e-2, "eval.atol": 1e-2, "eval.num_examples": 8}
    call("eval", fresh, checkpoint="all", values=values)
    assert measurements.best_step(both) == measurements.best_step(fresh)
    for step, rows in measurements.read(fresh).items():
        for one, two in zip(rows, measurements.read(both)[step], strict=True):
            assert one["how"] == two["how"] and one["metric"] == two["metric"]
            assert two["value"] == pytest.approx(one["value"], rel=1e-3)


# Refusals


def heldout_losses(*losses: float):
    """Stands for `run_lib.make_heldout_loss`: these losses, one for each image."""
    return lambda *_: lambda params, key: np.asarray([losses])


def test_what_was_measured_before_a_failure_is_kept(fresh, monkeypatch):
    def fail(*_):
        raise UserError("no samples")

    monkeypatch.setattr(run_lib, "measure_checkpoint", fail)
    for losses in ((2.0,), (1.0, 2.0, 6.0)):
        monkeypatch.setattr(run_lib, "make_heldout_loss", heldout_losses(*losses))
        with pytest.raises(UserError, match="no samples"):
            call("eval", fresh, values={"eval.metrics": "loss,fid"})
    one, three = measurements.read(fresh)[20]
    assert one["value"] == 2 and "standard_error" not in one
    assert three["value"] == 3 and three["standard_error"] == pytest.approx((7 / 3) ** 0.5)
    assert [row["how"]["images"] for row in (one, three)] == [1, 3]


def test_loss_that_is_not_finite_is_refused(fresh, monkeypatch):
    monkeypatch.setattr(run_lib, "make_heldout_loss", heldout_losses(2.0, np.nan, 3.0))
    with pytest.raises(
        UserError, match=r"loss of 1 of 3 images at checkpoint 20 is not finite.*Try another --checkpoint"
    ):
        call("eval", fresh, values={"eval.metrics": "loss"})
    assert not measurements.read(fresh)


def test_samples_that_are_not_finite_are_named_and_the_others_kept(fresh, monkeypatch):
    draw_batches = session.draw_batches

    def spoiled(*arguments):
        for number, (part, images) in enumerate(draw_batches(*arguments)):
            yield part, np.where(number == 1, np.nan, 1.0).astype(np.float32) * images

    monkeypatch.setattr(quality, "draw_batches", spoiled)
    with pytest.raises(UserError, match=r"16 samples are not finite \(numbers \[16, 17, 18, 19, 20\]\)"):
        call("eval", fresh)
    assert [path.name for path in pieces(fresh)] == ["samples_0000000_0000016.npz"]
    assert 20 not in measurements.read(fresh)


def test_distance_during_training_is_unknown_where_samples_are_not_finite(monkeypatch, capsys):
    monkeypatch.setattr(quality, "make_generator", lambda *_: None)
    spoiled = np.full((4, 8, 8, 1), np.nan, np.float32)
    monkeypatch.setattr(quality, "draw_batches", lambda *_: [(slice(0, 4), spoiled)])
    experiment = build(config_lib.load(RECIPE))
    unused = object.__new__(quality.Quality)
    assert quality.small_sample_distance(experiment, unused, None)({}, 7) is None
    assert capsys.readouterr().out == "step 7: samples are not finite, no Frechet distance\n"


def test_reference_of_another_extractor_is_refused_before_sampling(measured, tmp_path):
    found = load_statistics(measured / "eval" / "reference_pixels.npz")
    found.provenance["checksum"] = "0123"
    save_statistics(tmp_path / "other.npz", found)
    values = {"quality.reference": str(tmp_path / "other.npz"), "sampling.steps": 3}
    with pytest.raises(UserError, match=r"different weights of the extractor \(SHA-256\)"):
        call("eval", measured, values=values)
    np.savez(tmp_path / "long.npz", mu=np.zeros(65), sigma=np.eye(65))
    with pytest.raises(UserError, match=r"the samples has features of 64 dimensions and .*long.npz of 65"):
        call("eval", measured, values=values | {"quality.reference": str(tmp_path / "long.npz")})
    assert len({path.parent.parent.name for path in pieces(measured)}) == 1
    with pytest.raises(UserError, match="holds no features, which kid need"):
        found.provenance["checksum"] = load_statistics(measured / "eval" / "reference_pixels.npz").provenance[
            "checksum"
        ]
        save_statistics(tmp_path / "other.npz", found)
        call("eval", measured, values=values | {"eval.metrics": "kid"})


@pytest.mark.parametrize("text", ["fit", "", "fid,,loss,x"])
def test_unknown_metrics_are_listed(fresh, text):
    with pytest.raises(
        UserError, match=r"config.eval.metrics: .* is no metric; known.*: loss, levels, bits, fid"
    ):
        call("eval", fresh, values={"eval.metrics": text})


def test_a_full_disk_is_said_and_leaves_no_half_written_samples(fresh, monkeypatch):
    def full(file, **arrays):
        file.write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    call("eval", fresh, values={"quality.num_samples": 8})
    monkeypatch.setattr(np, "savez_compressed", full)
    with pytest.raises(UserError, match=r"cannot write to .*eval \(No space left .*the same command goes on"):
        call("eval", fresh, values={"quality.num_samples": 12})
    folder = pieces(fresh)[0].parent
    assert sorted(path.name for path in folder.iterdir()) == [
        *(p.name for p in pieces(fresh)),
        "settings.json",
    ]


@pytest.mark.parametrize("mode", ["eval", "select"])
def test_a_place_that_cannot_be_written_to_is_said_before_sampling(fresh, mode):
    (fresh / "eval").write_text("a file where the folder should be")
    with pytest.raises(
        UserError, match=r"cannot write to .*eval .*the same command goes on|2 of 2 failed.*\. The same"
    ):
        call(mode, fresh)


def test_a_reference_that_is_none_says_how_to_make_one(fresh, tmp_path):
    with pytest.raises(
        UserError, match=r"config.quality.reference: .* is a folder.*--mode fid --a DIR --output x.npz"
    ):
        (tmp_path / "x").mkdir()
        call("eval", fresh, values={"quality.reference": str(tmp_path / "x")})


def test_nothing_is_said_of_samples_that_are_there(fresh, capsys):
    call("eval", fresh)
    assert "checkpoint 20, seed 42" in capsys.readouterr().err
    call("eval", fresh)
    assert "checkpoint 20, seed 42" not in capsys.readouterr().err


@pytest.mark.parametrize("given", [False, True])
def test_inception_score_without_classes_is_refused_before_sampling(fresh, tmp_path, given):
    np.savez(tmp_path / "other.npz", mu=np.zeros(64), sigma=np.eye(64))
    values = {"quality.reference": tmp_path / "other.npz"} if given else {}
    with pytest.raises(UserError, match="extractor 'pixels' has no classes"):
        call("eval", fresh, values=values | {"eval.metrics": "fid,is"})
    assert not pieces(fresh)


def test_a_run_of_an_older_version_is_told_what_it_lacks(fresh):
    path = fresh / "config.json"
    config = json.loads(path.read_text())
    del config["eval"]["metrics"]
    path.write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"config.eval lacks metrics"):
        call("eval", fresh)
