"""Table 4.1 of `second_order.py`: errors of the derivative of s1, and of a direct s2."""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure
from second_order_networks import Tanh, Training, fit, low_rank_of, objectives, score_of, spread

from score_sde.analytic import GaussianMixture, LogisticMixture
from score_sde.curvature import jacobian_of
from score_sde.sde import DiscreteChain

SIGMA = 0.01
RANKS = (15, 20, 30)
DIMENSION, RANK = 100, 40
"""Of the normal distribution, and of B."""
NOW = jnp.asarray(0.0)
"""The time of the one noise level."""
PUBLISHED = {
    100: {
        "s1 by DSM": 43.80,
        "s1 by DSM-VR": 9.40,
        "s2, r = 15": 7.12,
        "s2, r = 20": 5.24,
        "s2, r = 30": 1.76,
    },
    50: {"s1 by DSM-VR": 26.41, "s2, r = 0": 18.43},
    80: {"s1 by DSM-VR": 32.80, "s2, r = 0": 21.68},
}
"""Errors by dimension; of the smaller logistic mixture the dimension is a guess."""
EXACT = "s2, r = 0, exact s1"


class Problem(NamedTuple):
    """A density of table 4.1: its samples, s1 and s2 at points, and the form of the direct s2."""

    dimension: int
    sample: Callable[[jax.Array, int], jax.Array]
    score: Callable[[jax.Array], jax.Array]
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
    s2 = np.asarray(data.hessian(chain, jnp.zeros((1, DIMENSION)), NOW).matrix[0])

    def score(x):
        return data.score(chain, x, NOW)

    return Problem(DIMENSION, data.sample, score, lambda x: jnp.asarray(s2)[None], "lowrank"), s2


def logistic(dimension: int) -> Problem:
    """20 logistic distributions with random means, the same in every run; the diagonal of s2.

    The perturbed density differs from it by O(SIGMA^2).
    """
    rng = np.random.default_rng(dimension)
    means = rng.uniform(-5, 5, size=(20, dimension))
    data = LogisticMixture(np.full(20, 1 / 20), means, np.full(20, 0.5))
    return Problem(dimension, data.sample, data.score, data.hessian_diagonal, "diagonal")


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
    """s2 by second-order DSM-VR with a frozen s1, as `fit_first`; `how` has its target.

    firsts: a function of weights, and these, one row a key.
    """
    chain = DiscreteChain(np.ones(1), np.asarray([SIGMA]))
    objective, d = objectives(chain, True, problem.form, how.target)[1], problem.dimension
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
    half = Training(options.steps, 64, target=options.target)  # the direct s2 does with fewer rows
    found, kept = {}, None

    def add(name, curvature_of, params, spent):
        errors = errors_of(key_test, problem, curvature_of, params, options.points)
        found[name] = np.stack([errors, np.full(len(errors), spent)], axis=1)

    networks = {
        "s1 by DSM": (False, 128, usual),
        "larger s1 by DSM-VR": (True, 256, longer),
        "s1 by DSM-VR": (True, 128, usual),
    }
    for name in list(networks)[2 if options.quick else 0 :]:
        reduced, hidden, how = networks[name]
        made, params, spent = fit_first(firsts, problem, reduced, hidden, how)
        add(name, lambda p, x, f=made: jacobian_of(f(p), x, NOW), params, spent)
        kept = made, params
    exact = (lambda _: lambda x, t: problem.score(x)), jnp.zeros(options.seeds)
    rows = [(f"s2, r = {rank}", rank, kept) for rank in ranks]
    rows += [(EXACT, 0, exact)] if ranks == (0,) else []
    for name, rank, first in rows:
        made, params, spent = fit_second(seconds, problem, first, rank, half)
        add(name, lambda p, x, f=made: f(p)(x, NOW), params, spent)
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
        best = {f"s2, r = {rank}": best_possible(s2, rank) for rank in ranks if rank}
        print_accuracy(title, problem, table, best)
        results[title] = table, best
    kind = "reduced: " if options.quick else ""
    print(
        f"{kind}{options.seeds} seed(s), {options.steps} steps of 128 rows, {options.points} "
        f"points; {time.perf_counter() - began:.0f} s"
    )
    draw_accuracy(results, options.output / "accuracy.png")
    print(f"picture: {options.output / 'accuracy.png'}")
    return results


def print_accuracy(title: str, problem: Problem, table, best: dict[str, float]) -> None:
    """One density: errors, ratios to the derivative of DSM-VR, seconds, published numbers."""
    header = ("error", "ratio", "best possible", "seconds", "published", "ratio")
    print(f"\n{title:<24}" + "".join(f"{name:>18}" for name in header))
    autodiff, known = table["s1 by DSM-VR"][:, 0], PUBLISHED.get(problem.dimension, {})
    for name, values in table.items():
        cells = [spread(values[:, 0]), spread(autodiff / values[:, 0])]
        cells += [f"{best[name]:.3g}" if name in best else "", f"{values[:, 1].mean():.0f}"]
        if name in known:
            cells += [f"{known[name]:.2f}", f"{known['s1 by DSM-VR'] / known[name]:.2f}"]
        print(f"{name:<24}" + "".join(f"{cell:>18}" for cell in cells))
    x = problem.sample(jax.random.key(2), 4000)
    truth = np.broadcast_to(problem.truth(x), (4000, *problem.truth(x[:1]).shape[1:]))
    print(f"the best constant s2: {np.sum(truth.var(axis=0, dtype=np.float64)):.3g}", flush=True)


def draw_accuracy(results, path: Path) -> None:
    """Errors of every method, a panel for each density."""
    figure = Figure(figsize=(3.4 * len(results), 3.4), layout="constrained")
    axes = np.atleast_1d(figure.subplots(1, len(results)))
    for panel, (title, (table, best)) in zip(axes, results.items(), strict=True):
        for i, (name, values) in enumerate(table.items()):
            panel.plot(np.full(len(values), i), values[:, 0], "o", markersize=4)
            if name in best:
                panel.plot([i - 0.3, i + 0.3], [best[name]] * 2, color="gray")
        panel.set_xticks(range(len(table)), list(table), rotation=40, ha="right", fontsize=8)
        panel.set(title=title, yscale="log", ylabel="mean squared error of s2")
    figure.savefig(path, dpi=90)
