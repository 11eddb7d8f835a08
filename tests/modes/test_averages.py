"""Averages made of snapshots: wherever one checkpoint is taken."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from commands import RECIPE, SMALL, refused, train_here
from runs import call, random_run

from score_sde.convert import read_file
from score_sde.training.ema import exponent
from score_sde.training.loop import Loop
from score_sde.training.snapshots import save_snapshot
from score_sde.training.state import TrainState
from score_sde.workdir import config as configurations
from score_sde.workdir import measurements
from score_sde.workdir.run import Run
from score_sde.workdir.which import Phema

STEPS, WIDTHS, MADE = (12, 24), (0.05, 0.1), Phema(24, 0.075)
VALUES = SMALL | {
    "training.averages": "warmup:0.9,power:0.05,power:0.10",
    "training.steps": STEPS[-1],
    "training.snapshot_every": 3,
    "eval.batch_size": 8,
    "eval.num_examples": 8,
    "eval.probes": -1,
    "eval.bound_draws": 2,
    "eval.rtol": 1e-2,
    "eval.atol": 1e-2,
    "sampling.batch_size": 8,
}


def tracked(step: int, std: float) -> float:
    """The average of 1/n over updates n = 1 .. step: the closed form of a power function."""
    n = np.arange(1, step + 1)
    ends = (np.append(0, n) / step) ** (exponent(std) + 1)
    return float(np.diff(ends) @ (1 / n))


def trajectory(state: TrainState) -> Callable[[int, float], Any]:
    """(step, std) -> average of weights that were W (1 + 2/n) after update n."""
    params = jax.tree.map(np.asarray, state.params)
    return lambda step, std: jax.tree.map(lambda w: w * (1 + 2 * tracked(step, std)), params)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of random weights, with snapshots of two widths every three steps."""
    folder = tmp_path_factory.mktemp("averages") / "run"
    random_run(folder, RECIPE, VALUES, STEPS, scale=0.1)
    average = trajectory(opened(folder).restore())
    for step in range(3, 25, 3):
        for std in WIDTHS:
            save_snapshot(folder / "snapshots", step, std, average(step, std))
    return folder


def opened(workdir: Path) -> Run:
    return Run.of(configurations.load_json(workdir / "config.json"), workdir)


def norm(tree: object) -> float:
    return float(np.sqrt(sum((np.asarray(leaf) ** 2).sum() for leaf in jax.tree.leaves(tree))))


def test_weights_are_made_where_others_are_saved(workdir: Path) -> None:
    run = opened(workdir)
    made, which = run.weights(MADE)
    state = run.restore()
    assert which == MADE and len(state.averages) == 3
    wanted = trajectory(state)(24, 0.075)
    assert norm(jax.tree.map(np.subtract, made, wanted)) < 1e-3 * norm(wanted)
    like = run.like().params
    for a, b in zip(jax.tree.leaves(made), jax.tree.leaves(like), strict=True):
        assert a.dtype == b.dtype and a.sharding == b.sharding
    first, _ = run.weights()
    jax.tree.map(np.testing.assert_array_equal, first, state.averages[0])


def test_samples_say_of_which_average_they_are(workdir: Path, capsys) -> None:
    call("sample", workdir, checkpoint="phema:0.075")
    folder = workdir / "samples" / "step_24_phema_0.075"
    told = capsys.readouterr().out
    assert f"samples of checkpoint phema:0.075:24 (5 evaluations each): {folder}" in told
    assert "phema:0.075:24: made of the snapshots, its profile met to " in told
    samples = np.load(folder / "samples.npz")
    assert samples["step"] == 24 and samples["average"] == "phema:0.075"
    assert json.loads((folder / "sampling.json").read_text())["average"] == "phema:0.075"
    call("sample", workdir)
    plain = workdir / "samples" / "step_24"
    assert "average" not in json.loads((plain / "sampling.json").read_text())
    assert (np.load(plain / "samples.npz")["images"] != samples["images"]).any()
    call("report", workdir, checkpoint="phema:0.075")
    assert "samples after 24 training steps, phema:0.075" in (workdir / "report.html").read_text()


def test_likelihoods_and_latents_do_too(workdir: Path, capsys) -> None:
    call("likelihood", workdir, checkpoint="phema:0.075,24")
    folder = workdir / "eval" / "likelihood_test_step_24_phema_0.075"
    assert json.loads((folder / "settings.json").read_text())["average"] == "phema:0.075"
    summary = json.loads((folder / "summary.json").read_text())
    assert (summary["step"], summary["average"]) == (24, "phema:0.075")
    plain = json.loads((workdir / "eval/likelihood_test_step_24/summary.json").read_text())
    assert "average" not in plain and plain["bound_bits_per_dim"] != summary["bound_bits_per_dim"]
    call("summarize", workdir)
    assert "step phema:0.075:24: bound_bits_per_dim" in capsys.readouterr().out
    call("encode", workdir, checkpoint="phema:0.075:24")
    folder = workdir / "flow" / "encode_step_24_phema_0.075"
    latents = np.load(folder / "latents.npz")
    assert (latents["step"], latents["average"]) == (24, "phema:0.075")
    assert json.loads((folder / "encode.json").read_text())["average"] == "phema:0.075"


def test_an_average_is_exported(workdir: Path, tmp_path: Path, capsys) -> None:
    call("export", workdir, checkpoint="phema:0.075", output=tmp_path / "model.pth")
    assert "checkpoint phema:0.075:24 in PyTorch's form" in capsys.readouterr().out
    _, tree = read_file(tmp_path / "model.pth")
    shadow = sum((np.asarray(array) ** 2).sum() for array in tree["ema"]["shadow_params"])
    assert tree["step"] == 24 and tree["ema"]["decay"] == 0.9
    assert np.sqrt(shadow) == pytest.approx(norm(opened(workdir).weights(MADE)[0]), rel=1e-5)


def test_the_best_profile_is_chosen(workdir: Path, capsys) -> None:
    values = {"quality.extractor": "pixels"}
    call("select", workdir, checkpoint="phema:0.05,phema:0.075,24", values=values)
    found = measurements.read(workdir)
    assert list(found) == [24, Phema(24, 0.05), MADE]
    distances = {which: rows[0]["value"] for which, rows in found.items()}
    assert len(set(distances.values())) == 3
    best = min(distances, key=distances.__getitem__)
    assert measurements.best_step(workdir) == best
    told = capsys.readouterr().out
    assert f"checkpoint {best!s:>9}  FID {distances[best]:.5g}  <- best" in told
    written = json.loads((workdir / "eval" / "step_24_phema_0.05.json").read_text())
    assert (written["step"], written["average"]) == (24, "phema:0.05")
    kept = {path.name.rsplit("_", 1)[0] for path in (workdir / "eval" / "samples").iterdir()}
    assert kept == {"step_24", "step_24_phema_0.05", "step_24_phema_0.075"}
    assert (workdir / "eval" / "fid.png").exists()

    rows = [row for rows in found.values() for row in rows]
    for row in found[MADE]:
        row["value"] = -1.0
    measurements.record(workdir, MADE, found[MADE])
    measurements.choose(workdir, rows, [12, 24])
    assert measurements.best_step(workdir) == MADE
    call("sample", workdir, checkpoint="best")
    assert "checkpoint phema:0.075:24 " in capsys.readouterr().out


def test_refusals(workdir: Path) -> None:
    refused(r"must be in \(0, 0.29\); got 0.3", "sample", workdir, checkpoint="phema:0.3")
    refused(r"step 4; there are \[3, 6, .*24\]", "sample", workdir, checkpoint="phema:0.1:4")
    refused("10% is accepted", "likelihood", workdir, checkpoint="phema:0.2:3")
    message = "training.averages: 'warmup:0.9,power.*' there, 'power:0.05' here"
    values = VALUES | {"training.averages": "power:0.05"}
    refused(message, "train", workdir, RECIPE, values=values)


def test_a_run_begins_with_the_first_average_of_another(
    workdir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever averages either of them keeps."""
    states = []

    def run(loop: Loop, *arguments: object) -> bool:
        states.append(jax.tree.map(np.asarray, loop.state))
        addresses = [a.unsafe_buffer_pointer() for a in single(loop.state.averages)]
        assert len(set(addresses)) == len(addresses)  # each is donated to the first step
        return False

    def single(tree: Any) -> list[jax.Array]:
        return [leaf.addressable_shards[0].data for leaf in jax.tree.leaves(tree)]

    monkeypatch.setattr(Loop, "run", run)
    values = VALUES | {"training.from": workdir, "training.snapshot_every": 0}
    values |= {"training.averages": "rate:0.5,power:0.1"}
    train_here(tmp_path / "run", values)
    theirs, (mine,) = opened(workdir).restore(), states
    assert len(mine.averages) == 2 and int(mine.step) == 0
    jax.tree.map(np.testing.assert_array_equal, mine.params, theirs.params)
    for average in mine.averages:
        jax.tree.map(np.testing.assert_array_equal, average, theirs.averages[0])
