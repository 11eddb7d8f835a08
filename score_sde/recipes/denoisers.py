"""EDM and flow matching: other losses, processes and samplers around the networks of Score SDE.

The settings of EDM are those of its best models (Karras et al. 2022, table 7): of CIFAR-10, and for
larger images of FFHQ at 64 x 64. Data sets that need others keep theirs (`datasets.py`).
"""

import ml_collections

from score_sde.build.settings import defaults
from score_sde.recipes import sde
from score_sde.recipes.datasets import DATASETS

IMAGES = 200_000_000
"""Images that EDM is trained on."""
WARMUP = 10_000_000
"""Images until the full learning rate."""
HALF_LIFE = 500_000
"""Images after which a step has half its weight in the average of the weights."""
STD = {"digits": 0.75, "mnist": 0.62}
"""Standard deviation of pixel values in [-1, 1] where it is not near EDM's 0.5."""
GREY = ("digits", "mnist")
"""Sets that are not augmented: their classes do not survive rotations, and networks are small."""


def edm(network: str, dataset: str) -> ml_collections.ConfigDict:
    """EDM's training of "ddpmpp" or "ncsnpp" (called "VP" and "VE" there) on one data set.

    EDM's network has three levels for 32 x 32 images, and blocks that differ a little from those
    here. Its average grows with training at first; here it is warmed up as elsewhere.
    """
    values = sde.config("vp", network, dataset).to_dict()
    small = values["data"]["image_size"] <= 32
    batch = DATASETS[dataset].get("training", {}).get("batch_size", 512 if small else 256)
    values["name"] = f"edm_{network}_{dataset}"
    values["sde"] = {"name": "edm", "t_min": 0.002, "t_max": 80.0}
    values["model"] |= {
        "prediction": "edm",
        "ch_mult": (2, 2, 2) if small else (1, 2, 2, 2),
        "dropout": 0.13 if small else 0.05,
        "embedding": "fourier" if network == "ncsnpp" else "positional",
    }
    values["data"] |= {"std": STD.get(dataset, 0.5)}
    if dataset not in GREY:  # the mirror images are those of the augmentation then
        values["data"] |= {"augment": 0.12 if small else 0.15, "random_flip": False}
    values["optim"] |= {
        "lr": 1e-3 if small else 2e-4,
        "warmup": WARMUP // batch,
        "grad_clip": 0.0,
    }
    values["training"] |= {
        "batch_size": batch,
        "steps": IMAGES // batch,
        "weight": "edm",
        "times": "log_normal",
        "reduce": "sum",
        "ema_rate": 0.5 ** (batch / HALF_LIFE),
    }
    sde.override(values, DATASETS[dataset], network)
    # EDM's own sampler: 17 steps of two evaluations, and one to the clean image.
    return _sampled(values, predictor="heun", grid="karras", steps=17, t_end=0.002)


def straight(dataset: str) -> ml_collections.ConfigDict:
    """Flow matching with DDPM++ on one data set: Lipman et al. 2023, Liu et al. 2023.

    Network, optimizer and length are those of `vp/ddpmpp_cont`.
    """
    values = sde.config("vp", "ddpmpp", dataset).to_dict()
    values["name"] = f"straight_ddpmpp_{dataset}"
    values["sde"] = {"name": "straight", "t_min": 1e-3, "t_max": 0.9995}
    values["model"] |= {"prediction": "velocity"}
    values["training"] |= {"weight": "output"}
    return _sampled(values, predictor="heun", grid="log_snr", steps=17, t_end=1e-3)


def _sampled(values: dict, **sampling) -> ml_collections.ConfigDict:
    """The configuration with a sampler without corrector, whatever the data set has."""
    usual = defaults()["sampling"]
    for name in ("corrector", "snr", "variance"):
        values["sampling"][name] = usual[name]
    values["sampling"] |= sampling
    return ml_collections.ConfigDict(values)
