"""--mode select: the checkpoint with the best samples."""

import json

import numpy as np
import pytest
from commands import refused
from runs import call

from score_sde.data import digits, take
from score_sde.metrics import Moments, frechet_distance, small_pixels
from score_sde.workdir import measurements


def test_select_and_the_best_checkpoint(langevin, tmp_path, capsys):
    message = r"best checkpoint of .* has not been sought; do: .*--mode select"
    refused(message, "sample", langevin, checkpoint="best")
    call("select", langevin, values={"quality.extractor": "pixels"})
    distances = {step: rows[0]["value"] for step, rows in measurements.read(langevin).items()}
    chosen = json.loads((langevin / "eval" / "selection.json").read_text())
    assert set(distances) == {2, 4} and chosen["how"]["samples"] == 10 and chosen["metric"] == "fid"
    best = min(distances, key=distances.__getitem__)
    assert chosen["best"] == best
    assert f"checkpoint {best:>9}  FID {distances[best]:.5g}  <- best" in capsys.readouterr().out
    call("sample", langevin, checkpoint="best")
    assert f"checkpoint {best} " in capsys.readouterr().out
    samples = np.load(langevin / "samples" / f"step_{best}" / "samples.npz")["images"]
    training = take(digits("train"), np.arange(len(digits("train"))))["image"]
    moments = [Moments.of(small_pixels(images / np.float32(16))) for images in (samples, training)]
    assert distances[best] == pytest.approx(frechet_distance(*moments), rel=1e-2)
    call("select", langevin, checkpoint="2", values={"quality.extractor": "pixels"})
    assert f"checkpoint {2:>9}  FID {distances[2]:.5g}" in capsys.readouterr().out
    assert measurements.best_step(langevin) == best  # the other is not forgotten
    refused("no checkpoint 3 in .*; there are", "select", langevin, checkpoint="3")
    message = "needs config.sampling.num_samples of 2 or more; got 1"
    refused(message, "select", langevin, values={"sampling.num_samples": 1})
