"""What is wrong with a run, as its files tell: findings, each with what to do."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from score_sde import viz
from score_sde.build.settings import Settings
from score_sde.build.task import build_averages
from score_sde.data.health import Finding
from score_sde.errors import command, quoted
from score_sde.files import read_npz
from score_sde.metrics import nearest_neighbors
from score_sde.training.checkpoint import saved_steps
from score_sde.training.ema import Average
from score_sde.workdir.levels import load_levels
from score_sde.workdir.which import Which

SPIKE = 5.0
"""A row of the loss so many times the median of the rows around it is a spike."""
STEPPERS = ("reverse_diffusion", "euler_maruyama", "ancestral")
"""Predictors of first order with fresh noise, which need many steps."""


def run_findings(settings: Settings, folder: Path, train: np.ndarray) -> Iterator[Finding]:
    """All of them, of the last checkpoint. `train`: training images, integer levels."""
    steps = saved_steps(folder / "checkpoints")
    log = folder / "metrics.jsonl"
    rows = viz.read_metrics(log) if log.exists() else []
    yield from settings_findings(settings)
    yield from loss_findings(rows, folder)
    if steps:
        yield from average_findings(settings, steps[-1])
        yield from level_findings(load_levels(folder, steps[-1]))
        yield from sample_findings(folder, steps[-1], train)


def settings_findings(settings: Settings) -> Iterator[Finding]:
    """Samplers with too few steps for their order."""
    sampling = settings.sampling
    if sampling.predictor in STEPPERS and sampling.steps and sampling.steps < 100:
        yield Finding(
            "few steps of the sampler",
            f"sampling.predictor={sampling.predictor} makes {sampling.steps} steps",
            "noise is left in samples below some 200 steps; for few evaluations take "
            "sampling.predictor=unipc, sampling.corrector=none and sampling.grid=log_snr",
        )


def loss_findings(rows: list[dict[str, Any]], folder: Path) -> Iterator[Finding]:
    """Spikes of the training loss, and a held-out loss that has been lower."""
    logged = [(row["step"], row["loss"]) for row in rows if row.get("loss") is not None]
    values = np.asarray([value for _, value in logged], float)
    for i in range(4, len(values)):  # the first rows fall from large values
        around = np.concatenate([values[max(i - 4, 0) : i], values[i + 1 : i + 5]])
        if not np.isfinite(values[i]) or values[i] > SPIKE * np.median(around):
            yield Finding(
                "the loss has spikes",
                f"at step {logged[i][0]} it is {values[i]:.3g}, around it {np.median(around):.3g}",
                "a lower optim.lr, a smaller optim.grad_clip or a longer optim.warmup; look for "
                "broken images",
            )
            break
    heldout = [(r["step"], r["eval_loss"]) for r in rows if r.get("eval_loss") is not None]
    if len(heldout) >= 4:
        step, least = min(heldout, key=lambda pair: pair[1])
        last, value = heldout[-1]
        late = [loss for at, loss in heldout if at > step]
        if len(late) >= 3 and min(late) > 1.02 * least and value > 1.05 * least:
            yield Finding(
                "the held-out loss rises",
                f"it was {least:.4g} at step {step}, and is {value:.4g} at step {last}",
                "the model memorizes: take an earlier checkpoint ("
                + command(f"--mode select --workdir {quoted(folder)}")
                + "), more images, dropout or augmentation",
            )


def average_findings(settings: Settings, step: int) -> Iterator[Finding]:
    """An average of the weights that still holds the random ones; warm-up keeps them out."""
    training = settings.training
    average = build_averages(training, training.batch_size)[0]
    if training.from_run or not isinstance(average, Average):
        return
    n = np.arange(1.0, step + 1)
    share = np.full_like(n, 1 - average.rate)
    if average.warmup:
        share = np.maximum(share, 9 / (10 + n))
    left = float(np.prod(1 - share))
    if left > 0.05:
        yield Finding(
            "the average is too slow",
            f"after {step} steps {left:.0%} of the averaged weights are still the random ones of "
            f"the start (a rate of {average.rate:g} without warm-up)",
            "train longer, set training.ema_warmup, or a lower training.ema_rate",
        )


def level_findings(levels: dict[str, Any] | None) -> Iterator[Finding]:
    """Noise levels at which held-out images have a larger loss than training images."""
    known = [
        row
        for row in (levels or {"levels": []})["levels"]
        if all(row.get(name) is not None for name in ("train", "heldout", "gap_error", "sigma"))
    ]
    worse = [
        row
        for row in known
        if row["heldout"] - row["train"] > max(0.2 * row["train"], 2 * row["gap_error"])
    ]
    if worse:
        row = max(worse, key=lambda row: row["heldout"] / row["train"])
        excess = row["heldout"] / row["train"]
        yield Finding(
            "overfitting at some noise levels",
            f"at {len(worse)} noise levels the held-out loss is above that of training images, by "
            f"{excess - 1:.0%} at sigma {row['sigma']:.3g}",
            "more images, augmentation, dropout or a smaller network; or stop earlier",
        )


def sample_findings(folder: Path, step: Which, train: np.ndarray) -> Iterator[Finding]:
    """Samples that are nearer to training images than training images are to each other."""
    path = folder / "samples" / f"step_{step}" / "samples.npz"
    if not path.exists() or len(train) < 3:
        return
    samples = read_npz(path, ["images"])["images"][:256]
    if samples.shape[1:] != train.shape[1:]:
        return
    real = train[: min(256, len(train) // 2)]
    typical = np.median(nearest_neighbors(real, train[len(real) :]).distances[:, 0])
    distance = nearest_neighbors(samples, train).distances[:, 0]
    share = float(np.mean(distance < 0.3 * typical))
    if share > 0.05:
        yield Finding(
            "samples repeat training images",
            f"{share:.0%} of {len(samples)} samples are nearer to a training image than a third of "
            f"the usual distance of two images, {typical:.3g} levels",
            "more images, augmentation, a smaller network or fewer steps; --mode report shows them",
        )
