"""Data sets of scans: what they change in a recipe.

`brats`, `lidc_320`, `ldct_512` and `ct_128` have the networks and the samplers' numbers (`snr`,
`inverse.strength`) that were released with Song et al. 2022, "Solving Inverse Problems in Medical
Imaging with Score-Based Generative Models". The first three are folders that `--mode prepare`
wrote, the last is a folder of pictures: `data.path` names them. `phantoms` are this library's own.
"""

_PHANTOMS: dict[str, dict] = {
    "data": {
        "channels": 1,
        "levels": 65_536,
        "source": "phantoms",
        "random_flip": True,
        "in_memory": False,
    },
    "model": {
        "nf": 16,
        "ch_mult": (1, 2, 2),
        "num_res_blocks": 1,
        "attn_resolutions": (8,),
        "dropout": 0.0,
    },
    "optim": {"lr": 1e-3, "warmup": 200},
    "training": {
        "batch_size": 16,
        "steps": 4000,
        "ema_rate": 0.999,
        "log_every": 50,
        "eval_every": 500,
        "checkpoint_every": 1000,
        "keep_every": 0,
        "sample_every": 0,
    },
    "sampling": {"steps": 200, "num_samples": 64, "batch_size": 64},
    "eval": {"batch_size": 64, "num_examples": 256},
    "quality": {"extractor": "pixels", "num_samples": 1000},
}

_PUBLISHED: dict[str, dict] = {
    "data": {"channels": 1, "levels": 65_536, "source": "prepared", "random_flip": False},
    "model": {
        "nf": 32,
        "ch_mult": (1, 1, 2, 2, 2, 2, 2),
        "num_res_blocks": 2,
        "attn_resolutions": (20,),
        "dropout": 0.0,
        "progressive": "output_skip",
        "progressive_input": "input_skip",
    },
    "training": {"batch_size": 64, "steps": 2_400_000},
    "sampling": {"steps": 1000, "batch_size": 8},
    "eval": {"batch_size": 64},
    "dequantizer": {"heads": 0, "batch_size": 64},
}


SCANS: dict[str, dict[str, dict]] = {
    "phantoms": _PHANTOMS
    | {"data": _PHANTOMS["data"] | {"image_size": 32}, "sde": {"sigma_max": 16.0}},
    "phantoms_64": _PHANTOMS
    | {
        "data": _PHANTOMS["data"] | {"image_size": 64},
        "sde": {"sigma_max": 32.0},
        "model": _PHANTOMS["model"] | {"nf": 32, "ch_mult": (1, 2, 2, 2)},
        "training": _PHANTOMS["training"] | {"steps": 50_000, "checkpoint_every": 5000},
    },
    "brats": _PUBLISHED
    | {
        "data": _PUBLISHED["data"] | {"image_size": 240},
        "sde": {"sigma_max": 128.0},
        "model": _PUBLISHED["model"] | {"ch_mult": (1, 1, 2, 2, 2), "attn_resolutions": (30,)},
        "sampling": _PUBLISHED["sampling"] | {"snr": 0.517},
        "inverse": {
            "task": "mri",
            "kspace": "published",
            "acceleration": 8.0,
            "solver": "projection",
        },
    },
    "lidc_320": _PUBLISHED
    | {
        "data": _PUBLISHED["data"] | {"image_size": 320},
        "sde": {"sigma_max": 128.0},
        "sampling": _PUBLISHED["sampling"] | {"snr": 0.246},
        "inverse": {"task": "ct", "views": 23, "solver": "projection", "strength": 0.841},
    },
    "ldct_512": _PUBLISHED
    | {
        "data": _PUBLISHED["data"] | {"image_size": 512},
        "sde": {"sigma_max": 220.0},
        "model": _PUBLISHED["model"]
        | {
            "nf": 16,
            "ch_mult": (1, 2, 4, 8, 16, 32, 32),
            "num_res_blocks": 1,
            "attn_resolutions": (16,),
        },
        "training": _PUBLISHED["training"] | {"batch_size": 16, "ema_rate": 0.9999},
        "sampling": _PUBLISHED["sampling"] | {"snr": 0.4},
        "eval": {"batch_size": 16},
        "inverse": {"task": "ct", "views": 23, "solver": "projection", "strength": 0.72},
    },
    "ct_128": _PUBLISHED
    | {
        "data": _PUBLISHED["data"] | {"image_size": 128, "levels": 256, "source": "folder"},
        "sde": {"sigma_max": 55.0},
        "model": _PUBLISHED["model"]
        | {"nf": 64, "ch_mult": (1, 1, 2, 2, 2, 2), "attn_resolutions": (16,)},
        "inverse": {"task": "ct", "solver": "projection"},
    },
}
