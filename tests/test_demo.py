"""The demo makes digits: every class, and new ones. Some minutes, hence slow."""

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
