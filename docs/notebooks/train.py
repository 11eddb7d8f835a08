# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Train, sample, look
#
# A small DDPM++ on the 8 x 8 digits of scikit-learn. What the commands `train` and `sample` do is
# here in Python: settings, a run, and the files that it leaves. 600 small steps are two minutes of
# a laptop. They see an eighth of the images that the recipe shows, so expect rough digits.

# %%
import json
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from score_sde import run_lib
from score_sde.data import digits, take
from score_sde.viz import image_grid
from score_sde.workdir import config

folder = Path("digits_run")
settings = config.load("vp/ddpmpp_cont:digits")
changes = {
    "training.steps": "600",
    "training.batch_size": "32",
    "training.eval_every": "100",
    "training.checkpoint_every": "600",
    "optim.warmup": "50",
    "training.ema_rate": "0.98",
}
settings = config.override(settings, list(changes.items()))

# %% [markdown]
# ## Train
#
# The same call goes on where it was stopped. `metrics.jsonl` has a row for every 50 steps.

# %%
run_lib.train(settings, folder)
rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
losses = {row["step"]: row["loss"] for row in rows if "loss" in row}
heldout = {row["step"]: row["eval_loss"] for row in rows if "eval_loss" in row}
print(f"loss at step {min(losses)}: {losses[min(losses)]:.2f}, at the end {losses[600]:.2f}")
print(f"held-out loss at the end: {heldout[600]:.2f}")

# %% [markdown]
# ## Sample
#
# UniPC needs 20 evaluations of the network. The checkpoint has the averaged weights.

# %%
fast = {
    "sampling.predictor": "unipc",
    "sampling.corrector": "none",
    "sampling.grid": "log_snr",
    "sampling.steps": "19",
    "sampling.num_samples": "100",
}
run_lib.sample(config.override(settings, list(fast.items())), folder)
with np.load(next(folder.glob("samples/*/samples.npz"))) as file:
    samples = file["images"].astype(float)
real = take(digits("test"), np.arange(297))["image"].astype(float)

# %% [markdown]
# ## Look
#
# Samples beside real digits, and the mean grey of each pixel: a model that has learned anything
# has the same.

# %%
kept = np.corrcoef(samples.mean(axis=0).ravel(), real.mean(axis=0).ravel())[0, 1]
print(f"mean images correlate: {kept:.3f}")
print(f"spread of pixels: samples {samples.std():.2f}, real {real.std():.2f}")

figure, axes = plt.subplots(1, 3, figsize=(11, 4))
for axis, images, name in zip(axes, (samples, real), ("samples", "real"), strict=False):
    axis.imshow(image_grid(images[:64] / 16))
    axis.set_title(name)
    axis.axis("off")
axes[2].plot(list(losses), list(losses.values()), label="training")
axes[2].plot(list(heldout), list(heldout.values()), "o", label="held out")
axes[2].set(xlabel="step", ylabel="loss")
axes[2].legend()
figure.tight_layout()
figure.savefig("train.png", dpi=120)
