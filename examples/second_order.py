"""Second-order scores learned from noise: their variance (figure 4.1), their errors (table 4.1).

The dissertation's sections 4.4.3 and 4.5.1. From the repository root:

    python examples/second_order.py --figure variance [--seeds 3]
    python examples/second_order.py --figure accuracy [--seeds 3]

The first takes N(0, I) in the plane, at noise levels 0.001, 0.01 and 0.1. It prints the variance of
gradients and the errors after training, with and without variance reduction. The second compares,
at the noise level 0.01, the derivative of a trained s1 with an s2 that is learned directly. Errors
are mean squares of the Frobenius norm over test points. `--quick` is reduced: it shows that the
program runs.

The published densities of table 4.1 are not specified. Here the normal one has the precision
c I - B B^T with a random B of rank 40, and each of the 20 logistic distributions a random mean. So
ratios can be compared, errors cannot. "Best possible" is the nearest matrix diag(a) + F F^T with r
columns: no network of that rank does better. "Larger s1" has 256 units in place of 128, twice the
steps and a learning rate that falls; one who wants s2 could train such an s1 instead.
"""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib.axes import Axes
from matplotlib.figure import Figure

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from score_sde.analytic import GaussianMixture, LogisticMixture
from score_sde.curvature import Dense, LowRank, jacobian_of
from score_sde.objectives import DenoisingScoreMatching, SecondOrderDenoising, UniformIndex
from score_sde.sde import DiscreteChain

SIGMAS = (1e-3, 1e-2, 1e-1)
SIGMA = 0.01
"""Of table 4.1."""
RANKS = (15, 20, 30)
DIMENSION, RANK = 100, 40
"""Of the normal distribution, and of B."""
PUBLISHED = {15: (9.40, 7.12), 20: (9.40, 5.24), 30: (9.40, 1.76), 50: (26.41, 18.43)}
PUBLISHED[80] = (32.80, 21.68)
"""(derivative of DSM-VR, direct s2) by rank, and by dimension of the logistic mixtures."""


class Tanh(nn.Module):
    """Three linear maps with tanh in between (section B.2)."""

    hidden: int
    outputs: int

    @nn.compact
    def __call__(self, x):
        for _ in range(2):
            x = nn.tanh(nn.Dense(self.hidden)(x))
        return nn.Dense(self.outputs)(x)


def score_of(network: Tanh, params: Any):
    """s1 as a function of (x, t)."""
    return lambda x, t: network.apply(params, x)


def low_rank_of(network: Tanh, params: Any):
    """s2 = diag(a) + B B^T with as many columns as the outputs give (section 4.4.2)."""

    def curvature(x, t):
        made = network.apply(params, x).reshape(*x.shape, -1)
        columns = made[..., 1:] / x.shape[1] ** 0.5  # so that B B^T is of the size of a when born
        return LowRank(made[..., 0], columns if columns.shape[-1] else None)

    return curvature


def matrix_of(network: Tanh, params: Any):
    """s2 as a symmetric matrix, for the plane."""

    def curvature(x, t):
        made = network.apply(params, x).reshape(*x.shape, -1)
        return Dense(0.5 * (made + made.swapaxes(1, 2)))

    return curvature


class Training(NamedTuple):
    """How a network is trained: by Adam with the rate 1e-3, or one that falls from it to 0."""

    steps: int
    batch: int
    falling: bool = False


def fit(keys: jax.Array, create: Callable, loss: Callable, how: Training, given: Any = ()):
    """Adam on loss(params, key, given), from create(key), for all keys at once.

    `given` has one row a key.

    Returns the parameters, one row a key, and the seconds of one of them, compilation included.
    """
    optimizer = optax.adam(optax.cosine_decay_schedule(1e-3, how.steps) if how.falling else 1e-3)

    @jax.jit
    @jax.vmap
    def run(key, given):
        def step(carry, key):
            params, state = carry
            updates, state = optimizer.update(jax.grad(loss)(params, key, given), state, params)
            return (optax.apply_updates(params, updates), state), None

        params, keys = create(key), jax.random.split(jax.random.fold_in(key, 1), how.steps)
        return jax.lax.scan(step, (params, optimizer.init(params)), keys)[0][0]

    began = time.perf_counter()
    params = jax.block_until_ready(run(keys, given))
    return params, (time.perf_counter() - began) / len(keys)


def objectives(chain: DiscreteChain, reduced: bool, form: str):
    """(first, second) with the weight 1 at all noise levels, as published."""
    times = UniformIndex(chain)
    first = DenoisingScoreMatching(chain, times, jnp.ones_like, "sum", reduced)
    return first, SecondOrderDenoising(chain, times, jnp.ones_like, form, reduced)


# Figure 4.1


def gradient_variances(key: jax.Array, n: int) -> dict[str, list[float]]:
    """Sum over the weights of the variance of one example's gradient, at each noise level.

    Both networks are fresh, and the same at all noise levels.
    """
    chain, params = plane_chain(), jax.jit(plane_weights)(key)
    x0, z = jax.random.normal(jax.random.fold_in(key, 1), (2, n, 2))
    found: dict[str, list[float]] = {}
    for reduced in (False, True):
        first, second = objectives(chain, reduced, "full")

        def losses(params, x0, z, t, first=first, second=second):
            models = plane_models(params)
            return (
                first.at(models[0], x0[None], t[None], z[None])[0],
                second.at(models, x0[None], t[None], z[None])[0],
            )

        @jax.jit
        def variances(t, losses=losses):
            for_each = [
                jax.vmap(jax.grad(lambda p, x0, z, i=i: losses(p, x0, z, t)[i]), (None, 0, 0))(
                    params, x0, z
                )
                for i in range(2)
            ]
            # Each order by its own weights; centred by the mean of the examples.
            return [
                sum(jnp.sum(jnp.var(leaf, axis=0)) for leaf in jax.tree.leaves(made[i]))
                for i, made in enumerate(for_each)
            ]

        rows = [variances(jnp.asarray(float(i))) for i in range(len(SIGMAS))]
        for i, name in enumerate(("DSM", "D2SM")):
            found[name + ("-VR" if reduced else "")] = [float(row[i]) for row in rows]
    return found


PLANE = Tanh(128, 2), Tanh(32, 4)
"""Networks of s1 and s2 in the plane."""


def plane_weights(key: jax.Array):
    """Fresh weights of both."""
    keys = jax.random.split(key)
    return tuple(n.init(k, jnp.zeros((1, 2))) for n, k in zip(PLANE, keys, strict=True))


def plane_models(params):
    """(s1, s2)."""
    return score_of(PLANE[0], params[0]), matrix_of(PLANE[1], params[1])


def train_plane(keys: jax.Array, how: Training) -> dict[str, np.ndarray]:
    """Mean squared errors (seeds, sigma, order) after training, with and without reduction.

    Both orders are trained together, by the sum of their losses.
    """
    chain, levels = plane_chain(), jnp.arange(float(len(SIGMAS)))
    variances = 1 + jnp.asarray(SIGMAS) ** 2
    found: dict[str, np.ndarray] = {}
    for reduced in (False, True):
        first, second = objectives(chain, reduced, "full")

        def loss(params, key, given, first=first, second=second):
            key_x, key_z = jax.random.split(key)
            x0, z = (jax.random.normal(k, (how.batch, 2)) for k in (key_x, key_z))

            def of_level(params, level):
                t, models = jnp.full(how.batch, level), plane_models(params)
                total = first.at(models[0], x0, t, z) + second.at(models, x0, t, z)
                return jnp.mean(total)

            # A network for each noise level; no weight is shared, so their losses may be added.
            return jnp.sum(jax.vmap(of_level)(params, levels))

        def create(key):
            return jax.vmap(plane_weights)(jnp.broadcast_to(key, len(SIGMAS)))

        params, _ = fit(keys, create, loss, how)
        x = jax.random.normal(jax.random.key(1), (10_000, 2))

        @jax.jit
        def errors(params, variance, x=x):
            s1, s2 = plane_models(params)
            points = jnp.sqrt(variance) * x
            off1 = s1(points, 0.0) + points / variance
            off2 = s2(points, 0.0).dense() + jnp.eye(2)[None] / variance
            squares = jnp.sum(off1**2, axis=1), jnp.sum(off2**2, axis=(1, 2))
            return jnp.stack([jnp.mean(square) for square in squares])

        made = jax.vmap(jax.vmap(errors), (0, None))(params, variances)
        found["VR" if reduced else "plain"] = np.asarray(made, np.float64)
    return found


def plane_chain() -> DiscreteChain:
    """The noise levels of figure 4.1."""
    return DiscreteChain(np.ones(len(SIGMAS)), np.asarray(SIGMAS))


def slope(values: list[float]) -> float:
    """Least-squares slope of log(values) in log(sigma)."""
    return float(np.polyfit(np.log(SIGMAS), np.log(values), 1)[0])


def draw_variance(variances, errors, path: Path) -> None:
    """Variances of gradients and errors of s2 against sigma, as in figure 4.1."""
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    axes: list[Axes] = list(figure.subplots(1, 2))
    for name, values in variances.items():
        style = "o--" if name.endswith("VR") else "o-"
        axes[0].loglog(SIGMAS, values, style, label=name)
    for name, values in errors.items():
        label = "D2SM-VR" if name == "VR" else "D2SM"
        axes[1].loglog(SIGMAS, values.mean(axis=0)[:, 1], "o-", label=label)
    axes[1].axhline(2, color="gray", linewidth=0.8)
    axes[1].text(SIGMAS[0], 2.2, "s2 = 0", color="gray")
    axes[0].set(xlabel="sigma", ylabel="variance of a gradient")
    axes[1].set(xlabel="sigma", ylabel="mean squared error of s2")
    for panel in axes:
        panel.legend()
    figure.savefig(path, dpi=90)


def variance_figure(options: argparse.Namespace) -> dict[str, Any]:
    """Print and draw figure 4.1."""
    began = time.perf_counter()
    options.seeds = 1 if options.quick else options.seeds
    variances = gradient_variances(jax.random.key(0), 200 if options.quick else 10_000)
    print(f"{'variance of a gradient':<24}" + "".join(f"{s:>12}" for s in SIGMAS) + f"{'slope':>8}")
    for name, values in variances.items():
        cells = "".join(f"{value:>12.3g}" for value in values)
        print(f"{name:<24}{cells}{slope(values):>8.2f}")
    how = Training(20, 64) if options.quick else Training(3000, 256)
    errors = train_plane(jax.random.split(jax.random.key(1), options.seeds), how)
    print(f"\n{'mean squared error of':<24}" + "".join(f"{s:>20}" for s in SIGMAS))
    for name, values in errors.items():
        for order in (0, 1):
            cells = "".join(f"{spread(values[:, i, order]):>20}" for i in range(len(SIGMAS)))
            print(f"{f's{order + 1}, {name}':<24}{cells}")
    kind = "reduced: " if options.quick else ""
    seconds = time.perf_counter() - began
    print(
        f"{kind}{options.seeds} seed(s), {how.steps} steps of {how.batch} rows; {seconds:.0f} s; "
        "published: a figure, no numbers"
    )
    draw_variance(variances, errors, options.output / "variance.png")
    print(f"picture: {options.output / 'variance.png'}")
    return {"variances": variances, "errors": errors}


def spread(values: np.ndarray) -> str:
    """Mean and standard error over seeds."""
    values = np.asarray(values)
    error = values.std(ddof=1) / len(values) ** 0.5 if len(values) > 1 else np.nan
    return f"{values.mean():.3g} +- {error:.2g}"


# Table 4.1


class Problem(NamedTuple):
    """A density of table 4.1: its samples, its s2 at points, and the form of the direct s2."""

    dimension: int
    sample: Callable[[jax.Array, int], jax.Array]
    truth: Callable[[jax.Array], jax.Array]
    form: str


def normal() -> tuple[Problem, np.ndarray]:
    """N(0, (c I - B B^T)^-1), and its s2 at the noise level SIGMA. B is the same in every run."""
    rng = np.random.default_rng(0)
    root = rng.normal(size=(DIMENSION, RANK)) / DIMENSION**0.5
    product = root @ root.T
    precision = 1.05 * np.linalg.eigvalsh(product)[-1] * np.eye(DIMENSION) - product
    data = GaussianMixture.full([1.0], np.zeros((1, DIMENSION)), np.linalg.inv(precision)[None])
    chain = DiscreteChain(np.ones(1), np.asarray([SIGMA]))
    s2 = np.asarray(data.hessian(chain, jnp.zeros((1, DIMENSION)), jnp.asarray(0.0)).matrix[0])
    return Problem(DIMENSION, data.sample, lambda x: jnp.asarray(s2)[None], "lowrank"), s2


def logistic(dimension: int) -> Problem:
    """20 logistic distributions with random means, the same in every run; the diagonal of s2.

    The perturbed density differs from it by O(SIGMA^2).
    """
    rng = np.random.default_rng(dimension)
    means = rng.uniform(-1, 1, size=(20, dimension))
    data = LogisticMixture(np.full(20, 1 / 20), means, np.full(20, 0.5))
    return Problem(dimension, data.sample, data.hessian_diagonal, "diagonal")


def best_possible(matrix: np.ndarray, rank: int, steps: int = 60) -> float:
    """min over a and F of |matrix - diag(a) - F F^T|_F^2, with `rank` columns in F.

    By turns: the best F F^T for a, then the best a for F. It can end in a local minimum.
    """
    diagonal, product = np.diag(matrix).min() * np.ones(len(matrix)), 0.0
    for _ in range(steps):
        values, vectors = np.linalg.eigh(matrix - np.diag(diagonal))
        kept, columns = np.maximum(values[-rank:], 0), vectors[:, -rank:]
        product = columns * kept @ columns.T
        diagonal = np.diag(matrix - product)
    return float(np.sum((matrix - np.diag(diagonal) - product) ** 2))


def fit_first(keys: jax.Array, problem: Problem, reduced: bool, hidden: int, how: Training):
    """Networks of s1 by DSM or DSM-VR at SIGMA: a function of their weights, these, the seconds."""
    chain = DiscreteChain(np.ones(1), np.asarray([SIGMA]))
    objective, d = objectives(chain, reduced, problem.form)[0], problem.dimension
    network = Tanh(hidden, d)

    def loss(params, key, given):
        key_x, key_z = jax.random.split(key)
        x0, z = problem.sample(key_x, how.batch), jax.random.normal(key_z, (how.batch, d))
        return jnp.mean(objective.at(score_of(network, params), x0, jnp.zeros(how.batch), z))

    params, seconds = fit(keys, lambda key: network.init(key, jnp.zeros((1, d))), loss, how)
    return (lambda params: score_of(network, params)), params, seconds


def fit_second(keys: jax.Array, problem: Problem, firsts, rank: int, how: Training):
    """s2 by second-order DSM-VR with a frozen s1, as `fit_first`.

    firsts: a function of weights, and these, one row a key.
    """
    chain = DiscreteChain(np.ones(1), np.asarray([SIGMA]))
    objective, d = objectives(chain, True, problem.form)[1], problem.dimension
    network, (score_of_weights, weights) = Tanh(32, d * (1 + rank)), firsts

    def loss(params, key, first):
        key_x, key_z = jax.random.split(key)
        x0, z = problem.sample(key_x, how.batch), jax.random.normal(key_z, (how.batch, d))
        models = score_of_weights(first), low_rank_of(network, params)
        return jnp.mean(objective.at(models, x0, jnp.zeros(how.batch), z))

    def create(key):
        return network.init(key, jnp.zeros((1, d)))

    params, seconds = fit(keys, create, loss, how, weights)
    return (lambda params: low_rank_of(network, params)), params, seconds


def errors_of(key: jax.Array, problem: Problem, curvature_of, params, points: int) -> np.ndarray:
    """Mean over perturbed samples of |s2 - truth|^2 for each row of weights.

    All entries count or, for the form "diagonal", the diagonal ones.
    """
    key_x, key_z = jax.random.split(key)
    x = problem.sample(key_x, points)
    x = x + SIGMA * jax.random.normal(key_z, x.shape)

    @jax.jit
    def of_batch(params, x):
        made, truth = curvature_of(params, x), problem.truth(x)
        difference = (made.diagonal if problem.form == "diagonal" else made.dense()) - truth
        return jnp.mean(jnp.sum(difference.reshape(len(x), -1) ** 2, axis=1))

    rows = [jax.tree.map(lambda leaf, i=i: leaf[i], params) for i in range(count(params))]
    parts = jnp.split(x, max(points // 250, 1))
    return np.asarray([np.mean([of_batch(row, part) for part in parts]) for row in rows])


def count(params) -> int:
    """Rows of weights."""
    return len(jax.tree.leaves(params)[0])


def accuracies(problem: Problem, ranks: tuple[int, ...], options) -> dict[str, np.ndarray]:
    """(seeds, [error, seconds]) of the derivatives and of the direct s2 of each rank."""
    key = jax.random.fold_in(jax.random.key(0), problem.dimension)
    key_first, key_second, key_test = jax.random.split(key, 3)
    firsts, seconds = (jax.random.split(k, options.seeds) for k in (key_first, key_second))
    usual, longer = (
        Training(options.steps, 128),
        Training(options.longer * options.steps, 128, True),
    )
    half = Training(options.steps, 64)  # the direct s2 does with fewer rows
    found, kept = {}, None

    def add(name, curvature_of, params, spent):
        errors = errors_of(key_test, problem, curvature_of, params, options.points)
        found[name] = np.stack([errors, np.full(len(errors), spent)], axis=1)

    for name, reduced, hidden, how in (
        ("s1 by DSM", False, 128, usual),
        ("larger s1 by DSM-VR", True, 256, longer),
        ("s1 by DSM-VR", True, 128, usual),
    ):
        made, params, spent = fit_first(firsts, problem, reduced, hidden, how)
        add(name, lambda p, x, f=made: jacobian_of(f(p), x, 0.0), params, spent)
        kept = made, params
    for rank in ranks:
        made, params, spent = fit_second(seconds, problem, kept, rank, half)
        add(f"s2, r = {rank}", lambda p, x, f=made: f(p)(x, 0.0), params, spent)
    return found


def accuracy_figure(options: argparse.Namespace) -> dict[str, Any]:
    """Print and draw table 4.1."""
    began = time.perf_counter()
    gaussian, s2 = normal()
    problems = {}
    for name in options.densities.split(","):
        if name == "normal":
            problems["normal, 100"] = gaussian, options.ranks
        else:
            problems[f"20 logistics, {name}"] = logistic(int(name)), (0,)
    results = {}
    for title, (problem, ranks) in problems.items():
        table = accuracies(problem, ranks, options)
        best = {rank: best_possible(s2, rank) for rank in ranks if rank}
        print_accuracy(title, problem.dimension, table, best)
        results[title] = table, best
    kind = "reduced: " if options.quick else ""
    print(
        f"{kind}{options.seeds} seed(s), {options.steps} steps of 128 rows, {options.points} "
        f"points; {time.perf_counter() - began:.0f} s"
    )
    draw_accuracy(results, options.output / "accuracy.png")
    print(f"picture: {options.output / 'accuracy.png'}")
    return results


def print_accuracy(title: str, dimension: int, table, best: dict[int, float]) -> None:
    """One density: errors, ratios to the derivative of DSM-VR, seconds, published numbers."""
    header = ("error", "ratio", "best possible", "seconds", "published", "ratio")
    print(f"\n{title:<24}" + "".join(f"{name:>16}" for name in header))
    autodiff = table["s1 by DSM-VR"][:, 0]
    for name, values in table.items():
        rank = int(name.split()[-1]) if name.startswith("s2") else None
        known = PUBLISHED.get(rank or dimension if rank is not None else -1)
        cells = [spread(values[:, 0]), spread(autodiff / values[:, 0])]
        cells += [f"{best[rank]:.3g}" if rank else "", f"{values[:, 1].mean():.0f}"]
        if known:
            cells += [f"{known[1]}", f"{known[0] / known[1]:.2f}"]
        elif name == "s1 by DSM-VR":
            cells += [str(PUBLISHED[15 if dimension == DIMENSION else dimension][0])]
        elif name == "s1 by DSM" and dimension == DIMENSION:
            cells += ["43.8"]
        print(f"{name:<24}" + "".join(f"{cell:>16}" for cell in cells))


def draw_accuracy(results, path: Path) -> None:
    """Errors of every method, a panel for each density."""
    figure = Figure(figsize=(3.4 * len(results), 3.4), layout="constrained")
    axes = np.atleast_1d(figure.subplots(1, len(results)))
    for panel, (title, (table, best)) in zip(axes, results.items(), strict=True):
        for i, (name, values) in enumerate(table.items()):
            panel.plot(np.full(len(values), i), values[:, 0], "o", markersize=4)
            rank = int(name.split()[-1]) if name.startswith("s2") else 0
            if rank:
                panel.plot([i - 0.3, i + 0.3], [best[rank]] * 2, color="gray")
        panel.set_xticks(range(len(table)), list(table), rotation=40, ha="right", fontsize=8)
        panel.set(title=title, yscale="log", ylabel="mean squared error of s2")
    figure.savefig(path, dpi=90)


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Print the tables of a figure and draw it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--figure", choices=["variance", "accuracy"], required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=5000, help="of training, for accuracy")
    parser.add_argument("--longer", type=int, default=2, help="that many times, for the larger s1")
    parser.add_argument("--points", type=int, default=2000, help="where errors are measured")
    parser.add_argument(
        "--densities",
        default="normal,50,80",
        help="of accuracy: normal, or dimensions of logistics",
    )
    parser.add_argument("--quick", action="store_true", help="reduced, to see that it runs")
    parser.add_argument("--output", type=Path, default=Path("runs/second_order"))
    options = parser.parse_args(arguments)
    options.ranks = RANKS
    if options.quick:
        options.seeds, options.steps, options.longer, options.points = 1, 20, 1, 250
        options.ranks, options.densities = (15,), "normal,50"
    options.output.mkdir(parents=True, exist_ok=True)
    return variance_figure(options) if options.figure == "variance" else accuracy_figure(options)


if __name__ == "__main__":
    main()
