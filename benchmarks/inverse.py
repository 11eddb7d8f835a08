"""How far solvers of inverse problems are from the posterior: exact mixtures, equal costs.

    python benchmarks/inverse.py [--budget 300] [--samples 500] [--measurements 6] [--picture FILE]

A mixture of three Gaussians in 16 dimensions, exact scores, VP. Each solver has as many steps as
the budget allows. An evaluation of the score costs 1, a vector-Jacobian product 2. For each of
several measurements the samples are compared with the exact posterior. The picture has a mixture
in the plane, one panel a solver.
"""

import argparse
import dataclasses
import functools
import json
import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import jax
import jax.numpy as jnp
import numpy as np

from score_sde import grids, inverse, steppers
from score_sde.analytic import GaussianMixture
from score_sde.errors import UserError
from score_sde.inverse.separable import Factor, Separable
from score_sde.sampling import Sampler
from score_sde.sde import VP
from score_sde.solvers import SOLVERS, Solver

SDE, T_END = VP(), 1e-3
ROWS: dict[str, tuple[str, dict]] = {
    "DPS": ("dps", {"data_std": 0.7}),
    "DPS, r = 0": ("dps", {"data_std": 0.0}),
    "DPS as coded": ("dps_published", {}),
    "PiGDM": ("pigdm", {"data_std": 0.7}),
    "TMPD": ("tmpd", {}),
    "MMPS, 1 step": ("mmps", {"steps": 1}),
    "MMPS, 4 steps": ("mmps", {"steps": 4}),
    "projection": ("projection", {}),
    "projection, lambda 0.5": ("projection", {"strength": 0.5}),
    "DDNM": ("ddnm", {}),
    "DDRM": ("ddrm", {}),
    "DiffPIR": ("diffpir", {}),
    "imputation": ("imputation", {}),
    "RePaint 10, 10": ("repaint", {}),
    "RePaint 3, 10": ("repaint", {"jump": 3}),
}
"""What a row is called, its solver and options."""


@dataclasses.dataclass(frozen=True, eq=False)
class Problem:
    """Measurements of samples of a mixture."""

    data: GaussianMixture
    operator: inverse.Operator
    std: float

    def measure(self, n: int) -> inverse.Measurement:
        """n measurements of n samples."""
        x0 = self.data.sample(jax.random.key(1), n)
        return inverse.simulate(self.operator, x0, self.std, jax.random.key(2))

    def posteriors(self, given: inverse.Measurement) -> list[GaussianMixture]:
        """The exact answers."""
        return [self.data.condition(self.operator, np.asarray(y), self.std) for y in given.y]


def mixture(d: int = 16) -> GaussianMixture:
    """Three components with full covariances."""
    rng = np.random.default_rng(0)
    factors = 0.5 * rng.normal(size=(3, d, d)) / d**0.5
    covariances = factors @ factors.transpose(0, 2, 1) + 0.01 * np.eye(d)
    return GaussianMixture.full([0.5, 0.3, 0.2], rng.normal(size=(3, d)) * 0.7, covariances)


def problems() -> dict[str, Problem]:
    """By name: 8 random rows of unit length on average, and half of the coordinates."""
    data, rng = mixture(), np.random.default_rng(3)
    rows = Separable((16,), (Factor(rng.normal(size=(8, 16)) / 4),))
    half = inverse.inpainting((16,), np.arange(16) % 2 == 0)
    return {
        "random A, std 0.05": Problem(data, rows, 0.05),
        "random A, std 0.5": Problem(data, rows, 0.5),
        "half known, std 0": Problem(data, half, 0.0),
        "half known, std 0.05": Problem(data, half, 0.05),
    }


def plane() -> Problem:
    """A mixture in the plane of which one direction is measured, with two modes left."""
    covariances = [[[0.02, 0.0], [0.0, 0.1]], [[0.06, 0.04], [0.04, 0.06]], [[0.1, 0.0], [0, 0.02]]]
    data = GaussianMixture.full(
        [0.5, 0.3, 0.2], [[-0.9, 0.5], [0.5, -0.6], [0.9, 0.9]], covariances
    )
    return Problem(data, Separable((2,), (Factor(np.asarray([[0.7, 0.7]])),)), 0.15)


def sampler_of(solver: Solver, budget: int) -> Sampler:
    """As many steps of the ancestral sampler as the budget allows, uniform in log-SNR."""
    each = solver.cost.evaluations + 2 * solver.cost.vjps
    for n in range(budget // each - 1, 10, -1):
        sampler = Sampler(SDE, steppers.Ancestral(SDE), grids.log_snr_uniform(SDE, n, T_END))
        sampler = solver.prepare(sampler)
        falling = int(np.sum(np.asarray(grids.as_pairs(sampler.times) @ [1, -1]) > 0))
        if (falling + 1) * each <= budget:
            return sampler
    raise SystemExit(f"a budget of {budget} is too small")


def samples(problem: Problem, solver: Solver, given: inverse.Measurement, n: int, budget: int):
    """((measurements, n, d) samples, steps to less noise)."""
    sampler = sampler_of(solver, budget)
    repeated = jax.tree.map(lambda leaf: jnp.repeat(leaf, n, axis=0), given.rows(len(given.y)))

    @jax.jit
    def run(key, given):
        changed, score_fn = solver(sampler, problem.data.score_fn(SDE), given)
        return changed(key, score_fn, (len(given.y), *problem.data.event)).x

    x = run(jax.random.key(0), repeated).reshape(len(given.y), n, -1)
    return np.asarray(x, float), int(np.sum(grids.as_pairs(sampler.times) @ [1, -1] > 0))


def oracle(posteriors: list[GaussianMixture], n: int, budget: int):
    """The same with the exact conditional score: what the steps alone lose."""
    count = max(len(p.weights) for p in posteriors)

    def padded(values, fill):
        return np.stack([np.concatenate([v, fill(count - len(v), v)]) for v in values])

    def zeros(k, v):
        return np.zeros((k, *v.shape[1:]))

    arrays = (
        padded([p.weights for p in posteriors], zeros),
        padded([p.means.reshape(len(p.means), -1) for p in posteriors], zeros),
        padded([p.variances for p in posteriors], lambda k, v: np.ones((k, v.shape[1]))),
        padded([p.rotations for p in posteriors], zeros),
    )
    parts = tuple(jnp.asarray(a, jnp.float32) for a in arrays)
    d = parts[1].shape[2]

    def score(weights, means, variances, rotations, x, alpha, sigma):
        """Of one posterior at (n, d)."""
        total = alpha**2 * variances + sigma**2
        turned = jnp.einsum("kij,nki->nkj", rotations, x[:, None] - alpha * means[None])
        logs = jnp.log(weights) - 0.5 * jnp.sum(jnp.log(total), 1)
        logs = logs[None] - 0.5 * jnp.sum(turned**2 / total[None], 2)
        pulls = -jnp.einsum("kij,nkj->nki", rotations, turned / total[None])
        return jnp.einsum("nk,nkd->nd", jax.nn.softmax(logs, 1), pulls)

    def score_fn(x, t):
        alpha, sigma = SDE.marginal(t[0])
        each = jax.vmap(functools.partial(score, alpha=alpha, sigma=sigma))
        return each(*parts, x.reshape(len(posteriors), n, d)).reshape(x.shape)

    sampler = Sampler(SDE, steppers.Ancestral(SDE), grids.log_snr_uniform(SDE, budget - 1, T_END))
    run: Callable[[jax.Array], jax.Array] = jax.jit(
        lambda key: sampler(key, score_fn, (len(posteriors) * n, d)).x
    )
    return np.asarray(run(jax.random.key(0)), float).reshape(len(posteriors), n, d), budget - 1


def errors(x: np.ndarray, posteriors: list[GaussianMixture]) -> dict[str, float]:
    """Means over the measurements, in coordinates that y does not fix.

    mean: root mean square of the error in standard deviations of the posterior. covariance: of
    the error of an entry over the product of the two standard deviations. coverage: how often a
    draw of the posterior lies between the 5 % and 95 % quantiles of the samples.
    """
    found = []
    for rows, posterior in zip(x, posteriors, strict=True):
        covariance = posterior.covariance()
        free = np.diag(covariance) > 1e-6
        scale = np.sqrt(np.diag(covariance)[free])
        rows, mean = rows[:, free], posterior.mean().ravel()[free]
        off = (np.cov(rows.T) - covariance[np.ix_(free, free)]) / np.outer(scale, scale)
        low, high = np.quantile(rows, [0.05, 0.95], axis=0)
        truth = np.asarray(posterior.sample(jax.random.key(9), 4000)).reshape(4000, -1)[:, free]
        found.append(
            {
                "mean": np.mean(((rows.mean(0) - mean) / scale) ** 2),
                "covariance": np.mean(off**2),
                "coverage": np.mean((low < truth) & (truth < high)),
            }
        )
    means = {key: float(np.mean([one[key] for one in found])) for key in found[0]}
    return {k: v if k == "coverage" else v**0.5 for k, v in means.items()}


def each_row(problem: Problem, n: int, count: int, budget: int):
    """(name, steps, cost of a step, samples, posteriors) of the oracle and of every solver."""
    given = problem.measure(count)
    posteriors = problem.posteriors(given)
    yield "oracle", *_with_cost(oracle(posteriors, n, budget), 1), posteriors
    for name, (solver_name, options) in ROWS.items():
        solver = SOLVERS[solver_name](**options)
        try:
            solver.check(given)
        except UserError:  # noise that it cannot take, say
            continue
        cost = solver.cost.evaluations + 2 * solver.cost.vjps
        yield name, *_with_cost(samples(problem, solver, given, n, budget), cost), posteriors


def _with_cost(result, cost):
    x, steps = result
    return steps, cost, x


def table(n: int, count: int, budget: int) -> dict[str, dict]:
    """Print the tables; their numbers."""
    values = {}
    for title, problem in problems().items():
        print(f"\n{title}\n\n| | steps | cost of one | mean | covariance | coverage |")
        print("|---|---|---|---|---|---|")
        for name, steps, cost, x, posteriors in each_row(problem, n, count, budget):
            e = (
                errors(x, posteriors)
                if np.isfinite(x).all()
                else dict.fromkeys(("mean", "covariance", "coverage"), float("nan"))
            )
            values[f"{title}, {name}"] = e
            numbers = f"{e['mean']:.2f} | {e['covariance']:.2f} | {100 * e['coverage']:.0f} %"
            print(f"| {name} | {steps} | {cost} | {numbers} |", flush=True)
    return values


def picture(file: Path, budget: int, n: int = 1500) -> None:
    """Samples of each solver over the exact density."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    problem = plane()
    rows = list(each_row(problem, n, 1, budget))
    line = np.linspace(-2, 2, 161)
    grid = np.stack(np.meshgrid(line, line), axis=-1).reshape(-1, 2).astype(np.float32)
    (posterior,) = rows[0][-1]
    near = jnp.full(len(grid), SDE.t_min, jnp.float32)
    density = np.exp(np.asarray(posterior.log_prob(SDE, jnp.asarray(grid), near)))
    figure, axes = plt.subplots(3, 5, figsize=(12, 7.6), sharex=True, sharey=True)
    for axis in axes.flat[len(rows) :]:
        axis.axis("off")
    for axis, (name, _, _, x, _) in zip(axes.flat, rows, strict=False):
        axis.scatter(*x[0].T, s=2, c="#2a6f97", alpha=0.35, linewidths=0)
        top = density.max()
        axis.contour(
            line,
            line,
            density.reshape(161, 161),
            np.asarray([0.02, 0.1, 0.3, 0.6]) * top,
            colors="#c1440e",
            linewidths=0.8,
        )
        axis.set(title=name, aspect="equal", xlim=(-2, 2), ylim=(-2, 2))
        axis.title.set_fontsize(10)
    figure.tight_layout()
    figure.savefig(file, dpi=110)


def main() -> None:
    """Print a table for each problem and all numbers as JSON; draw the picture on request."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--budget", type=int, default=300, help="cost of a sample")
    parser.add_argument("--samples", type=int, default=500, help="of each posterior")
    parser.add_argument("--measurements", type=int, default=6, help="of each problem")
    parser.add_argument("--picture", type=Path, help="where to draw the picture")
    options = parser.parse_args()
    values = table(options.samples, options.measurements, options.budget)
    print(json.dumps(values))
    if options.picture:
        picture(options.picture, options.budget)


if __name__ == "__main__":
    main()
