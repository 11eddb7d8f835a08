"""How far reconstructions of scans are from the best possible ones, which are known here.

    python benchmarks/bayes_gap.py [--problem kspace] [--images 32] [--samples 16] [--budget 300]

The data are a mixture of three Gaussians with full covariances: one fitted to each kind of phantom,
16 x 16 pixels. So the exact posterior of a measurement is known, and its mean has the highest PSNR
that there is. Tomography has 8 views, k-space a quarter of its columns; noise is 0.01 of the range
of the images. Each solver draws some samples with the exact score, at equal costs, as in
`inverse.py`. An exact sampler loses 10 log10(1 + 1/samples) dB, as few samples have another mean.
Images of the mixture are not cut to [0, 1], and neither are reconstructions. The pseudo-inverse of
views takes conjugate gradients, so projection and DDNM need some ten minutes there on two cores.
"""

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.inverse import Problem, oracle, samples
from score_sde import inverse
from score_sde.analytic import GaussianMixture
from score_sde.data.phantoms import KINDS, phantom
from score_sde.errors import UserError
from score_sde.inverse.ct import parallel_beam
from score_sde.solvers import SOLVERS

SIZE, STD = 16, 0.01
ROWS = {
    "MMPS, 4 steps": ("mmps", {"steps": 4}),
    "PiGDM": ("pigdm", {"data_std": 0.5}),
    "DPS": ("dps", {"data_std": 0.5}),
    "projection": ("projection", {}),
    "projection, lambda 0.8": ("projection", {"strength": 0.8}),
    "DDNM": ("ddnm", {}),
    "DiffPIR": ("diffpir", {}),
}
"""What a row is called, its solver and options."""


def fitted(count: int = 1500) -> GaussianMixture:
    """A Gaussian for each kind of phantom, `count` of each, in [-1, 1]; 1e-4 on the diagonals."""
    means, covariances = [], []
    for kind in range(len(KINDS)):
        numbers = range(kind, len(KINDS) * count, len(KINDS))
        images = 2 * np.stack([phantom(i).draw(SIZE) for i in numbers]) - 1
        means.append(images.mean(axis=0)[..., None])
        covariances.append(np.cov(images.reshape(count, -1).T) + 1e-4 * np.eye(SIZE**2))
    return GaussianMixture.full([1 / 3] * 3, np.stack(means), np.stack(covariances))


def problems() -> dict[str, Problem]:
    """By name. Noise of images in [-1, 1] is twice that of images in [0, 1]."""
    data, event = fitted(), (SIZE, SIZE, 1)
    mask = inverse.fastmri_equispaced(SIZE, SIZE, 4.0, 0.125)
    return {
        "views": Problem(data, parallel_beam(event, 8), 2 * STD),
        "kspace": Problem(data, inverse.single_coil(event, mask), 2 * STD),
    }


def psnr(x: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Of each image, by the range of 2."""
    return 10 * np.log10(4 / np.mean((x - truth).reshape(len(x), -1) ** 2, axis=1))


def main() -> None:
    """Print a table for each problem, and all numbers as JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--problem", choices=("views", "kspace"), help="default: both")
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--samples", type=int, default=16, help="of each image")
    parser.add_argument("--budget", type=int, default=300, help="cost of a sample")
    options = parser.parse_args()
    n, values = options.samples, {}
    for title, problem in problems().items():
        if options.problem not in (None, title):
            continue
        truth = np.asarray(problem.data.sample(jax.random.key(1), options.images))
        given = inverse.simulate(
            problem.operator, jnp.asarray(truth), problem.std, jax.random.key(2)
        )
        posteriors = problem.posteriors(given)
        exact = psnr(np.stack([one.mean() for one in posteriors]), truth)
        print(f"\n{title}: PSNR of the exact mean {exact.mean():.2f} dB\n")
        print("| | PSNR of the mean of the samples | below the exact mean |\n|---|---|---|")
        for name in ("exact score of the posterior", *ROWS):
            if name in ROWS:
                solver = SOLVERS[ROWS[name][0]](**ROWS[name][1])
                try:
                    solver.check(given)
                except UserError as error:
                    print(f"| {name} | refused: {str(error)[:60]} | |")
                    continue
                x, _ = samples(problem, solver, given, n, options.budget)
            else:
                x, _ = oracle(posteriors, n, options.budget)
            if not np.isfinite(x).all():
                print(f"| {name} | diverges | |", flush=True)
                continue
            found = psnr(x.mean(axis=1).reshape(truth.shape), truth)
            gap = exact - found
            error = gap.std(ddof=1) / len(gap) ** 0.5
            values[f"{title}, {name}"] = [float(found.mean()), float(gap.mean()), float(error)]
            print(f"| {name} | {found.mean():.2f} | {gap.mean():.2f} +- {error:.2f} |", flush=True)
    print(json.dumps(values))


if __name__ == "__main__":
    main()
