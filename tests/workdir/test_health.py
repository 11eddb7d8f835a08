"""Planted faults of a run are found from its files; a sound run has none."""

import json
from pathlib import Path

import numpy as np
import pytest
import runs

from score_sde.parallel.levels import Levels
from score_sde.training.checkpoint import saved_steps
from score_sde.workdir.health import (
    average_findings,
    level_findings,
    loss_findings,
    run_findings,
    sample_findings,
    settings_findings,
)

SETTINGS = runs.load("vp/ddpmpp_cont:digits")


def rows(losses, heldout=()) -> list[dict]:
    found = [{"step": 50 * (i + 1), "loss": float(v)} for i, v in enumerate(losses)]
    return found + [{"step": 500 * (i + 1), "eval_loss": float(v)} for i, v in enumerate(heldout)]


def test_losses() -> None:
    falling = 10 / np.arange(1, 40) + 1
    assert not list(loss_findings(rows(falling, falling[:8]), Path("r")))
    spiked = falling.copy()
    spiked[20] = 30
    (one,) = loss_findings(rows(spiked), Path("r"))
    assert one.name == "the loss has spikes" and "step 1050 it is 30" in one.what
    (one,) = loss_findings(rows(falling, [5, 3, 2, 2.2, 2.3, 2.4]), Path("r"))
    assert one.name == "the held-out loss rises" and "2 at step 1500" in one.what
    assert "--mode select --workdir r" in one.do
    assert not list(loss_findings(rows(falling, [5, 3, 2, 2.01, 2.02, 1.99]), Path("r")))


def test_average_and_sampler() -> None:
    slow = SETTINGS.change("training", ema_rate=0.9999, ema_warmup=False)
    (one,) = average_findings(slow, 2000)
    assert "82% of the averaged" in one.what
    assert not list(average_findings(slow, 40_000))
    warm = slow.change("training", ema_warmup=True)
    assert not list(average_findings(warm, 100))
    assert list(settings_findings(SETTINGS.change("sampling", steps=50)))
    assert not list(settings_findings(SETTINGS.change("sampling", steps=1000)))
    unipc = {"predictor": "unipc", "corrector": "none", "grid": "log_snr", "steps": 10}
    assert not list(settings_findings(SETTINGS.change("sampling", **unipc)))


def test_noise_levels() -> None:
    ones = np.ones(4)

    def rows_of(heldout: list[float]) -> dict:
        """As `--mode eval` writes them: the gap of two levels errs by 0.01, of two by 0.3."""
        noise = np.outer(np.linspace(-1, 1, 9), [0.01, 0.01, 1.0, 0.01])
        train = np.tile([1.0, 0.5, 0.5, 0.5], (9, 1))
        sigmas = np.asarray([0.1, 1.0, 2.0, 0.3])
        return {"levels": Levels(ones, ones, sigmas, train, train + heldout + noise).rows()}

    assert not list(level_findings(None))
    assert not list(level_findings(rows_of([0.1, 0.0, 0.2, 0.0])))
    (one,) = level_findings(rows_of([0.1, 0.0, 0.2, 0.25]))
    assert "at 1 noise levels" in one.what and "by 50% at sigma 0.3" in one.what


@pytest.mark.parametrize("copied", [0, 40])
def test_memorized_samples(tmp_path: Path, copied: int) -> None:
    rng = np.random.default_rng(0)
    train = rng.integers(0, 256, (300, 8, 8, 1)).astype(np.uint8)
    samples = rng.integers(0, 256, (100, 8, 8, 1)).astype(np.uint8)
    samples[:copied] = train[:copied] ^ 1
    (tmp_path / "samples" / "step_10").mkdir(parents=True)
    np.savez(tmp_path / "samples" / "step_10" / "samples.npz", images=samples)
    found = list(sample_findings(tmp_path, 10, train))
    assert bool(found) == bool(copied)
    assert not found or "40% of 100 samples" in found[0].what


def test_the_files_of_a_run(tmp_path: Path) -> None:
    assert saved_steps(tmp_path / "checkpoints") == []
    for step in (100, 20):
        (tmp_path / "checkpoints" / str(step)).mkdir(parents=True)
    assert saved_steps(tmp_path / "checkpoints") == [20, 100]
    lines = [json.dumps(row) for row in rows([9, 5, 4, 3, 3, 40, 3, 3])]
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    slow = SETTINGS.change("training", ema_rate=0.9999, ema_warmup=False)
    names = [one.name for one in run_findings(slow, tmp_path, np.zeros((4, 8, 8, 1), np.uint8))]
    assert names == ["the loss has spikes", "the average is too slow"]
