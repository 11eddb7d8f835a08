"""Variances of denoised images against the exact ones of the mixture of all training images.

    score-sde --mode uncertainty --workdir RUN --noise 0.5 --output OUT --config.eval.split=train
    python benchmarks/uncertainty.py --workdir RUN OUT [OUT ...]

OUT is a folder of --mode uncertainty, of images of the training set. If these images were all there
are, then p(x_0 | x_t) would give image i the weight exp(-|x_t - alpha x_i|^2/(2 sigma^2)), up to a
factor (dissertation, section 4.5.3). A model that generalizes is less sure than this mixture.
"""

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import jax
import jax.numpy as jnp
import numpy as np

from score_sde.data.sources import take
from score_sde.workdir.config import load_json
from score_sde.workdir.run import Run


def exact_variance(noisy: np.ndarray, images: np.ndarray, alpha: float, noise: float) -> np.ndarray:
    """Variance of each pixel of x_0 given x_t/alpha = noisy, where x_0 is one of `images`.

    noise is sigma/alpha. Shapes (n, ...), (m, ...) -> (n, ...).
    """

    @jax.jit
    def one(x):
        logits = -0.5 * jnp.sum(((x - flat) / noise) ** 2, axis=1)
        weights = jax.nn.softmax(logits)
        mean = weights @ flat
        return weights @ (flat - mean) ** 2

    flat = jnp.asarray(images.reshape(len(images), -1))
    rows = jnp.asarray(noisy.reshape(len(noisy), -1) / np.float32(alpha))
    return np.asarray(jax.lax.map(one, rows)).reshape(noisy.shape)


def compared(folder: Path, images: np.ndarray) -> dict[str, float]:
    """Correlations of the variances in `folder` with the exact ones, and the sizes of both."""
    about = json.loads((folder / "calibration.json").read_text())
    with np.load(folder / "uncertainty.npz") as file:
        noisy, variance = file["noisy"], file["variance"]
    exact = exact_variance(noisy, images, about["alpha"], about["noise"])
    each = [np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in zip(variance, exact, strict=True)]
    return {
        "noise": about["noise"],
        "images": len(noisy),
        "correlation": float(np.corrcoef(variance.ravel(), exact.ravel())[0, 1]),
        "correlation_of_mean_maps": float(
            np.corrcoef(variance.mean(axis=0).ravel(), exact.mean(axis=0).ravel())[0, 1]
        ),
        "correlation_in_an_image": float(np.nanmedian(each)),
        "trace": float(variance.reshape(len(variance), -1).sum(axis=1).mean()),
        "exact_trace": float(exact.reshape(len(exact), -1).sum(axis=1).mean()),
    }


def main() -> None:
    """Compare each folder; print a table and one JSON line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workdir", type=Path, required=True, help="the run")
    parser.add_argument("folders", type=Path, nargs="+", help="of --mode uncertainty")
    options = parser.parse_args()
    run = Run.of(load_json(options.workdir / "config.json"), options.workdir)
    source = run.source(train=True)
    levels = take(source, np.arange(len(source)))["image"]
    images = np.asarray(run.experiment.pixel_range.encode(levels))
    print(f"{'noise':>6}{'all':>8}{'maps':>8}{'image':>8}{'tr Cov':>10}{'exact':>10}")
    rows = [compared(folder, images) for folder in options.folders]
    for row in rows:
        print(
            f"{row['noise']:>6g}{row['correlation']:>8.3f}{row['correlation_of_mean_maps']:>8.3f}"
            f"{row['correlation_in_an_image']:>8.3f}{row['trace']:>10.3g}{row['exact_trace']:>10.3g}"
        )
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
