"""--mode train: what a run leaves behind, interruptions, refusals, several processes."""

import signal
import subprocess
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from commands import RECIPE, SMALL, refused, rows, run, start, train_here, training
from processes import run_two
from runs import call, load

from score_sde.workdir import config as configurations
from score_sde.workdir import measurements
from score_sde.workdir.run import Run


def test_training_leaves_configuration_metrics_pictures_and_checkpoints(trained: Path) -> None:
    assert trained.name == "vp_ddpmpp_cont_digits" and trained.parent.name == "runs"
    assert configurations.load_json(trained / "config.json").model.nf == 8
    found = rows(trained)
    assert [row["step"] for row in found if "loss" in row] == list(range(5, 65, 5))
    assert [row["step"] for row in found if "eval_loss" in row] == [20, 40, 60]
    assert all(0.3 < row["loss"] < 2 and row["grad_norm"] > 0 for row in found if "loss" in row)
    assert list((trained / "tensorboard").glob("events*"))
    assert {int(p.name) for p in (trained / "checkpoints").iterdir()} == set(range(10, 70, 10))
    pictures = sorted(p.name for p in (trained / "samples").glob("*.png"))
    assert pictures == ["training_30.png", "training_60.png"]


def test_the_default_folder_is_that_of_the_recipe(
    trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """Finished training says so and changes nothing."""
    monkeypatch.chdir(trained.parents[1])
    before = (trained / "metrics.jsonl").read_bytes()
    train_here(None)
    out = capsys.readouterr().out
    assert "has been trained for 60 steps already; raise config.training.steps" in out
    assert (trained / "metrics.jsonl").read_bytes() == before


def test_training_measures_samples_and_keeps_the_best_checkpoint(tmp_path: Path) -> None:
    """The distance is that of --mode select; the smallest is kept, and is what `best` means."""
    values = {
        "training.steps": 20,
        "training.eval_every": 0,
        "training.checkpoint_every": 10,
        "training.quality_every": 7,
        "training.quality_samples": 8,
        "training.sample_every": 0,
        "training.keep": 2,
        "training.ema_rate": 0.9,
        "training.ema_warmup": False,
        "quality.extractor": "pixels",
    }
    folder = tmp_path / "run"
    train_here(folder, values)
    found = {row["step"]: row["fid"] for row in rows(folder) if "fid" in row}
    assert list(found) == [7, 14, 20]
    best = min(found, key=found.__getitem__)
    kept = {int(path.name) for path in (folder / "checkpoints").iterdir()}
    assert kept == {best, 14, 20}  # not 10, which was not measured
    call("sample", folder, checkpoint="best")
    assert (folder / "samples" / f"step_{best}" / "samples.npz").exists()
    call("select", folder, values={"sampling.num_samples": 8})
    for step in kept:
        again = next(row["value"] for row in measurements.read(folder)[step])
        assert again == pytest.approx(found[step], rel=1e-3)


def test_keys_of_a_dequantizer_are_none_of_the_models(tmp_path: Path) -> None:
    run_of = Run.of(load(RECIPE, SMALL), tmp_path)
    model, other = run_of.keys(), run_of.keys("dequantizer")
    steps = [jax.random.fold_in(model["train"], step) for step in range(8)]
    keys = (*model.values(), *other.values(), *steps)
    seen = [tuple(jax.random.key_data(key).tolist()) for key in keys]
    assert len(set(seen)) == len(seen)


# Refusals


def test_workdir_of_another_configuration_is_refused(trained: Path) -> None:
    message = r"belongs to another configuration \(.*optim.lr: 0.001 there, 0.5 here.*--workdir"
    refused(message, "train", trained, RECIPE, values=SMALL | {"optim.lr": 0.5})
    assert configurations.load_json(trained / "config.json").optim.lr == 1e-3


def test_unknown_names_list_the_known() -> None:
    refused("'configs/vp/nothing.py'.*vp/ddpmpp_cont", "train", config="configs/vp/nothing.py")
    refused("unknown data set 'digit'.*known: digits", "train", config="vp/ddpm:digit")
    for entry, value, message in (
        ("training.stepz", 1, "config.training.stepz: 'stepz'.*Did you mean 'steps'"),
        ("sampling.predictor", "foo", "unknown name 'foo'; known: euler_maruyama"),
    ):
        refused(message, "train", config=RECIPE, values={entry: value})


@pytest.mark.parametrize(
    ("entry", "value"),
    [
        ("optim.lr", -1),
        ("training.batch_size", 0),
        ("model.nf", 0),
        ("seed", -1),
        ("data.levels", 256),
    ],
)
def test_impossible_values_are_refused_before_the_workdir_is_made(
    tmp_path: Path, entry: str, value: int
) -> None:
    message = f"config.{entry.split('.')[0]}|levels"
    refused(message, "train", tmp_path / "none", RECIPE, values={entry: value})
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"training.batch_size": 20}, "training.batch_size=20 does not split over 8 devices"),
        (
            {"training.batch_size": 24, "training.accumulate": 2},
            "training.accumulate=2 does not divide the 3 images .*batch_size=24.*divisor of 3",
        ),
        ({"training.fsdp": 3}, r"training.fsdp=3 does not divide .*devices, 8; .*1, 2, 4, 8"),
    ],
)
def test_a_batch_that_devices_cannot_share_is_refused(
    tmp_path: Path, values: dict, message: str
) -> None:
    refused(message, "train", tmp_path / "none", RECIPE, values=SMALL | values)
    assert not (tmp_path / "none").exists()


def test_missing_cifar10_is_said_at_once_with_what_needs_no_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    began = time.perf_counter()
    message = "cifar10.*not prepared.*tfds build cifar10.*:digits"
    refused(message, "train", config="ve/ncsnpp_cont")
    assert time.perf_counter() - began < 10


def test_workdir_that_cannot_be_one(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("")
    message = r"cannot write to .*file \(.*choose another --workdir"
    refused(message, "train", path, RECIPE, values=SMALL)
    refused("holds no config.json", "eval", path)


def test_loss_that_is_not_finite_stops_and_names_the_step(tmp_path: Path) -> None:
    values = {"optim.lr": 1e30, "training.checkpoint_every": 1, "training.sample_every": 0}
    message = "the training .* at step 2 is .*lower config.optim.lr"
    with jax.numpy_dtype_promotion("standard"):
        refused(message, "train", tmp_path, RECIPE, values=SMALL | values)
    assert (tmp_path / "checkpoints" / "1").is_dir()
    assert not (tmp_path / "checkpoints" / "2").exists()


# Interruptions: processes of their own, on one device as the uninterrupted run


def wait_for(workdir: Path, count: int, process: subprocess.Popen) -> None:
    """Until `count` rows of metrics are written."""
    path = workdir / "metrics.jsonl"
    for _ in range(3000):
        if path.exists() and path.read_text().count("\n") >= count:
            return
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    raise AssertionError("no metrics")


def kill_after(workdir: Path, count: int) -> None:
    """Train, and kill the process about when it writes row `count`."""
    often = {"training.checkpoint_every": 5, "training.sample_every": 0}
    process = start(*training(workdir, often))
    wait_for(workdir, count, process)
    time.sleep(float(np.random.default_rng().uniform(0, 0.2)))
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL


def test_terminated_and_killed_run_resumes_bit_for_bit(trained: Path, tmp_path: Path) -> None:
    """SIGTERM saves; after kill -9 the last checkpoint counts; the same command goes on."""
    rarely = {"training.checkpoint_every": 1000, "training.sample_every": 0}
    process = start(*training(tmp_path, rarely))
    wait_for(tmp_path, 3, process)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM and "Traceback" not in err, err
    steps = [int(p.name) for p in (tmp_path / "checkpoints").iterdir()]
    assert len(steps) == 1 and 15 <= steps[0] < 60
    message = f"stopped by a signal at step {steps[0]}, saved; the same command goes on from there"
    assert message in out
    if steps[0] < 40:  # else the machine is so busy that the end may come before the kill
        kill_after(tmp_path, steps[0] // 5 + 2)
    run(*training(tmp_path))
    assert rows(tmp_path) == rows(trained)
    assert len(rows(trained)) == 12 + 3  # training and held-out losses


@pytest.mark.slow
@pytest.mark.parametrize("moment", [2, 4, 8])
def test_killed_run_resumes_bit_for_bit(trained: Path, tmp_path: Path, moment: int) -> None:
    kill_after(tmp_path, moment)
    run(*training(tmp_path))
    assert rows(tmp_path) == rows(trained)


# Several processes


def train_on_two_processes(workdir: Path, steps: int, fsdp: int = 1) -> list[str]:
    """What each of two processes of 4 devices printed."""
    values = {"training.log_every": 1, "training.eval_every": 3, "training.steps": steps}
    values["training.fsdp"] = fsdp
    return run_two(["main.py", "--distributed", *training(workdir, values)], devices=4)


@pytest.mark.slow
@pytest.mark.parametrize("fsdp", [1, 8])
def test_two_processes_train_as_one(tmp_path: Path, fsdp: int) -> None:
    """Also across a restart: 3 steps, then on to 6, on 2 x 4 devices against 1 device.

    The weights of the first 3 steps lie whole on each device, or an eighth of them.
    """
    one, two = tmp_path / "one", tmp_path / "two"
    short = {"training.log_every": 1, "training.eval_every": 3, "training.steps": 6}
    run(*training(one, short))
    train_on_two_processes(two, 3, fsdp)
    outputs = train_on_two_processes(two, 6, max(1, fsdp // 2))
    assert "trained for 6 steps" in outputs[0] and "trained for" not in outputs[1]
    found, wanted = rows(two), rows(one)
    assert [row["step"] for row in found] == [row["step"] for row in wanted]
    for a, b in zip(found, wanted, strict=True):
        assert a.keys() == b.keys()
        for name in a:
            assert a[name] == pytest.approx(b[name], rel=1e-5 if "loss" in name else 1e-4), (a, b)
