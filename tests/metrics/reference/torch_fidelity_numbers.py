"""Makes torch_fidelity.json: what torch-fidelity says of synthetic features.

Needs torch and torch-fidelity. python tests/metrics/reference/torch_fidelity_numbers.py
"""

import importlib.metadata
import json
from pathlib import Path

import numpy as np

FILE = Path(__file__).with_name("torch_fidelity.json")
SPLITS, SUBSETS, SUBSET_SIZE, SEED = 5, 20, 60, 2020


def synthetic() -> dict[str, np.ndarray]:
    """Features of generated and real images, and logits of generated ones.

    They are always the same (legacy NumPy generator).
    """
    rng = np.random.RandomState(5)
    mixing = rng.normal(size=(24, 24)) / 3
    return {
        "generated": np.maximum(rng.normal(size=(203, 24)) @ mixing + 0.3, 0),
        "real": np.maximum(rng.normal(size=(257, 24)) @ mixing * 1.3 + 0.4, 0),
        "logits": 3 * rng.normal(size=(203, 12)),
        "few": rng.normal(size=(20, 24)) @ mixing,  # a covariance without full rank
    }


def numbers() -> dict:
    """What torch-fidelity makes of them; its first set is the generated one."""
    import torch
    from torch_fidelity import metric_fid, metric_isc, metric_kid, metric_prc

    f = {name: torch.from_numpy(values) for name, values in synthetic().items()}

    def fid(a, b):
        statistics = [metric_fid.fid_features_to_statistics(f[name]) for name in (a, b)]
        return metric_fid.fid_statistics_to_metric(*statistics, verbose=False)

    kid = metric_kid.kid_features_to_metric(
        f["generated"],
        f["real"],
        kid_subsets=SUBSETS,
        kid_subset_size=SUBSET_SIZE,
        rng_seed=SEED,
        verbose=False,
    )
    found = {
        **fid("generated", "real"),
        "frechet_inception_distance_few": fid("few", "real")["frechet_inception_distance"],
        **kid,
        **metric_isc.isc_features_to_metric(
            f["logits"], splits=SPLITS, shuffle=True, rng_seed=SEED
        ),
        **metric_prc.prc_features_to_metric(
            f["generated"],
            f["real"],
            prc_neighborhood=3,
            prc_batch_size=100,
            save_cpu_ram=False,
            verbose=False,
        ),
    }
    versions = {
        name: importlib.metadata.version(name) for name in ("torch-fidelity", "torch", "numpy")
    }
    sums = {name: float(values.sum()) for name, values in synthetic().items()}
    return {"versions": versions, "sums": sums, **found}


if __name__ == "__main__":
    FILE.write_text(json.dumps(numbers(), indent=1) + "\n")
