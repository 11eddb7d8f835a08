"""The demo makes digits: every class, and new ones. Some minutes, hence slow."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from sklearn.svm import SVC

from score_sde.data import digits
from score_sde.metrics import neighbor_distances

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.slow
def test_samples_of_the_demo_look_like_digits(tmp_path):
    workdir = tmp_path / "demo"
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    recipe = ["--config", "configs/vp/ddpmpp_cont.py:digits"]
    for mode, options in (("train", recipe), ("sample", []), ("report", [])):
        command = [sys.executable, "main.py", "--mode", mode, "--workdir", str(workdir), *options]
        subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True)
    (folder,) = (workdir / "samples").glob("step_*")
    samples = np.load(folder / "samples.npz")["images"]
    assert samples.shape == (500, 8, 8, 1) and samples.max() <= 16
    train, test = digits("train"), digits("test")

    classifier = SVC(gamma=0.001).fit(train.images.reshape(len(train), -1), train.labels)
    shares = np.bincount(classifier.predict(samples.reshape(500, -1)), minlength=10) / 500
    assert shares.min() >= 0.04 and shares.max() <= 0.20, shares
    assert neighbor_distances(samples / 16, test.images / 16, train.images / 16).ratio >= 0.8
    assert (workdir / "report.html").stat().st_size > 100_000


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["vp/ddpmpp_cont", "ve/ncsnpp_cont"])
def test_recipes_have_the_same_losses_on_one_and_eight_devices(recipe, tmp_path):
    """The unmodified digits recipes, through the command line: 20 losses to 1e-5."""
    losses = []
    for devices in (1, 8):
        workdir = tmp_path / str(devices)
        flags = {"XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"}
        options = ["--config.training.steps=20", "--config.training.log_every=1"]
        command = [sys.executable, "main.py", "--mode", "train", "--workdir", str(workdir)]
        command += ["--config", f"configs/{recipe}.py:digits", *options]
        subprocess.run(command, cwd=ROOT, env=os.environ | flags, check=True, capture_output=True)
        rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
        losses.append([row["loss"] for row in rows if "loss" in row])
    assert len(losses[0]) == 20
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-5)
