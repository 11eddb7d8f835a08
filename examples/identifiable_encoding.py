"""Uniquely identifiable encoding: two networks, trained apart, give an image the same latent code.

The probability-flow ODE has no parameters but the score, which the data alone decide. So whoever
learns it well finds the same code (dissertation B.5.4, figures B.41 and B.42). From the repository
root:

    python examples/identifiable_encoding.py [--steps 2500] [--output runs/identifiable_encoding]

trains DDPM++ and DDPM on scikit-learn's digits with different seeds, some minutes each on two CPU
cores, and encodes held-out images with both. Stopped, it goes on where it was. Entries of both
configurations can be set as NAME=VALUE.
"""

import argparse
import sys
from pathlib import Path

import jax
import numpy as np
from matplotlib.figure import Figure

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from score_sde.data import pipeline
from score_sde.flow import Flow
from score_sde.modes import train
from score_sde.workdir import config as configurations
from score_sde.workdir.run import Run

RECIPES = {"DDPM++": ("vp/ddpmpp_cont:digits", 1), "DDPM": ("vp/ddpm_cont:digits", 2)}
"""Network: (recipe, seed)."""


def encodings(
    recipe: str, seed: int, workdir: Path, images: int, overrides: list[str]
) -> np.ndarray:
    """Latent codes (images, D) of the first held-out images by a model trained in `workdir`."""
    entries = [f"seed={seed}", "data.dequantize=True", *overrides]
    changes = [(name, text) for name, _, text in (word.partition("=") for word in entries)]
    run = Run.of(configurations.override(configurations.load(recipe), changes), workdir)
    train.main(run)
    experiment, (params, step) = run.experiment, run.weights()
    if step < run.settings.training.steps:
        sys.exit(f"error: {workdir} stopped at step {step}; the same command goes on from there")
    source = run.source(train=False)
    # Seed 0 for every model: the same dequantization noise.
    batches = pipeline.Batches(
        source, experiment.pixel_range, images, 0, train=False, dequantize=True
    )
    flow, model = Flow(experiment.process), experiment.model
    encode = jax.jit(lambda params, x: flow.encode(model.score_fn(params), x))
    solution = encode(params, batches[0].image)
    assert solution.success.all()
    return np.asarray(solution.state).reshape(images, -1)


def compare(a: np.ndarray, b: np.ndarray) -> dict[str, float]:
    """Correlation and root mean square difference between codes.

    Those of the same images, and of different ones.
    """
    others = np.roll(b, 1, axis=0)
    return {
        "correlation": float(np.corrcoef(a.ravel(), b.ravel())[0, 1]),
        "correlation, different images": float(np.corrcoef(a.ravel(), others.ravel())[0, 1]),
        "difference": float(np.sqrt(np.mean((a - b) ** 2))),
        "difference, different images": float(np.sqrt(np.mean((a - others) ** 2))),
    }


def draw(a: np.ndarray, b: np.ndarray, path: Path) -> None:
    """The codes of one image (figure B.41), and how both models differ (figure B.42).

    The differences are over all dimensions; the correlations are those in each dimension.
    """
    figure = Figure(figsize=(10, 5.5), layout="constrained")
    axes = figure.subplot_mosaic([["code", "code"], ["difference", "correlation"]])
    for (name, marker), code in zip([("A", "o"), ("B", "x")], (a, b)):
        axes["code"].plot(code[0, :64], marker, label=f"model {name}: {list(RECIPES)[name == 'B']}")
    axes["code"].set(title="Code of one held-out image", xlabel="dimension", ylabel="value")
    axes["code"].legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2, frameon=False)
    for other, label in ((b, "same image"), (np.roll(b, 1, axis=0), "different images")):
        axes["difference"].hist((a - other).ravel(), np.linspace(-4, 4, 81), alpha=0.6, label=label)
    axes["difference"].set(title="A - B, all dimensions and images", xlabel="difference")
    axes["difference"].legend()
    correlations = [np.corrcoef(x, y)[0, 1] for x, y in zip(a.T, b.T)]
    axes["correlation"].plot(correlations, "o")
    axes["correlation"].set(
        title="Correlation of A and B over images", xlabel="dimension", ylim=(-0.2, 1.05)
    )
    figure.savefig(path, dpi=75)


def main(arguments: list[str] | None = None) -> dict[str, float]:
    """Train both models, encode with both, print and draw the comparison."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=2500, help="training steps of each model")
    parser.add_argument("--images", type=int, default=64, help="held-out images to encode")
    parser.add_argument("--output", type=Path, default=Path("runs/identifiable_encoding"))
    parser.add_argument("overrides", nargs="*", metavar="NAME=VALUE", help="like model.nf=16")
    options = parser.parse_args(arguments)
    overrides = [f"training.steps={options.steps}", *options.overrides]
    a, b = (
        encodings(recipe, seed, options.output / name, options.images, overrides)
        for name, (recipe, seed) in RECIPES.items()
    )
    result = compare(a, b)
    for name, value in result.items():
        print(f"{name:<30} {value:.4f}")
    draw(a, b, options.output / "encodings.png")
    print(f"picture: {options.output / 'encodings.png'}")
    return result


if __name__ == "__main__":
    main()
