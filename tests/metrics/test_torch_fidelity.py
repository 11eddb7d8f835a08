"""The same numbers as torch-fidelity from the same features.

`reference/README.md` says how its numbers were made.
"""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

from score_sde.metrics import (
    Moments,
    ScoreSums,
    frechet_distance,
    kernel_distance,
    precision_recall,
)

FOLDER = Path(__file__).parent / "reference"
NUMBERS = json.loads((FOLDER / "torch_fidelity.json").read_text())


def module():
    spec = importlib.util.spec_from_file_location("numbers", FOLDER / "torch_fidelity_numbers.py")
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


MAKER = module()
FEATURES = MAKER.synthetic()


def test_features_are_the_ones_measured():
    assert {name: values.sum() for name, values in FEATURES.items()} == pytest.approx(
        NUMBERS["sums"], rel=1e-12
    )


@pytest.mark.parametrize(("first", "key"), [("generated", ""), ("few", "_few")])
def test_frechet(first, key):
    found = frechet_distance(Moments.of(FEATURES[first]), Moments.of(FEATURES["real"]))
    assert found == pytest.approx(NUMBERS["frechet_inception_distance" + key], rel=1e-7)


def test_kernel():
    """The mean over its random subsets, drawn from its seed in its order."""
    rng, values = np.random.RandomState(MAKER.SEED), []
    for _ in range(MAKER.SUBSETS):
        picked = [
            FEATURES[name][rng.choice(len(FEATURES[name]), MAKER.SUBSET_SIZE, replace=False)]
            for name in ("generated", "real")
        ]
        values.append(kernel_distance(*picked).value)
    assert np.mean(values) == pytest.approx(NUMBERS["kernel_inception_distance_mean"], rel=1e-10)
    assert np.std(values) == pytest.approx(NUMBERS["kernel_inception_distance_std"], rel=1e-10)
    whole = kernel_distance(FEATURES["generated"], FEATURES["real"])
    error = np.hypot(whole.standard_error, np.std(values) / np.sqrt(MAKER.SUBSETS))
    assert abs(whole.value - np.mean(values)) < 3 * error


def test_inception_score():
    logits = FEATURES["logits"][
        np.random.RandomState(MAKER.SEED).permutation(len(FEATURES["logits"]))
    ]
    cuts = np.arange(MAKER.SPLITS + 1) * len(logits) // MAKER.SPLITS
    split = np.repeat(np.arange(MAKER.SPLITS), np.diff(cuts))
    mean, deviation = ScoreSums.of(logits, split, MAKER.SPLITS).score()
    assert mean == pytest.approx(NUMBERS["inception_score_mean"], rel=1e-10)
    assert deviation == pytest.approx(NUMBERS["inception_score_std"], rel=1e-8)


def test_precision_and_recall():
    found = precision_recall(FEATURES["real"], FEATURES["generated"], k=3)
    wanted = NUMBERS["precision"], NUMBERS["recall"]
    assert abs(wanted[0] - wanted[1]) > 0.1  # else an exchange would not be seen
    assert found == pytest.approx(wanted, rel=1e-6)


def test_numbers_are_still_those_of_torch_fidelity():
    pytest.importorskip("torch_fidelity")
    found = MAKER.numbers()
    assert {k: found[k] for k in found if k != "versions"} == {
        k: pytest.approx(v, rel=1e-6) for k, v in NUMBERS.items() if k != "versions"
    }
