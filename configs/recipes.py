"""The recipes: which SDE with which network. Each file in ve/, vp/ and subvp/ names one of them; `langevin.py` has others.

Defaults are the published CIFAR-10 settings (Song 2022, B.5.8 and appendix C); `datasets.py` says what other data sets change.
"""

import ml_collections

from configs.datasets import DATASETS

NETWORKS = {
    "ncsnpp": {"num_res_blocks": 4, "fir": True, "progressive_input": "residual"},
    "ddpmpp": {"num_res_blocks": 4, "fir": False, "progressive_input": "none"},
    "ddpm": {"num_res_blocks": 2},
}
LIKELIHOOD_STEPS = {"digits": 7000}
"""Where maximum-likelihood training lasts longer than the ordinary recipe's: about 10 minutes on two CPU cores."""
_PLUS_PLUS = {
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
        raise ValueError(f"unknown data set {dataset!r} after the colon; known: {', '.join(DATASETS)}")
    ve = sde == "ve"
    recipe = network + ("_deep" if deep else "") + ("_cont" if continuous else "")
    recipe += "_lik" if likelihood else ""
    values = {
        "name": f"{sde}_{recipe}_{dataset}",
        "seed": 42,
        "sde": _sde(sde, continuous),
        "model": _model(network, ve, continuous),
        "data": data(dataset, centered=not ve),
        "optim": {
            "lr": 2e-4,
            "beta1": 0.9,
            "eps": 1e-8,
            "weight_decay": 0.0,
            "warmup": 5000,
            "grad_clip": 1.0,
        },
        "training": _training(ve, deep or (continuous and network == "ncsnpp")),
        "sampling": _sampling(ve, continuous),
        "eval": evaluation(),
        "quality": quality(),
        "dequantizer": dequantizer(),
    }
    _override(values, DATASETS[dataset], network)
    if deep:
        values["model"]["num_res_blocks"] *= 2
    if likelihood:
        _likelihood(values, sde, dataset)
    return ml_collections.ConfigDict(values)


def evaluation() -> dict:
    """The section eval of every recipe."""
    return {
        "metrics": "loss,levels",
        "batch_size": 1024,
        "num_examples": 0,
        "passes": 1,
        "split": "test",
        "probes": 1,
        "solver": "dopri5",
        "rtol": 1e-4,
        "atol": 1e-4,
        "variable": "t",
        "bits_tol": 1e-4,
        "bound_draws": 0,
        "dequantization": "uniform",
    }


def quality() -> dict:
    """The section quality of every recipe: published numbers are of 50,000 samples and Inception's features."""
    return {"extractor": "inception", "weights": "", "reference": "", "num_samples": 50_000, "seeds": 1}


def dequantizer() -> dict:
    """The section dequantizer of every recipe."""
    return {
        "filters": 96,
        "components": 32,
        "blocks": 2,
        "heads": 4,
        "couplings": 4,
        "context_filters": 32,
        "context_layers": 3,
        "context_heads": 0,
        "mix_channels": True,
        "activate_output": False,
        "batch_size": 128,
        "steps": 300_000,
        "lr": 2e-4,
        "log_every": 50,
        "eval_every": 5000,
        "checkpoint_every": 10_000,
    }


def _sde(sde: str, continuous: bool) -> dict:
    names = {"ve": ("smld", "ve"), "vp": ("ddpm", "vp"), "subvp": (None, "subvp")}
    parameters = (
        {"sigma_min": 0.01, "sigma_max": 50.0} if sde == "ve" else {"beta_min": 0.1, "beta_max": 20.0}
    )
    extra = {"t_min": 1e-5} if continuous else {"n": 1000}
    return {"name": names[sde][continuous]} | parameters | extra


def _model(network: str, ve: bool, continuous: bool) -> dict:
    shared = {
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


def data(dataset: str, centered: bool) -> dict:
    """The section data of every recipe; `datasets.py` gives the sizes."""
    return {
        "source": dataset,
        "path": "",
        "image_size": 0,
        "channels": 0,
        "levels": 256,
        "centered": centered,
        "random_flip": True,
        "dequantize": False,
        "crop": 0,
        "train_split": "train",
        "test_split": "test",
        "skip_bad": False,
        "in_memory": True,
    }


def _training(ve: bool, shorter: bool) -> dict:
    return {
        "batch_size": 128,
        "steps": 950_000 if shorter else 1_300_000,
        "steps_per_call": 1,
        "likelihood_weighting": 0.0,
        "times": "uniform",
        "reduce": "sum" if ve else "mean",
        "ema_rate": 0.999 if ve else 0.9999,
        "ema_warmup": True,
        "log_every": 50,
        "eval_every": 5000,
        "sample_every": 50_000,
        "checkpoint_every": 10_000,
        "keep": 2,
        "keep_every": 50_000,
        "quality_every": 0,
        "quality_samples": 1000,
    }


def _sampling(ve: bool, continuous: bool) -> dict:
    return {
        "predictor": "reverse_diffusion" if ve else ("euler_maruyama" if continuous else "ancestral"),
        "corrector": "langevin" if ve else "none",
        "snr": 0.16 if ve else 0.01,
        "corrector_steps": 1,
        "norm": "sample",
        "variance": "posterior" if ve else "forward",
        "steps": 1000,
        "grid": "uniform",
        "start": "prior",
        "t_end": 1e-5 if ve else 1e-3,
        "denoise": "tweedie",
        "compat": "none",
        "num_samples": 64,
        "batch_size": 64,
        "frames": 40,
    }


def _likelihood(values: dict, sde: str, dataset: str) -> None:
    """Likelihood weighting with importance-sampled times, and dequantized images: ScoreFlow (Song 2022, 9.5, B.7).

    Network, optimizer and length are those of chapter 7 (B.7.1): 1.3 million steps, deep 950,000 (B.5.7, B.5.8), as in the
    released configurations. Times start at 1e-5 for VP and 1e-2 for sub-VP (B.7.2), whose ODE is stiff below, and so end
    its samplers. ImageNet 32x32 had `sde.t_min=5e-5` for VP and `model.dropout=0`.
    """
    values["training"] |= {"likelihood_weighting": 1.0, "times": "log_snr"}
    values["training"]["steps"] = LIKELIHOOD_STEPS.get(dataset, values["training"]["steps"])
    values["data"]["dequantize"] = True
    if sde == "subvp":
        values["sde"]["t_min"] = values["sampling"]["t_end"] = 1e-2


def _override(values: dict, changes: dict[str, dict], network: str) -> None:
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
        values["model"]["ch_mult"] = (1, 1, 2, 2, 4, 4)  # published for DDPM at 256 pixels, with lr 2e-5
        values["optim"]["lr"] = 2e-5
    if network == "ddpm" and values["data"]["image_size"] == 1024:
        values["model"] |= {"nf": 32, "ch_mult": (1, 1, 2, 4, 8, 16, 16, 16)}  # widths are multiples of 32
    if values["sde"]["name"] == "smld":  # published: as many noise levels as steps of the sampler
        values["sde"]["n"] = max(values["sde"]["n"], values["sampling"]["steps"])
    if values["sde"]["name"] == "ddpm":  # published: 1000 at every size
        values["sampling"]["steps"] = min(values["sampling"]["steps"], values["sde"]["n"])
