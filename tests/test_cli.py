"""The command line, end to end: subprocesses where something is computed, `run_lib.run` where it is refused."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image
from processes import run_two
from runs import call

import main
import run_lib
from golden import REPOSITORY
from score_sde import config as config_lib
from score_sde import measurements
from score_sde.build import build
from score_sde.data import digits
from score_sde.errors import UserError
from score_sde.likelihood.rows import Pieces

RECIPE = "configs/vp/ddpmpp_cont.py:digits"
SMALL = [
    *("--config.model.nf=8", "--config.model.ch_mult=(1,)", "--config.model.num_res_blocks=1"),
    *("--config.model.attn_resolutions=()", "--config.training.batch_size=16", "--config.training.steps=20"),
    *("--config.training.log_every=5", "--config.training.eval_every=10"),
    *("--config.training.checkpoint_every=10", "--config.training.sample_every=10"),
    *("--config.sampling.steps=4", "--config.sampling.corrector=none", "--config.sampling.num_samples=7"),
    *("--config.sampling.batch_size=3", "--config.sampling.frames=2", "--config.sampling.t_end=0.02"),
]


def environment() -> dict[str, str]:
    """One device, as on a laptop; nothing under the home directory."""
    return os.environ | {"XLA_FLAGS": "", "PYTHONPATH": "", "COLUMNS": "200"}


def start(*arguments: str | Path, cwd: Path = REPOSITORY) -> subprocess.Popen:
    command = [sys.executable, str(REPOSITORY / "main.py"), *map(str, arguments)]
    return subprocess.Popen(
        command, cwd=cwd, env=environment(), text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def run(*arguments: str | Path, cwd: Path = REPOSITORY, code: int = 0) -> tuple[str, str]:
    """(stdout, stderr) of a command that must end with `code` and without a traceback."""
    process = start(*arguments, cwd=cwd)
    out, err = process.communicate(timeout=300)
    assert process.returncode == code, (out, err)
    assert "Traceback" not in err, err
    return out, err


def train(workdir: Path, *more: str, code: int = 0) -> tuple[str, str]:
    return run("--config", RECIPE, "--mode", "train", "--workdir", workdir, *SMALL, *more, code=code)


def rows(workdir: Path) -> list[dict]:
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def refused(message: str, mode: str, *arguments: str, config: str | None = RECIPE, **flags) -> None:
    """Assert that a command is refused with `message` before any work."""
    overrides = [tuple(a.removeprefix("--config.").split("=", 1)) for a in arguments]
    with pytest.raises(UserError, match=message):
        run_lib.run(
            mode,
            config,
            overrides,
            flags.pop("workdir", None),
            flags.pop("checkpoint", None),
            flags.pop("shard", None),
            **flags,
        )


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 20 steps that was never interrupted. Not to be changed."""
    folder = tmp_path_factory.mktemp("cli")
    out, err = run("--config", REPOSITORY / RECIPE, "--mode", "train", *SMALL, cwd=folder)
    workdir = Path("runs") / "vp_ddpmpp_cont_digits"
    assert out == f"trained for 20 steps. Sample: python main.py --mode sample --workdir {workdir}\n"
    assert "20/20" in err  # the progress bar, and nothing else
    assert not [
        line for line in err.replace("\r", "\n").splitlines() if line.strip() and "step" not in line
    ], err
    return folder / workdir


# Starting


def test_help_is_quick_because_it_imports_no_jax() -> None:
    command = [sys.executable, "-X", "importtime", "main.py", "--help"]
    began = time.perf_counter()
    process = subprocess.run(
        command, cwd=REPOSITORY, env=environment(), capture_output=True, text=True, timeout=60
    )
    assert time.perf_counter() - began < 10  # 3 s is promised; this machine may be busy
    imported = {line.split("|")[-1].strip().split(".")[0] for line in process.stderr.splitlines()}
    assert "absl" in imported
    assert not imported & {"jax", "numpy", "flax", "orbax", "grain", "ml_collections", "run_lib", "score_sde"}
    for flag in (
        "--config",
        "--mode",
        "--workdir",
        "--checkpoint",
        "train|train_dequantizer|sample|eval|likelihood|summarize|encode|decode|interpolate|inpaint|report|dry_run",
    ):
        assert flag in process.stdout


def test_overrides_are_told_from_other_flags() -> None:
    words = [
        "main.py",
        "--config.data.skip_bad",
        "--mode",
        "train",
        "--config.seed",
        "3",
        "--config.sde.t_min=-1",
    ]
    rest, overrides = main.split_overrides([*words, "--config.model.fir"])
    assert rest == ["main.py", "--mode", "train"]
    assert overrides == [("data.skip_bad", "True"), ("seed", "3"), ("sde.t_min", "-1"), ("model.fir", "True")]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--mode", "walk"], "train|train_dequantizer|sample|eval"),
        ([], "--mode"),
        (["--mode", "train", "--stepz=3"], "stepz"),
        (["--mode", "train", "file.py"], "file.py"),
    ],
)
def test_wrong_flags_are_named(arguments: list[str], message: str) -> None:
    process = start("--config", RECIPE, *arguments)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert message in out + err and "Traceback" not in err


def test_user_error_is_one_message_without_traceback() -> None:
    out, err = run("--config", RECIPE, "--mode", "train", "--config.training.stepz=1", code=1)
    assert out == ""
    assert err.startswith("error: config.training.stepz: unknown name 'stepz'. Did you mean 'steps'?")


def test_default_workdir_is_named_after_the_recipe(trained: Path) -> None:
    assert trained.name == "vp_ddpmpp_cont_digits" and trained.parent.name == "runs"
    out, _ = run(
        "--config", REPOSITORY / RECIPE, "--mode", "eval", "--checkpoint", "10", cwd=trained.parents[1]
    )
    assert "checkpoint 10: held-out loss" in out and (trained / "eval" / "step_10.json").exists()


# What a run leaves behind


def test_training_leaves_configuration_metrics_pictures_and_checkpoints(trained: Path) -> None:
    assert config_lib.load_json(trained / "config.json").model.nf == 8
    found = rows(trained)
    assert [row["step"] for row in found if "loss" in row] == [5, 10, 15, 20]
    assert [row["step"] for row in found if "eval_loss" in row] == [10, 20]
    assert all(0.3 < row["loss"] < 2 and row["grad_norm"] > 0 for row in found if "loss" in row)
    assert list((trained / "tensorboard").glob("events*"))
    assert sorted(p.name for p in (trained / "checkpoints").iterdir()) == ["10", "20"]
    pictures = sorted(p.name for p in (trained / "samples").glob("*.png"))
    assert pictures == ["training_10.png", "training_20.png"]


def test_finished_run_says_so_and_changes_nothing(trained: Path) -> None:
    before = (trained / "metrics.jsonl").read_bytes()
    out, _ = train(trained)
    assert "trained for 20 steps already; raise config.training.steps" in out
    assert (trained / "metrics.jsonl").read_bytes() == before


def test_sample_writes_all_samples_of_any_checkpoint(trained: Path) -> None:
    """7 samples in batches of 3."""
    out, _ = run("--mode", "sample", "--workdir", trained)
    folder = trained / "samples" / "step_20"
    assert f"7 samples of checkpoint 20 (5 evaluations each): {folder}" in out
    with np.load(folder / "samples.npz") as file:
        images = file["images"]
        assert file["step"] == 20 and file["levels"] == 17
    assert images.shape == (7, 8, 8, 1) and images.dtype == np.uint8
    assert images.max() <= 16 and len(np.unique(images)) > 5
    assert len({image.tobytes() for image in images}) == 7
    assert Image.open(folder / "grid.png").size > (8, 8)
    assert Image.open(folder / "reverse_diffusion.gif").n_frames >= 3
    run("--mode", "sample", "--workdir", trained, "--checkpoint", "10", "--config.sampling.batch_size=7")
    with np.load(trained / "samples" / "step_10" / "samples.npz") as file:
        assert file["step"] == 10 and file["images"].shape == images.shape
        assert not np.array_equal(file["images"], images)
    run("--mode", "sample", "--workdir", trained, "--config.sampling.batch_size=7")
    with np.load(folder / "samples.npz") as file:  # a sample does not depend on the batch it is drawn in
        assert np.abs(file["images"].astype(int) - images).max() <= 1


def test_eval_repeats_the_held_out_loss_of_training(trained: Path) -> None:
    out, _ = run("--mode", "eval", "--workdir", trained)
    result = next(row for row in measurements.read(trained)[20] if row["metric"] == "loss")
    wanted = next(row["eval_loss"] for row in reversed(rows(trained)) if "eval_loss" in row)
    assert result["how"]["images"] == len(digits("test")) == 360
    np.testing.assert_allclose(result["value"], wanted, rtol=1e-5)
    assert 0 < result["standard_error"] < 0.1
    assert "checkpoint 20: held-out loss" in out
    assert result["how"]["times"] == "uniform" and result["how"]["likelihood_weighting"] == 0
    few = {"eval.num_examples": 8, "eval.batch_size": 8, "training.times": "log_snr", "eval.metrics": "loss"}
    call("eval", trained, values=few)
    first, second = (row for row in measurements.read(trained)[20] if row["metric"] == "loss")
    assert first == result
    assert second["how"]["times"] == "log_snr" and second["how"]["images"] == 8


def test_training_measures_samples_and_keeps_the_best_checkpoint(tmp_path: Path) -> None:
    """The distance is that of --mode select; the smallest is kept, whatever is latest, and is what `best` means."""
    more = [
        *(
            "--config.training.quality_every=7",
            "--config.training.quality_samples=8",
            "--config.training.keep=2",
        ),
        *("--config.quality.extractor=pixels", "--config.training.sample_every=0"),
        *("--config.training.ema_rate=0.9", "--config.training.ema_warmup=False"),
    ]
    train(tmp_path / "run", *more)
    found = {row["step"]: row["fid"] for row in rows(tmp_path / "run") if "fid" in row}
    assert list(found) == [7, 14, 20]
    best = min(found, key=found.__getitem__)
    kept = {int(path.name) for path in (tmp_path / "run" / "checkpoints").iterdir()}
    assert kept == {best, 14, 20}  # not 10, which was not measured
    call("sample", tmp_path / "run", checkpoint="best")
    assert (tmp_path / "run" / "samples" / f"step_{best}" / "samples.npz").exists()
    call("select", tmp_path / "run", values={"sampling.num_samples": 8})
    for step in kept:
        again = next(row["value"] for row in measurements.read(tmp_path / "run")[step])
        assert again == pytest.approx(found[step], rel=1e-3)


def test_report_is_one_offline_page(trained: Path) -> None:
    if not (trained / "samples" / "step_20" / "samples.npz").exists():
        run("--mode", "sample", "--workdir", trained)
    kid = {"metric": "kid", "value": 0.5, "standard_error": 0.25, "how": {"samples": 12, "seed": 3}}
    measurements.record(trained, 20, [kid])
    out, _ = run("--mode", "report", "--workdir", trained)
    page = (trained / "report.html").read_text()
    assert str(trained / "report.html") in out
    for part in (
        *("vp_ddpmpp_cont_digits", "data:image/png;base64,", "data:image/gif;base64,"),
        *(
            "Loss at each noise level",
            "Measurements",
            "KID (samples: 12)",
            "0.5 +- 0.25 (standard error)",
            "Memorized?",
            "360 held-out images",
            "Mirrored training images do not count",
        ),
    ):
        assert part in page
    assert "http://" not in page.replace("http://www.w3.org", "") and "https://" not in page


def test_dry_run_prints_and_does_nothing(tmp_path: Path) -> None:
    workdir = tmp_path / "none"
    out, _ = run("--config", RECIPE, "--mode", "dry_run", "--workdir", workdir, *SMALL)
    for part in (
        "nf: 8",
        "batch_size: 16",
        "parameters",
        "MiB",
        "GFLOP",
        "'data': 1",
        "5 network evaluations",
    ):
        assert part in out, out
    assert not workdir.exists()


# Refusals


def test_workdir_of_another_configuration_is_refused(trained: Path) -> None:
    refused(
        r"belongs to another configuration \(.*optim.lr: 0.001 there, 0.5 here.*Choose another --workdir",
        "train",
        *SMALL,
        "--config.optim.lr=0.5",
        workdir=str(trained),
    )
    assert config_lib.load_json(trained / "config.json").optim.lr == 1e-3


def test_modes_after_train_refuse_another_recipe(trained: Path) -> None:
    refused(
        "is a run of vp_ddpmpp_cont_digits, not of ve_ncsnpp_cont_digits",
        "sample",
        config="configs/ve/ncsnpp_cont.py:digits",
        workdir=str(trained),
    )
    refused("model.nf", "sample", "--config.model.nf=16", config=None, workdir=str(trained))


def test_missing_run_or_checkpoint(trained: Path, tmp_path: Path) -> None:
    refused("name a configuration with --config", "sample", config=None)
    refused("holds no config.json", "sample", config=None, workdir=str(tmp_path))
    refused(
        r"no checkpoint 11 in .*there are \[10, 20\]",
        "eval",
        config=None,
        workdir=str(trained),
        checkpoint=11,
    )
    (tmp_path / "config.json").write_bytes((trained / "config.json").read_bytes())
    refused("no checkpoint in .*train first", "sample", config=None, workdir=str(tmp_path))
    refused("no checkpoint in .*train first", "report", config=None, workdir=str(tmp_path))
    refused("means nothing to --mode train", "train", workdir=str(tmp_path), checkpoint=3)


def test_report_without_samples_says_what_to_do(trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained, tmp_path / "run", ignore=shutil.ignore_patterns("samples"))
    message = r"holds no samples; draw them first: python main.py --mode sample --workdir .*run"
    refused(message, "report", config=None, workdir=str(tmp_path / "run"))


def test_unknown_names_list_the_known() -> None:
    refused(
        "no configuration file 'configs/vp/nothing.py'. Known: .*ddpmpp_cont.py",
        "train",
        config="configs/vp/nothing.py",
    )
    refused(
        "unknown data set 'digit' after the colon; known: digits", "train", config="configs/vp/ddpm.py:digit"
    )
    refused("unknown name 'stepz'", "train", "--config.training.stepz=1")
    refused("unknown name 'foo'; known: euler_maruyama", "train", "--config.sampling.predictor=foo")


def test_impossible_values_are_refused_before_the_workdir_is_made(tmp_path: Path) -> None:
    workdir = tmp_path / "none"
    for override in ("optim.lr=-1", "training.batch_size=0", "model.nf=0", "seed=-1", "data.levels=256"):
        refused("config.|levels", "train", f"--config.{override}", workdir=str(workdir))
        assert not workdir.exists()


def test_missing_cifar10_is_said_at_once_with_what_needs_no_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    began = time.perf_counter()
    refused("cifar10.*not prepared.*tfds build cifar10.*:digits", "train", config="configs/ve/ncsnpp_cont.py")
    assert time.perf_counter() - began < 10


def test_workdir_that_cannot_be_one(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("")
    refused(r"cannot write to .*file \(.*choose another --workdir", "train", *SMALL, workdir=str(path))
    refused("holds no config.json", "eval", config=None, workdir=str(path))


# Interruptions


def wait_for(workdir: Path, count: int, process: subprocess.Popen) -> None:
    """Until `count` rows of metrics are written."""
    path = workdir / "metrics.jsonl"
    for _ in range(3000):
        if path.exists() and path.read_text().count("\n") >= count:
            return
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    raise AssertionError("no metrics")


LONG = ["--config.training.steps=160", "--config.training.eval_every=20", "--config.training.sample_every=0"]


def start_training(workdir: Path, *more: str) -> subprocess.Popen:
    return start("--config", RECIPE, "--mode", "train", "--workdir", workdir, *SMALL, *more)


@pytest.fixture(scope="session")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    """Rows of 160 steps."""
    workdir = tmp_path_factory.mktemp("cli") / "long"
    train(workdir, *LONG)
    return rows(workdir)


def test_sigterm_saves_and_the_same_command_goes_on(tmp_path: Path, uninterrupted: list[dict]) -> None:
    process = start_training(tmp_path, *LONG, "--config.training.checkpoint_every=1000")
    wait_for(tmp_path, 3, process)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0 and "Traceback" not in err, err
    steps = [int(p.name) for p in (tmp_path / "checkpoints").iterdir()]
    assert len(steps) == 1 and 15 <= steps[0] < 160
    assert f"stopped by a signal at step {steps[0]}, saved; the same command goes on from there" in out
    train(tmp_path, *LONG)
    assert rows(tmp_path) == uninterrupted


@pytest.mark.parametrize(
    "moment", [4, pytest.param(12, marks=pytest.mark.slow), pytest.param(25, marks=pytest.mark.slow)]
)
def test_killed_run_resumes_bit_for_bit(tmp_path: Path, uninterrupted: list[dict], moment: int) -> None:
    process = start_training(tmp_path, *LONG)
    wait_for(tmp_path, moment, process)
    time.sleep(float(np.random.default_rng().uniform(0, 0.2)))
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    train(tmp_path, *LONG)
    assert rows(tmp_path) == uninterrupted
    assert len(uninterrupted) == 32 + 8  # training and held-out losses


def test_loss_that_is_not_finite_stops_and_names_the_step(trained: Path, tmp_path: Path) -> None:
    _, err = train(tmp_path, "--config.optim.lr=1e30", "--config.training.checkpoint_every=1", code=1)
    message = err[err.index("error:") :]
    assert "the training " in message and "at step 2 is " in message and "lower config.optim.lr" in message
    assert (tmp_path / "checkpoints" / "1").is_dir() and not (tmp_path / "checkpoints" / "2").exists()


# Own images


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "images"
    path.mkdir()
    generator = np.random.default_rng(0)
    for i in range(20):
        Image.fromarray(generator.integers(0, 256, (16, 16, 3), np.uint8)).save(path / f"{i}.png")
    return path


FOLDER = "configs/ve/ncsnpp_cont.py:folder"


def test_folder_of_images_trains_and_samples(folder: Path, tmp_path: Path) -> None:
    workdir = tmp_path / "run"
    out, _ = run(
        *("--config", FOLDER, "--mode", "train", "--workdir", workdir, f"--config.data.path={folder}"),
        *SMALL,
        "--config.training.steps=2",
    )
    assert "trained for 2 steps" in out
    run("--mode", "sample", "--workdir", workdir)
    with np.load(workdir / "samples" / "step_2" / "samples.npz") as file:
        assert file["images"].shape == (7, 16, 16, 3) and file["levels"] == 256


def test_unusable_images_are_named(folder: Path, tmp_path: Path) -> None:
    (folder / "broken.png").write_bytes((folder / "1.png").read_bytes()[:60])
    (folder / "empty.jpg").write_bytes(b"")
    Image.new("RGB", (20, 16)).save(folder / "large.png")
    options = (f"--config.data.path={folder}", *SMALL, "--config.training.steps=1")
    for name in ("broken.png", "empty.jpg", "large.png"):
        refused(rf"(?s){name}.*skip_bad", "train", *options, config=FOLDER, workdir=str(tmp_path / "none"))
    assert not (tmp_path / "none").exists()
    with pytest.warns(UserWarning, match="broken.png"):
        run_lib.run(
            "dry_run",
            FOLDER,
            [tuple(o[9:].split("=", 1)) for o in (*options, "--config.data.skip_bad=True")],
            None,
            None,
        )


def test_folder_that_is_missing_or_empty(tmp_path: Path) -> None:
    refused(
        "config.data.path is empty; name your image folder: --config.data.path=DIR", "train", config=FOLDER
    )
    refused("does not exist", "train", f"--config.data.path={tmp_path / 'none'}", config=FOLDER)
    refused("holds no images", "train", f"--config.data.path={tmp_path}", config=FOLDER)


# Several processes


def train_on_two_processes(workdir: Path, *overrides: str) -> list[str]:
    """What each of two processes of 4 devices printed."""
    command = ("main.py", "--distributed", "--config", RECIPE, "--mode", "train", "--workdir", workdir)
    return run_two([*command, *overrides], devices=4)


def test_distributed_outside_of_a_cluster_says_what_to_set() -> None:
    _, err = run("--config", RECIPE, "--mode", "dry_run", "--distributed", code=1)
    assert err.startswith("error: --distributed:") and "JAX_COORDINATOR_ADDRESS=HOST:PORT" in err


# Likelihood

BITS = [
    *("--config.eval.batch_size=8", "--config.eval.num_examples=20", "--config.eval.rtol=1e-2"),
    *("--config.eval.atol=1e-2", "--config.eval.bound_draws=2", "--config.eval.passes=2"),
]


def table(folder: Path) -> dict[str, np.ndarray]:
    return Pieces(folder, json.loads((folder / "settings.json").read_text())).read()


@pytest.fixture(scope="session")
def evaluated(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run with likelihoods of both checkpoints, made in one go."""
    workdir = tmp_path_factory.mktemp("likelihood") / "run"
    shutil.copytree(trained, workdir)
    out, _ = run("--mode", "likelihood", "--workdir", workdir, "--checkpoints=all", *BITS)
    assert "step 10: bits_per_dim" in out
    assert "step 20: bits_per_dim" in out and "(20 images, 2 passes)" in out
    return workdir


def test_likelihood_writes_one_row_for_each_image_and_pass(evaluated: Path) -> None:
    folder = evaluated / "eval" / "likelihood_test_step_20"
    rows = table(folder)
    np.testing.assert_array_equal(rows["index"], np.tile(np.arange(20), 2))
    np.testing.assert_array_equal(rows["pass"], np.repeat([0, 1], 20))
    np.testing.assert_array_equal(rows["label"][:20], digits("test").labels[:20])
    offset = np.log2(17) - 1  # 17 levels over the range [-1, 1]
    np.testing.assert_allclose(rows["bits_per_dim"], -rows["logp"] / (64 * np.log(2)) + offset, rtol=1e-5)
    assert (rows["nfe"] > 6).all() and rows["success"].all()
    assert (
        np.abs(rows["logp"][:20] - rows["logp"][20:]).min() > 1e-3
    )  # other dequantization noise in each pass
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["bits_per_dim"]["mean"] == pytest.approx(rows["bits_per_dim"].mean())
    assert summary["bound_bits_per_dim"]["images"] == 20 and summary["nfe"]["max"] == rows["nfe"].max()
    for name in ("histogram", "most_likely", "least_likely"):
        assert Image.open(folder / f"{name}.png").size[0] > 100


def test_a_sweep_with_shards_and_a_kill_gives_the_same_rows(evaluated: Path, tmp_path: Path) -> None:
    """Killed in the second checkpoint of the second shard; the same command computes what is missing and nothing else."""
    workdir = tmp_path / "run"
    shutil.copytree(
        evaluated, workdir, ignore=lambda _, names: [n for n in names if n.startswith("likelihood")]
    )
    first, second = (workdir / "eval" / f"likelihood_test_step_{step}" for step in (10, 20))
    sweep = ("--mode", "likelihood", "--workdir", workdir, "--checkpoints=all", *BITS)
    process = start(*sweep, "--shard=1/2")
    while process.poll() is None and not list(second.glob("*.parquet")):
        time.sleep(0.02)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    before = {path: path.stat().st_mtime_ns for path in workdir.glob("eval/likelihood*/*.parquet")}
    counts = [sum(path.parent == folder for path in before) for folder in (first, second)]
    assert counts[0] == 4 and 1 <= counts[1] <= 4  # 10 images in batches of 8, two passes
    refused(
        r"lacks \d+ of 40 rows \(first: image 0 in pass 0\)",
        "summarize",
        *BITS,
        config=None,
        workdir=str(workdir),
    )
    for shard in ("0/2", "1/2"):
        out, _ = run(*sweep, f"--shard={shard}")
        assert out.count(f"shard {shard} done") == 2
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())
    out, _ = run("--mode", "summarize", "--workdir", workdir, *BITS)
    assert "step 10: bits_per_dim" in out and "step 20: bits_per_dim" in out
    assert (workdir / "eval" / "bits_per_dim_test.png").exists()
    for folder in (first, second):
        found, expected = table(folder), table(evaluated / "eval" / folder.name)
        for name in ("index", "pass", "label"):
            np.testing.assert_array_equal(found[name], expected[name])
        # Other batches are other compiled programs on other shapes: equal but for rounding and its effect on step sizes.
        np.testing.assert_allclose(found["bits_per_dim"], expected["bits_per_dim"], atol=1e-3)
    piece = next(second.glob("*.parquet"))
    shutil.copy(piece, piece.with_name(f"copy_{piece.name}"))
    refused("rows twice .*Remove one of the pieces", "summarize", *BITS, config=None, workdir=str(workdir))


def test_a_sweep_over_runs_does_the_others_and_compares(
    evaluated: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """Of three runs one has a checkpoint of another network."""
    good, foreign = tmp_path / "good", tmp_path / "foreign"
    shutil.copytree(evaluated, good)
    shutil.copytree(evaluated, foreign)
    config = json.loads((foreign / "config.json").read_text())
    config["model"]["nf"] = 16
    (foreign / "config.json").write_text(json.dumps(config))
    kept = {path: path.read_bytes() for path in foreign.glob("eval/**/*") if path.is_file()}
    runs = f"{foreign},{good},{evaluated}"
    refused(
        "1 of 3 failed, see above: .*foreign. The others are done",
        *("eval", "--config.eval.batch_size=8", "--config.eval.num_examples=8"),
        config=None,
        workdir=runs,
    )
    out, err = capsys.readouterr()
    assert out.count("checkpoint 20: held-out loss") == 2
    assert "checkpoint 20 in" in err and "of another network than the configuration describes" in err
    assert {path: path.read_bytes() for path in foreign.glob("eval/**/*") if path.is_file()} == kept
    run_lib.run(
        "summarize",
        None,
        [tuple(o[9:].split("=")) for o in BITS],
        f"{good},{evaluated}",
        output=str(tmp_path / "all"),
    )
    lines = capsys.readouterr().out.splitlines()
    rows = [line.split() for line in lines if line.startswith((str(good) + " ", str(evaluated) + " "))]
    assert [row[1] for row in rows] == ["10", "20"] * 2 and rows[0][2] == rows[2][2] != rows[1][2]
    assert sorted(path.name for path in (tmp_path / "all").iterdir()) == [
        "bits_per_dim_comparison.png",
        "bound_bits_per_dim_comparison.png",
        "comparison.json",
    ]


def test_several_runs_that_make_no_sense_are_refused(tmp_path: Path) -> None:
    one = str(tmp_path / "one")
    refused("named twice", "eval", config=None, workdir=f"{one},{one}/")
    refused("several runs; leave it out for one", "summarize", config=None, workdir=one, output=one)
    (tmp_path / "file").write_text("")
    several = {"config": None, "workdir": f"{one},{tmp_path}"}
    refused("file is a file", "summarize", **several, output=str(tmp_path / "file"))


def test_bad_likelihood_requests_are_refused(evaluated: Path) -> None:
    run = {"config": None, "workdir": str(evaluated)}
    refused("must be i/n", "likelihood", **run, shard="2/2")
    refused("shard 99/100 is empty", "likelihood", *BITS, **run, shard="99/100")
    refused("means nothing to --mode eval", "eval", **run, shard="0/2")
    refused(
        "results of other settings .*rtol: 0.01 there, 0.1 here",
        "likelihood",
        *BITS,
        "--config.eval.rtol=0.1",
        **run,
    )
    refused("unknown name 'euler'", "likelihood", "--config.eval.solver=euler", **run)
    refused("leaves no likelihood to evaluate", "likelihood", "--config.eval.probes=-1", **run)
    refused("must be 'train' or 'test'", "likelihood", "--config.eval.split=valid", **run)
    refused("steps like 10,20", "likelihood", *BITS, **run, checkpoint="ten")
    refused("takes one run; got 2", "train", config=None, workdir=f"{evaluated},{evaluated.parent}")
    refused("no likelihoods of the train images", "summarize", "--config.eval.split=train", **run)


# Encodings

FLOW = ["--config.eval.batch_size=8", "--config.eval.rtol=1e-5", "--config.eval.atol=1e-5"]


def flow(mode: str, workdir: Path, *overrides: str, **flags) -> None:
    """A mode of the probability flow, in this process (eight devices)."""
    assignments = [tuple(o.removeprefix("--config.").split("=", 1)) for o in (*FLOW, *overrides)]
    given = {name: str(value) if isinstance(value, Path) else value for name, value in flags.items()}
    run_lib.run(mode, None, assignments, str(workdir), **given)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Three digits as 8-bit files of 17 greys."""
    (tmp_path / "pictures").mkdir()
    for i, image in enumerate(digits("test").images[:3]):
        grey = np.rint(image[..., 0] * (255 / 16)).astype(np.uint8)
        Image.fromarray(grey).save(tmp_path / "pictures" / f"{'abc'[i]}.png")
    return tmp_path / "pictures"


def test_images_encode_and_decode_to_the_same_files(trained: Path, pictures: Path, tmp_path: Path) -> None:
    out, _ = run(
        "--mode", "encode", "--workdir", trained, "--input", pictures, "--output", tmp_path / "z", *FLOW
    )
    assert "image files: value v of 0 .. 255 is level round(16 v/255) of 0 .. 16" in out
    assert "3 latents of checkpoint 20" in out and "; 0 images come back with other levels" in out
    with np.load(tmp_path / "z" / "latents.npz") as file:
        z, names = file["z"], file["names"]
        assert file["step"] == 20 and file["prior_std"] == 1.0 and (file["nfe"] > 6).all()
        assert (file["round_trip"] < 0.5).all()
    assert z.shape == (3, 8, 8, 1) and z.dtype == np.float32 and names.tolist() == ["a.png", "b.png", "c.png"]
    assert Image.open(tmp_path / "z" / "round_trip.png").size[0] > 100
    flow("decode", trained, input=tmp_path / "z" / "latents.npz", output=tmp_path / "x")
    with np.load(tmp_path / "x" / "samples.npz") as file:
        np.testing.assert_array_equal(file["images"], digits("test").images[:3])
    for written, given in zip(
        sorted((tmp_path / "x" / "images").iterdir()), sorted(pictures.iterdir()), strict=True
    ):
        np.testing.assert_array_equal(np.asarray(Image.open(written)), np.asarray(Image.open(given)))

    both = f"{pictures / 'a.png'},{tmp_path / 'z' / 'latents.npz'}"
    flow("interpolate", trained, input=both, output=tmp_path / "path", frames=3)
    with np.load(tmp_path / "path" / "frames.npz") as file:
        assert file["images"].shape == (3, 3, 8, 8, 1)
        np.testing.assert_array_equal(file["images"][1:, 0], digits("test").images[:2])
        np.testing.assert_array_equal(file["images"][1:, -1], digits("test").images[1:3])
        np.testing.assert_allclose(file["z"][0], np.broadcast_to(z[0], (3, 8, 8, 1)), atol=1e-3)  # a to a
    assert Image.open(tmp_path / "path" / "interpolation.gif").n_frames >= 4
    assert (tmp_path / "path" / "grid.png").exists()


def test_encoding_a_split_does_not_depend_on_the_batch(trained: Path, tmp_path: Path) -> None:
    found = []
    for size in (8, 16):
        flow(
            *("encode", trained, "--config.eval.num_examples=11", f"--config.eval.batch_size={size}"),
            output=tmp_path / str(size),
        )
        with np.load(tmp_path / str(size) / "latents.npz") as file:
            found.append(file["z"])
            np.testing.assert_array_equal(file["label"], digits("test").labels[:11])
            assert file["names"][10] == "test 10"
    np.testing.assert_allclose(found[0], found[1], atol=1e-3)


def test_decoding_the_prior_and_its_temperature(trained: Path, tmp_path: Path) -> None:
    for number, temperature in ((7, None), (3, 0.5)):
        flow(
            *("decode", trained, f"--config.sampling.num_samples={number}"),
            output=tmp_path,
            temperature=temperature,
        )
        with np.load(tmp_path / "samples.npz") as file:
            if number == 7:
                z, images = file["z"], file["images"]
            else:
                np.testing.assert_allclose(file["z"], 0.5 * z[:3])
                assert not np.array_equal(file["images"], images[:3])
    assert len({image.tobytes() for image in images}) == 7
    assert len(list((tmp_path / "images").iterdir())) == 3  # none of the seven before is left over


def test_inputs_that_do_not_fit_are_refused_and_nothing_is_written(trained: Path, tmp_path: Path) -> None:
    workdir = {"config": None, "workdir": str(trained)}
    Image.new("L", (9, 8)).save(tmp_path / "wide.png")
    np.savez(tmp_path / "nan.npz", z=np.full((1, 8, 8, 1), np.nan))
    np.savez(tmp_path / "one.npz", z=np.ones((1, 8, 8, 1)))
    before = sorted(trained.rglob("*"))
    refused("wide.png: 8 x 9 pixels, not 8 x 8", "encode", *FLOW, **workdir, input=str(tmp_path / "wide.png"))
    refused("does not exist", "encode", *FLOW, **workdir, input=str(tmp_path / "none"))
    refused("not finite", "decode", *FLOW, **workdir, input=str(tmp_path / "nan.npz"))
    refused("name two or more", "interpolate", *FLOW, **workdir, input=str(tmp_path / "one.npz"))
    refused("--frames means nothing to --mode decode", "decode", **workdir, frames=3)
    refused("one result; leave it out", "decode", **workdir, output=str(tmp_path), checkpoint="10,20")
    refused("does not split over", "encode", "--config.eval.batch_size=7", **workdir)
    for mode in ("encode", "decode", "interpolate"):
        refused("wide.png is a file", mode, *FLOW, **workdir, output=str(tmp_path / "wide.png"))
    assert sorted(trained.rglob("*")) == before


SMALL_FLOW = [
    *(
        "--config.dequantizer.filters=4",
        "--config.dequantizer.components=2",
        "--config.dequantizer.couplings=2",
    ),
    *("--config.dequantizer.context_filters=4", "--config.dequantizer.context_layers=1"),
    *("--config.dequantizer.heads=0", "--config.dequantizer.batch_size=16", "--config.dequantizer.steps=10"),
    *("--config.dequantizer.log_every=5", "--config.dequantizer.eval_every=5"),
    "--config.dequantizer.checkpoint_every=5",
]


def test_a_trained_dequantizer_is_used_and_goes_on(evaluated: Path, tmp_path: Path) -> None:
    """Trained for 5 and then 5 more steps as for 10 at once; its rows lie beside the uniform ones."""
    workdir, variational = tmp_path / "run", "--config.eval.dequantization=variational"
    shutil.copytree(evaluated, workdir)
    run_of = {"config": None, "workdir": str(workdir)}
    refused(
        "holds no dequantizer; train one: .*--mode train_dequantizer", "likelihood", variational, **run_of
    )
    refused("heads, width 4", "train_dequantizer", *SMALL_FLOW, "--config.dequantizer.heads=3", **run_of)
    again = tmp_path / "again"
    shutil.copytree(workdir, again)
    out, _ = run("--mode", "train_dequantizer", "--workdir", workdir, *SMALL_FLOW, *BITS)
    assert (
        "dequantizer of checkpoint 20 trained for 10 steps. Use it: python main.py --mode likelihood" in out
    )
    for steps in (5, 10):
        run(
            "--mode",
            "train_dequantizer",
            "--workdir",
            again,
            *SMALL_FLOW,
            *BITS,
            f"--config.dequantizer.steps={steps}",
        )
    assert rows(again / "dequantizer") == rows(workdir / "dequantizer")
    assert [row["step"] for row in rows(workdir / "dequantizer") if "eval_loss" in row] == [5, 10]
    other = ("train_dequantizer", *SMALL_FLOW, "--config.dequantizer.lr=0.1")
    refused("belongs to another dequantizer .lr: 0.001 there, 0.1 here", *other, **run_of)
    refused("warmup: .* there, 3 here", "train_dequantizer", *SMALL_FLOW, "--config.optim.warmup=3", **run_of)
    refused(
        "score_checkpoint: 20 there, 10 here", "train_dequantizer", *SMALL_FLOW, **run_of, checkpoint="10"
    )
    assert (workdir / "metrics.jsonl").read_text() == (evaluated / "metrics.jsonl").read_text()

    out, _ = run("--mode", "likelihood", "--workdir", workdir, variational, *BITS)
    folder = workdir / "eval" / "likelihood_test_variational_step_20"
    found, uniform = table(folder), table(workdir / "eval" / "likelihood_test_step_20")
    assert (np.abs(found["log_q"]) > 1e-3).all() and (uniform["log_q"] == 0).all()
    logp = -(found["bits_per_dim"] - np.log2(17) + 1) * 64 * np.log(2)
    np.testing.assert_allclose(logp, found["logp"] - found["log_q"], rtol=1e-4)
    settings = json.loads((folder / "settings.json").read_text())
    assert settings["source"].startswith("digits") and "360 images" in settings["source"]
    used = settings["dequantizer"]
    assert used["score_checkpoint"] == 20 and used["step"] == 10
    out, _ = run("--mode", "summarize", "--workdir", workdir, variational, *BITS)
    assert "likelihood_test_variational_step_20" in out


@pytest.mark.slow
def test_two_processes_train_as_one(tmp_path: Path) -> None:
    """Also across a restart: 3 steps, then on to 6, on 2 x 4 devices against 1 device."""
    short = [*SMALL, "--config.training.log_every=1", "--config.training.eval_every=3"]
    one, two = tmp_path / "one", tmp_path / "two"
    train(one, *short[len(SMALL) :], "--config.training.steps=6")
    train_on_two_processes(two, *short, "--config.training.steps=3")
    outputs = train_on_two_processes(two, *short, "--config.training.steps=6")
    assert "trained for 6 steps" in outputs[0]
    found, wanted = rows(two), rows(one)
    assert [row["step"] for row in found] == [row["step"] for row in wanted]
    for a, b in zip(found, wanted, strict=True):
        assert a.keys() == b.keys()
        for name in a:
            assert a[name] == pytest.approx(b[name], rel=1e-5 if "loss" in name else 1e-4), (a, b)


def test_keys_of_a_dequantizer_are_none_of_the_models() -> None:
    experiment = build(config_lib.load(RECIPE))
    model, other = run_lib.run_keys(experiment), run_lib.run_keys(experiment, "dequantizer")
    steps = [jax.random.fold_in(model["train"], step) for step in range(8)]
    seen = [tuple(jax.random.key_data(key).tolist()) for key in (*model.values(), *other.values(), *steps)]
    assert len(set(seen)) == len(seen)
