"""What each data set changes in a recipe: the images, and sizes of everything that fit them.

Settings of CelebA 64 and of the sets of 256 and 1024 pixels are published. They are in Song 2022,
B.5.7 and B.5.8, and in the configurations released with Score SDE. Those of CIFAR-10 are in
`sde.py`. Those of `digits`, `mnist` and `folder` are this library's own choices.
"""

from score_sde.recipes.scans import SCANS

_HIGH_RESOLUTION: dict[str, dict] = {
    "model": {
        "ch_mult": (1, 1, 2, 2, 2, 2, 2),
        "num_res_blocks": 2,
        "dropout": 0.0,
        "progressive": "output_skip",
        "progressive_input": "input_skip",
    },
    "training": {"batch_size": 64, "steps": 2_400_000},
    "sampling": {"steps": 2000, "snr": 0.075, "batch_size": 8},
    "eval": {"batch_size": 64},
    "dequantizer": {"heads": 0, "batch_size": 64},
}

_MEGAPIXEL: dict[str, dict] = {
    "sde": {"sigma_max": 1348.0},
    "model": _HIGH_RESOLUTION["model"]
    | {"nf": 16, "ch_mult": (1, 2, 4, 8, 16, 32, 32, 32), "num_res_blocks": 1},
    "training": {"batch_size": 8, "steps": 2_400_000, "ema_rate": 0.9999},
    "sampling": {"steps": 2000, "snr": 0.15, "batch_size": 4},
    "eval": {"batch_size": 8},
    "dequantizer": {"heads": 0, "batch_size": 8},
}

DATASETS: dict[str, dict[str, dict]] = {
    "digits": {
        "data": {"image_size": 8, "channels": 1, "levels": 17, "random_flip": False},
        "sde": {"sigma_max": 10.0},
        "model": {
            "nf": 32,
            "ch_mult": (1, 2),
            "num_res_blocks": 1,
            "attn_resolutions": (4,),
            "dropout": 0.1,
        },
        "optim": {"lr": 1e-3, "warmup": 200},
        "training": {
            "batch_size": 64,
            "steps": 2500,
            "ema_rate": 0.999,
            "log_every": 50,
            "eval_every": 250,
            "checkpoint_every": 500,
            "keep_every": 0,
            "sample_every": 0,
        },
        "sampling": {
            "corrector": "langevin",
            "snr": 0.16,
            "steps": 100,
            "num_samples": 500,
            "batch_size": 250,
        },
        "eval": {"batch_size": 360},
        "quality": {"extractor": "digits", "num_samples": 1437},
        "dequantizer": {
            "filters": 32,
            "components": 4,
            "blocks": 1,
            "heads": 2,
            "context_filters": 16,
            "context_layers": 2,
            "batch_size": 64,
            "steps": 2000,
            "lr": 1e-3,
            "eval_every": 250,
            "checkpoint_every": 500,
        },
        "classifier": {
            "depth": 10,
            "widen": 2,
            "nf": 32,
            "batch_size": 64,
            "steps": 2000,
            "lr": 1e-3,
            "eval_every": 250,
            "checkpoint_every": 500,
        },
        "second_order": {
            "form": "full",
            "nf": 32,
            "ch_mult": (1, 2),
            "batch_size": 64,
            "steps": 4000,
            "lr": 1e-3,
            "eval_every": 250,
            "checkpoint_every": 500,
        },
    },
    "mnist": {
        "data": {"image_size": 28, "channels": 1, "random_flip": False},
        "sde": {"sigma_max": 28.0},
        "model": {
            "nf": 32,
            "ch_mult": (1, 2, 2),
            "num_res_blocks": 2,
            "attn_resolutions": (7,),
            "dropout": 0.1,
        },
        "optim": {"lr": 1e-3, "warmup": 500},
        "training": {
            "batch_size": 64,
            "steps": 20_000,
            "ema_rate": 0.999,
            "log_every": 50,
            "eval_every": 1000,
            "checkpoint_every": 1000,
            "keep_every": 10_000,
            "sample_every": 5000,
        },
        "sampling": {"steps": 250, "num_samples": 100, "batch_size": 100},
        "eval": {"batch_size": 256, "num_examples": 2048},
        "quality": {"extractor": "mnist", "num_samples": 10_000},
        "dequantizer": {
            "filters": 32,
            "components": 4,
            "blocks": 1,
            "heads": 0,
            "context_filters": 16,
            "context_layers": 2,
            "batch_size": 64,
            "steps": 5000,
            "lr": 1e-3,
            "eval_every": 1000,
            "checkpoint_every": 1000,
        },
        "classifier": {
            "depth": 10,
            "widen": 2,
            "nf": 32,
            "steps": 5000,
            "lr": 1e-3,
            "eval_every": 1000,
            "checkpoint_every": 1000,
        },
        "second_order": {
            "nf": 32,
            "batch_size": 64,
            "steps": 5000,
            "lr": 1e-3,
            "eval_every": 1000,
            "checkpoint_every": 1000,
        },
    },
    "cifar10": {"data": {"image_size": 32, "channels": 3}},
    "folder": {
        "data": {"image_size": 0, "channels": 0},
        "sampling": {"num_samples": 64, "batch_size": 64},
        "eval": {"batch_size": 128},
    },
    "celeba": {
        "data": {
            "image_size": 64,
            "channels": 3,
            "source": "celeb_a",
            "crop": 140,
            "test_split": "validation",
        },
        "sde": {"sigma_max": 90.0},
        "sampling": {"snr": 0.17},
        "dequantizer": {"heads": 0},
        "eval": {"batch_size": 256},
    },
    "church": _HIGH_RESOLUTION
    | {
        "data": {
            "image_size": 256,
            "channels": 3,
            "source": "lsun/church_outdoor",
            "test_split": "validation",
        },
        "sde": {"sigma_max": 380.0},
    },
    "bedroom": _HIGH_RESOLUTION
    | {
        "data": {
            "image_size": 256,
            "channels": 3,
            "source": "lsun/bedroom",
            "test_split": "validation",
        },
        "sde": {"sigma_max": 378.0},
    },
    "celebahq_256": _HIGH_RESOLUTION
    | {"data": {"image_size": 256, "channels": 3, "source": "folder"}, "sde": {"sigma_max": 348.0}},
    "ffhq_256": _HIGH_RESOLUTION
    | {"data": {"image_size": 256, "channels": 3, "source": "folder"}, "sde": {"sigma_max": 348.0}},
    "celebahq_1024": _MEGAPIXEL | {"data": {"image_size": 1024, "channels": 3, "source": "folder"}},
    "ffhq_1024": _MEGAPIXEL | {"data": {"image_size": 1024, "channels": 3, "source": "folder"}},
    **SCANS,
}
