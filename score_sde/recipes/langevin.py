"""NCSN and NCSNv2: RefineNets over a ladder of noise levels, sampled by annealed Langevin dynamics.

The settings are published (Song 2022, B.3.2, B.4.1 and table B.9). Those of `mnist`, `digits` and
`folder` of NCSNv2 follow the same techniques (chapter 6), as `--mode suggest` computes them. Images
are in [0, 1].
"""

import copy
import math

import ml_collections

from score_sde.build.settings import defaults
from score_sde.recipes.datasets import DATASETS

SIGMA_MIN = 0.01
SIZES = {"church": 96, "bedroom": 128}
"""Where the images are smaller than those of Score SDE."""
LEVELS = {  # data set: sigma_max, number of levels, updates at each, step size at the smallest
    "digits": (4.8, 22, 20, 9.76e-6),
    "mnist": (16.0, 100, 5, 1.07e-5),
    "cifar10": (50.0, 232, 5, 6.2e-6),
    "celeba": (90.0, 500, 5, 3.3e-6),
    "church": (140.0, 788, 4, 4.9e-6),
    "bedroom": (190.0, 1086, 3, 1.8e-6),
    # The table prints 0.9e-7, the released configuration 9e-7, as eq. 6.4 gives.
    "ffhq_256": (348.0, 2311, 3, 9e-7),
    "folder": (50.0, 232, 5, 6.2e-6),
}
"""NCSNv2's. NCSN has (1.0, 10, 100, 2e-5) everywhere."""
STEPS = {
    "mnist": 200_000,
    "celeba": 210_000,
    "church": 200_000,
    "bedroom": 150_000,
    "ffhq_256": 80_000,
}
BATCH_SIZES = {("ncsn", "bedroom"): 64, ("ncsnv2", "ffhq_256"): 32}
NARROW = {"mnist": 64, "digits": 32}
"""Channels of the first level where they are not 128."""


def config(version: str, dataset: str) -> ml_collections.ConfigDict:
    """The configuration of "ncsn" or "ncsnv2" on one data set, a key of `LEVELS`."""
    if dataset not in LEVELS:
        raise ValueError(
            f"unknown data set {dataset!r} after the colon; known: {', '.join(LEVELS)}"
        )
    first = version == "ncsn"
    sigma_max, levels, updates, step_size = (1.0, 10, 100, 2e-5) if first else LEVELS[dataset]
    values = {
        "name": f"{version}_{dataset}",
        "seed": 42,
        "sde": {"name": "smld", "sigma_min": SIGMA_MIN, "sigma_max": sigma_max, "n": levels},
        "model": _model(first, dataset),
        **defaults(),
    }
    values["data"] |= {"source": dataset}
    values["optim"] |= {
        "lr": 1e-3 if first else 1e-4,
        "eps": 1e-3 if dataset == "ffhq_256" else 1e-8,
        "warmup": 0,
        "grad_clip": 0.0,
    }
    values["training"] |= {
        "batch_size": BATCH_SIZES.get((version, dataset), 128),
        "steps": STEPS.get(dataset, 300_000),
        "reduce": "sum",
        "ema_rate": 0.0 if first else 0.999,  # technique 6.5 is NCSNv2's
        "checkpoint_every": 5000,
        "keep_every": 5000,  # the best of these is chosen afterwards: --mode select
    }
    values["sampling"] |= {
        "predictor": "none",
        "corrector": "annealed_langevin",
        "snr": math.sqrt(step_size / 2) / SIGMA_MIN,
        "corrector_steps": updates,
        "steps": levels,
        "grid": "levels",
        "start": "uniform",
        "t_end": 0.0,
        "denoise": "none" if first else "tweedie",
        "frames": 10,
    }
    changes = copy.deepcopy(DATASETS[dataset])
    for section in ("data", "eval", "quality", "dequantizer"):
        values[section] |= changes.get(section, {})
    values["data"]["image_size"] = SIZES.get(dataset, values["data"]["image_size"])
    if dataset == "digits":
        _small(values)
    return ml_collections.ConfigDict(values)


def _model(first: bool, dataset: str) -> dict:
    size = SIZES.get(dataset, DATASETS[dataset]["data"]["image_size"])
    shared = {
        "name": "ncsn" if first else "ncsnv2",
        "nf": NARROW.get(dataset, 128),
        "variant": "64" if size <= 64 else "128" if size <= 128 else "256",
        "activation": "elu",
        "resize": "half_pixel",
        "channel_variance": "C",
        "narrowed": "third",
        "dtype": "float32",
        "remat": False,
        "prediction": "score",
    }
    return shared | ({"plus": True} if first else {"scale_by_sigma": True})


def _small(values: dict) -> None:
    """Digits: minutes of training on two CPU cores."""
    values["training"] |= {
        "batch_size": 64,
        "steps": 4000,
        "eval_every": 250,
        "checkpoint_every": 500,
        "keep_every": 500,
        "sample_every": 0,
    }
    values["optim"]["lr"] = 1e-3
    values["sampling"] |= {"num_samples": 500, "batch_size": 250}
