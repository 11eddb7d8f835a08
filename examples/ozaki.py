"""Ozaki's discretization against Langevin dynamics on densities in the plane (table 4.3).

The dissertation's section 4.7.1, with exact scores and Hessians. From the repository root:

    python examples/ozaki.py [--seeds 3] [--output runs/ozaki]

32 chains start from exact samples and make 10,000 steps; the first 1,000 are left out. Each method
has the best step of a grid: the one with most effective samples among those that keep the variances
along the principal axes within 5% of the truth. Effective samples alone do not tell a good step,
since a diverging chain has many of them. They are counted against the true mean and variance, for
the worse axis, and stated for one chain. A step costs one score, and with Ozaki's method one
Hessian. The variances of the whole hide the width of a mode where modes are far apart; with
`--within` the mean square distance to the nearest mode must be within 5% as well.

The published densities are pictures, so those here have names and parameters of our own:

    two modes            0.5 N((-1, 0), 0.5^2 I) + 0.5 N((1, 0), 0.5^2 I)
    ring of 8            standard deviation 0.3 around 8 points on the unit circle
    sparse ring of 8     standard deviation 0.15 around them
    narrow modes         as two modes, with standard deviations 0.55 and 0.1 along the axes
    tilted narrow modes  the same, turned by 45 degrees

The diagonal form needs variables that hardly depend on each other inside a mode; the full form does
not. `--quick` is reduced.
"""

import argparse
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from score_sde.analytic import GaussianMixture
from score_sde.curvature import LowRank
from score_sde.metrics import autocorrelation, effective_sample_size, split_rhat
from score_sde.sde import DiscreteChain
from score_sde.steppers import Ozaki

CLEAN, NOW = DiscreteChain.smld(), jnp.asarray(-1.0)
"""At the time -1 the data are not perturbed."""
TOLERANCE = 0.05
"""Of the variances, relative."""
SIZES = 2.0 ** np.arange(-11.0, 2.1, 0.5)
FULL_SIZES = 2.0 ** np.arange(-5.0, 2.1, 0.5)
"""Of the full form, which decomposes a matrix for each state and takes most of the time."""


def _modes(stds: tuple[float, float], angle: float = 0.0) -> GaussianMixture:
    turn = np.asarray([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    means = np.asarray([[-1.0, 0.0], [1.0, 0.0]]) @ turn.T
    return GaussianMixture.full([0.5, 0.5], means, np.stack([turn * np.square(stds) @ turn.T] * 2))


def _ring(n: int, std: float) -> GaussianMixture:
    angle = 2 * np.pi * np.arange(n) / n
    points = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return GaussianMixture.isotropic(np.full(n, 1 / n), points, std)


DENSITIES = {
    "two modes": _modes((0.5, 0.5)),
    "ring of 8": _ring(8, 0.3),
    "sparse ring of 8": _ring(8, 0.15),
    "narrow modes": _modes((0.55, 0.1)),
    "tilted narrow modes": _modes((0.55, 0.1), np.pi / 4),
}
BANDS = {"two modes": 1.5, "ring of 8": 1.5, "sparse ring of 8": 1.5, "narrow modes": 20.0}
"""The least ratio of effective samples, the diagonal form to Langevin."""


class Found(NamedTuple):
    """The best step of a method: its chains (chains, n, 2), and what they are worth.

    sample_size: effective samples of one chain. off: the largest relative error of a variance.
    """

    step: float
    sample_size: float
    off: float
    rhat: float
    states: np.ndarray


def flat(x, t):
    """No curvature: Ozaki's step is then Langevin's, x + epsilon s + sqrt(2 epsilon) z."""
    return LowRank(jnp.zeros_like(x))


def chains(data: GaussianMixture, method: str, sizes: np.ndarray, key, options) -> np.ndarray:
    """States (sizes, chains, n, 2) after the burn-in, of all steps at once."""
    rows = jnp.repeat(jnp.asarray(sizes, jnp.float32), options.chains)
    curvature_fn = flat if method == "Langevin" else data.hessian_fn(CLEAN)
    form = "full" if method == "Ozaki, full" else "diagonal"
    stepper, score_fn = Ozaki(curvature_fn, lambda t: rows, form), data.score_fn(CLEAN)
    key_start, key_noise = jax.random.split(key)

    @jax.jit
    def run(start, key):
        def step(x, key):
            # One noise for all steps, so that they are compared on the same draws.
            z = jnp.tile(jax.random.normal(key, start.shape), (len(sizes), 1))
            x = stepper(score_fn, x, NOW, NOW, lambda j: z, ())[0]
            return x, x

        keys = jax.random.split(key, options.steps)
        return jax.lax.scan(step, jnp.tile(start, (len(sizes), 1)), keys)[1]

    states = np.asarray(run(data.sample(key_start, options.chains), key_noise))[options.burn_in :]
    return states.reshape(len(states), len(sizes), options.chains, 2).transpose(1, 2, 0, 3)


def principal(data: GaussianMixture, states: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """States less the true mean along the principal axes of the density, and the true variances.

    Along other axes a wrong law can pass: a wide direction hides the width of a narrow one.
    """
    variance, axes = np.linalg.eigh(data.covariance())
    return (states.astype(np.float64) - data.mean()) @ axes, variance


def width(data: GaussianMixture, states: np.ndarray) -> float:
    """Mean square distance to the nearest mode."""
    points = states.reshape(-1, 2).astype(np.float64)
    return float(np.mean(np.min([((points - m) ** 2).sum(axis=1) for m in data.means], axis=0)))


def best(
    data: GaussianMixture, sizes: np.ndarray, all_states: np.ndarray, within: bool = False
) -> Found | None:
    """The step with most effective samples among those that keep the variances.

    With `within` the mean square distance to the nearest mode counts as a variance. Where no step
    keeps them, the one that keeps them best: slow chains can miss them by chance. None where all
    chains diverge.
    """
    found, true_width = [], width(data, np.asarray(data.sample(jax.random.key(0), 100_000)))
    for size, states in zip(sizes, all_states, strict=True):
        if not np.isfinite(states).all():
            continue
        along, variance = principal(data, states)
        off = float(np.abs(along.var(axis=(0, 1)) / variance - 1).max())
        off = max(off, abs(width(data, states) / true_width - 1)) if within else off
        count = float(effective_sample_size(along, (0.0, variance)).min()) / len(states)
        found.append(Found(float(size), count, off, float(split_rhat(along).max()), states))
    kept = [one for one in found if one.off <= TOLERANCE]
    if kept:
        return max(kept, key=lambda one: one.sample_size)
    return min(found, key=lambda one: one.off, default=None)


def compare(name: str, options: argparse.Namespace) -> dict[str, list[Found]]:
    """The best step of each method on a density, for each seed."""
    data, results = DENSITIES[name], {}
    methods = {"Langevin": options.sizes, "Ozaki": options.sizes}
    if options.full_sizes is not None:
        methods["Ozaki, full"] = options.full_sizes
    for i, (method, sizes) in enumerate(methods.items()):
        results[method] = []
        for seed in range(options.seeds):
            key = jax.random.fold_in(jax.random.key(seed), i)
            found = best(data, sizes, chains(data, method, sizes, key, options), options.within)
            if found is None:
                raise SystemExit(f"error: {name}, {method}: the chains of all steps diverge")
            results[method].append(found)
    return results


def spread(values) -> str:
    """Mean and standard error over seeds."""
    values = np.asarray(values)
    error = values.std(ddof=1) / len(values) ** 0.5 if len(values) > 1 else np.nan
    return f"{values.mean():.3g} +- {error:.2g}"


def report(name: str, results: dict[str, list[Found]]) -> None:
    """Rows of a density, and whether its band holds."""
    base = np.asarray([found.sample_size for found in results["Langevin"]])
    for method, found in results.items():
        sizes = np.asarray([one.sample_size for one in found])
        steps = "/".join(f"{step:.3g}" for step in sorted({one.step for one in found}))
        off, rhat = max(one.off for one in found), max(one.rhat for one in found)
        print(
            f"{name:<21}{method:<13}{steps:>18}{spread(sizes):>16}{spread(sizes / base):>16}"
            f"{100 * off:>8.1f}%{rhat:>8.3f}"
        )
    if name in BANDS:
        ratio = np.mean([one.sample_size for one in results["Ozaki"]]) / base.mean()
        verdict = "holds" if ratio >= BANDS[name] else "FAILS"
        print(f"{'':<21}ratio {ratio:.1f}, band >= {BANDS[name]:g}: {verdict}")


def draw(results: dict[str, dict[str, list[Found]]], path: Path) -> None:
    """Figures 4.5 and 4.6: 300 states of a chain on the density, and autocorrelations."""
    figure = Figure(figsize=(3.1 * len(results), 6), layout="constrained")
    axes: list[list[Axes]] = list(figure.subplots(2, len(results), squeeze=False))
    line = np.linspace(-2.6, 2.6, 101)
    grid = jnp.asarray(np.stack(np.meshgrid(line, line), axis=-1).reshape(-1, 2), jnp.float32)
    for i, (name, found) in enumerate(results.items()):
        data, panel = DENSITIES[name], axes[0][i]
        density = np.exp(np.asarray(data.log_prob(CLEAN, grid, NOW))).reshape(101, 101)
        levels = density.max() * np.asarray([0.1, 0.3, 0.5, 0.7, 0.9])
        panel.contour(line, line, density, levels=levels, colors="gray", linewidths=0.6)
        for method, runs in found.items():
            states = runs[0].states
            if method != "Ozaki, full":
                panel.plot(*states[0, :300].T, ".", markersize=2.5, label=method)
            along, variance = principal(data, states)
            lags = autocorrelation(along, (0.0, variance))
            slowest = lags[:, np.argmax(lags[: len(lags) // 4].sum(axis=0))]
            axes[1][i].plot(slowest[:400], label=method)
        panel.set(title=name, aspect="equal")
        axes[1][i].set(xlabel="steps apart", ylim=(-0.1, 1))
    axes[1][0].set(ylabel="autocorrelation")
    for row in axes:
        row[0].legend(fontsize=8)
    axes[1][-1].legend(fontsize=8)
    figure.savefig(path, dpi=80)


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Compare on each density, print the table, draw the figure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--chains", type=int, default=32)
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--burn_in", type=int, default=1000)
    parser.add_argument("--densities", default=",".join(DENSITIES))
    parser.add_argument("--within", action="store_true", help="the width of a mode counts too")
    parser.add_argument("--quick", action="store_true", help="reduced, to see that it runs")
    parser.add_argument("--output", type=Path, default=Path("runs/ozaki"))
    options = parser.parse_args(arguments)
    options.sizes, options.full_sizes, names = SIZES, FULL_SIZES, options.densities.split(",")
    if options.quick:
        options.seeds, options.steps, options.burn_in = 1, 1000, 100
        options.sizes, options.full_sizes, names = SIZES[4::4], None, ["two modes"]
    began, results = time.perf_counter(), {}
    header = ("step", "ESS per chain", "to Langevin", "variance", "R-hat")
    widths = (18, 16, 16, 9, 8)
    print(f"{'':<34}" + "".join(f"{h:>{w}}" for h, w in zip(header, widths, strict=True)))
    for name in names:
        results[name] = compare(name, options)
        report(name, results[name])
    kind = "reduced: " if options.quick else ""
    print(
        f"{kind}{options.seeds} seed(s), {options.chains} chains of {options.steps} steps, "
        f"{options.burn_in} left out; {time.perf_counter() - began:.0f} s\n"
        "published (other densities, learned scores): one row of numbers, 21.81 and 26.33, whose "
        "method the text does not tell; best steps 5 and 6 (Ozaki), 0.5 and 2 (Langevin)"
    )
    options.output.mkdir(parents=True, exist_ok=True)
    draw(results, options.output / "ozaki.png")
    print(f"picture: {options.output / 'ozaki.png'}")
    return results


if __name__ == "__main__":
    main()
