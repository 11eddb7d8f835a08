"""Score SDE: which SDE with which network (Song 2022, B.5.8 and appendix C).

The defaults are the published CIFAR-10 settings; `datasets.py` says what other data sets change.
"""

from typing import Any

import ml_collections

from score_sde.build.settings import defaults
from score_sde.recipes.datasets import DATASETS

NETWORKS: dict[str, dict[str, Any]] = {
    "ncsnpp": {"num_res_blocks": 4, "fir": True, "progressive_input": "residual"},
    "ddpmpp": {"num_res_blocks": 4, "fir": False, "progressive_input": "none"},
    "ddpm": {"num_res_blocks": 2, "up_attention": "last"},
}
LIKELIHOOD_STEPS = {"digits": 7000}
"""Where maximum-likelihood training lasts longer than the ordinary recipe's.

About 10 minutes on two CPU cores.
"""
_PLUS_PLUS: dict[str, Any] = {
    "fir_kernel": (1, 3, 3, 1),
    "resblock_type": "biggan",
    "skip_rescale": True,
    "progressive": "none",
    "progressive_combine": "sum",
    "embedding": "positional",
    "fourier_scale": 16.0,
    "init_scale": 0.0,
    "scale_by_sigma": False,
}


def config(
    sde: str,
    network: str,
    dataset: str,
    continuous: bool = True,
    deep: bool = False,
    likelihood: bool = False,
) -> ml_collections.ConfigDict:
    """The configuration of one recipe on one data set.

    Args:
        sde: "ve", "vp" or "subvp".
        network: "ncsnpp", "ddpmpp" or "ddpm".
        dataset: a key of `DATASETS`.
        continuous: continuous-time objective, else the discrete SMLD (VE) or DDPM (VP) one.
        deep: twice the residual blocks.
        likelihood: maximum-likelihood training, for "vp" and "subvp".
    """
    if dataset not in DATASETS:
        raise ValueError(
            f"unknown data set {dataset!r} after the colon; known: {', '.join(DATASETS)}"
        )
    ve = sde == "ve"
    recipe = network + ("_deep" if deep else "") + ("_cont" if continuous else "")
    recipe += "_lik" if likelihood else ""
    values = {
        "name": f"{sde}_{recipe}_{dataset}",
        "seed": 42,
        "sde": _sde(sde, continuous),
        "model": _model(network, ve, continuous),
        **defaults(),
    }
    values["data"] |= {"source": dataset, "centered": not ve}
    values["training"] |= _training(ve, deep or (continuous and network == "ncsnpp"))
    values["sampling"] |= _sampling(ve, continuous)
    override(values, DATASETS[dataset], network)
    if deep:
        values["model"]["num_res_blocks"] *= 2
    if likelihood:
        _likelihood(values, sde, dataset)
    return ml_collections.ConfigDict(values)


def _sde(sde: str, continuous: bool) -> dict:
    names = {"ve": ("smld", "ve"), "vp": ("ddpm", "vp"), "subvp": (None, "subvp")}
    parameters = (
        {"sigma_min": 0.01, "sigma_max": 50.0}
        if sde == "ve"
        else {"beta_min": 0.1, "beta_max": 20.0}
    )
    extra = {"t_min": 1e-5} if continuous else {"n": 1000}
    return {"name": names[sde][continuous]} | parameters | extra


def _model(network: str, ve: bool, continuous: bool) -> dict:
    shared: dict[str, Any] = {
        "name": "ddpm" if network == "ddpm" else "ncsnpp",
        "nf": 128,
        "ch_mult": (1, 2, 2, 2),
        "attn_resolutions": (16,),
        "resamp_with_conv": True,
        "dropout": 0.1,
        "activation": "swish",
        "dtype": "float32",
        "remat": False,
        "prediction": "noise",
    }
    model = shared | ({} if network == "ddpm" else _PLUS_PLUS) | NETWORKS[network]
    if ve and network == "ncsnpp":
        model |= {
            "prediction": "score",
            "scale_by_sigma": True,
            "embedding": "fourier" if continuous else "positional",
        }
    return model


def _training(ve: bool, shorter: bool) -> dict:
    changes = {"steps": 950_000 if shorter else 1_300_000}
    return changes | ({"reduce": "sum", "ema_rate": 0.999} if ve else {})


def _sampling(ve: bool, continuous: bool) -> dict:
    if ve:
        return {"corrector": "langevin", "t_end": 1e-5}
    return {
        "predictor": "euler_maruyama" if continuous else "ancestral",
        "snr": 0.01,
        "variance": "forward",
    }


def _likelihood(values: dict, sde: str, dataset: str) -> None:
    """ScoreFlow: likelihood weighting, importance-sampled times and dequantized images.

    Network, optimizer and length are those of chapter 7 (B.7.1). The length is 1.3 million steps,
    deep 950,000 (B.5.7, B.5.8), as in the released configurations. Times start at 1e-5 for VP and
    1e-2 for sub-VP (B.7.2), whose ODE is stiff below; its samplers end there too. ImageNet 32x32
    had `sde.t_min=5e-5` for VP and `model.dropout=0`. Source: Song 2022, 9.5 and B.7.
    """
    values["training"] |= {"likelihood_weighting": 1.0, "times": "log_snr"}
    values["training"]["steps"] = LIKELIHOOD_STEPS.get(dataset, values["training"]["steps"])
    values["data"]["dequantize"] = True
    if sde == "subvp":
        values["sde"]["t_min"] = values["sampling"]["t_end"] = 1e-2


def override(values: dict, changes: dict[str, dict], network: str) -> None:
    """Apply a data set's changes where the recipe has the key: sigma_max means nothing to VP.

    Progressive input and output are NCSN++'s alone: DDPM++ has none by definition (B.5.8).
    """
    for section, entries in changes.items():
        known = values[section]
        fits = {key: value for key, value in entries.items() if key in known}
        if network != "ncsnpp":
            fits = {key: value for key, value in fits.items() if not key.startswith("progressive")}
        known.update(fits)
    if network == "ddpm" and values["data"]["image_size"] == 256:
        # Published for DDPM at 256 pixels.
        values["model"]["ch_mult"] = (1, 1, 2, 2, 4, 4)
        values["optim"]["lr"] = 2e-5
    if network == "ddpm":  # widths are multiples of 32
        values["model"]["nf"] = max(32, values["model"]["nf"])
    if network == "ddpm" and values["data"]["image_size"] == 1024:
        values["model"]["ch_mult"] = (1, 1, 2, 4, 8, 16, 16, 16)
    if values["sde"]["name"] == "smld":  # published: as many noise levels as steps of the sampler
        values["sde"]["n"] = max(values["sde"]["n"], values["sampling"]["steps"])
    if values["sde"]["name"] == "ddpm":  # published: 1000 at every size
        values["sampling"]["steps"] = min(values["sampling"]["steps"], values["sde"]["n"])
