"""Slow mixing: Langevin dynamics gets the weights of two modes wrong, the annealed kind right.

Figure 5.3 of the dissertation (section 5.3.2, settings in B.3.2), with exact scores of 1/5
N((-5,-5), I) + 4/5 N((5,5), I). There are 1,280 samples from uniform starts in [-8, 8]^2: of T =
1000 steps of Langevin dynamics, or of 100 steps at each of 10 noise scales from 10 to 0.1. From
the repository root:

    python examples/slow_mixing.py [--output runs/slow_mixing]

The step is eps = 0.1 in x + eps/2 score + sqrt(eps) z (algorithm 5.1). Annealed, it grows to eps
sigma_i^2/sigma_L^2. At the printed sigma_L = 0.1 that is 1000 at sigma_1 = 10, where the
components have variance 101, and the chain diverges; "as printed" below shows it. So eps is taken
in units of sigma_L^2 here, as it is in the authors' released code. The scales there are the
standard deviations of the components themselves, from 20 to 1; "as released" below.

With 100 steps at each scale the smaller mode keeps too much: 0.227 +- 0.003 in 20,000 samples, 2.4
of the standard errors that 1,280 samples have. 1,000 steps leave 0.204 +- 0.003, and they are what
is drawn.
"""

import argparse
import math
import sys
from pathlib import Path

import jax
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from score_sde.analytic import GaussianMixture
from score_sde.sampling import Sampler
from score_sde.sde import DiscreteChain
from score_sde.steppers import AnnealedLangevin

WEIGHTS, MEANS = np.array([0.2, 0.8]), np.array([[-5.0, -5.0], [5.0, 5.0]])
DATA = GaussianMixture.isotropic(WEIGHTS, MEANS, 1.0)
POINTS = GaussianMixture.isotropic(WEIGHTS, MEANS, 0.0)
"""With noise of standard deviation 1 these points are the data."""


def langevin(
    key: jax.Array, data: GaussianMixture, chain: DiscreteChain, steps: int, epsilon: float, n: int
) -> np.ndarray:
    """n samples by `steps` updates at each noise scale, from the largest, with exact scores.

    Args:
        epsilon: step size of algorithm 5.1 in units of sigma_L^2. So a step is epsilon sigma_i^2.
    """
    key_start, key_noise = jax.random.split(key)
    start = jax.random.uniform(key_start, (n, 2), minval=-8.0, maxval=8.0)
    times = np.repeat(np.arange(len(chain.sigmas))[::-1], steps).astype(np.float64)
    # The stepper's step is 2 (snr sigma)^2 score: half of algorithm 5.1's epsilon sigma^2.
    stepper = AnnealedLangevin(chain, snr=math.sqrt(epsilon) / 2)
    sampler = Sampler(chain, stepper, np.stack([times, times], axis=1), denoise="none")
    score_fn = data.score_fn(chain)

    @jax.jit
    def run(x):
        return sampler.advance(key_noise, score_fn, sampler.start(x), 0, len(times)).x

    return np.asarray(run(start))


def methods(seed: int, n: int, factor: int = 10) -> dict[str, np.ndarray]:
    """Samples of every method by name.

    They have the published numbers of steps, or `factor` times as many.
    """
    keys = jax.random.split(jax.random.key(seed), 7)
    unit = DiscreteChain(np.ones(1), np.ones(1))
    printed, released = DiscreteChain.smld(0.1, 10.0, 10), DiscreteChain.smld(1.0, 20.0, 10)
    return {
        "exact": np.asarray(DATA.sample(keys[0], n)),
        "Langevin": langevin(keys[1], POINTS, unit, 1000, 0.1, n),
        "annealed Langevin": langevin(keys[2], DATA, printed, 100 * factor, 0.1, n),
        f"Langevin, {factor} T": langevin(keys[3], POINTS, unit, 1000 * factor, 0.1, n),
        "annealed, published T": langevin(keys[4], DATA, printed, 100, 0.1, n),
        "annealed, as released": langevin(keys[5], POINTS, released, 100, 0.1, n),
        "annealed, as printed": langevin(keys[6], DATA, printed, 100, 0.1 / 0.1**2, n),
    }


def weight(samples: np.ndarray) -> float:
    """Share of the samples nearer to (-5, -5): the weight of that mode.

    NaN if samples are not finite.
    """
    return float(np.mean(samples.sum(axis=1) < 0)) if np.isfinite(samples).all() else math.nan


def deviation(samples: np.ndarray) -> float:
    """(weight - 1/5) in standard errors of exact sampling, sqrt(1/5 4/5 / n)."""
    return (weight(samples) - WEIGHTS[0]) / math.sqrt(WEIGHTS[0] * WEIGHTS[1] / len(samples))


def spread(samples: np.ndarray) -> float:
    """Standard deviation of a coordinate around the nearer mean; 1 is right."""
    return float(np.sqrt(np.mean((samples - MEANS[(samples.sum(axis=1) > 0).astype(int)]) ** 2)))


def draw(samples: dict[str, np.ndarray], path: Path) -> None:
    """Exact, Langevin and annealed samples side by side, as in figure 5.3."""
    figure = Figure(figsize=(10, 3.7), layout="constrained")
    axes: list[Axes] = list(figure.subplots(1, 3, sharex=True, sharey=True))
    for panel, letter, name in zip(axes, "abc", list(samples)[:3], strict=True):
        x = samples[name]
        panel.scatter(x[:, 0], x[:, 1], s=1)
        panel.set(xlim=(-8, 8), ylim=(-8, 8), aspect="equal", title=f"({letter}) {name}")
        panel.text(-7.5, 6.5, f"weights {weight(x):.2f}, {1 - weight(x):.2f}")
    figure.savefig(path, dpi=100)


def main(arguments: list[str] | None = None) -> dict[str, np.ndarray]:
    """Sample with every method, print the weights, draw the figure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--samples", type=int, default=1280, help="of each method")
    parser.add_argument(
        "--factor", type=int, default=10, help="steps as a multiple of the published T"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("runs/slow_mixing"))
    options = parser.parse_args(arguments)
    samples = methods(options.seed, options.samples, options.factor)
    print(f"{'':<22} {'weights':>13} {'standard errors off':>20} {'std in a mode':>14}")
    for name, x in samples.items():
        if math.isnan(weight(x)):
            print(f"{name:<22} {'diverged':>13}")
            continue
        pair = f"{weight(x):.3f}, {1 - weight(x):.3f}"
        print(f"{name:<22} {pair:>13} {deviation(x):>+20.1f} {spread(x):>14.3f}")
    options.output.mkdir(parents=True, exist_ok=True)
    draw(samples, options.output / "slow_mixing.png")
    print(f"picture: {options.output / 'slow_mixing.png'}")
    return samples


if __name__ == "__main__":
    main()
