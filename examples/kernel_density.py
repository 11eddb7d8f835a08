"""Density estimation with a deep kernel exponential family, by seven objectives (figure 3.1).

The dissertation's section 3.5.1 with the settings of B.1.1, on a table of the UCI repository. The
published figure has no numbers to compare with; it shows that sliced score matching is as good as
exact score matching, and approximate back-propagation useless. From the repository root:

    python examples/kernel_density.py --file winequality-red.csv --without quality [--seeds 3]

prints, for each objective, the exact score matching loss and the log-likelihood of test rows: means
over random splits, with standard errors. `--quick` is reduced: fewer steps and points, one split.
The likelihood takes annealed importance sampling for the constant; published is plain importance
sampling from q0, which overrates likelihoods where few weights decide.

What differs from the published runs: whitening sees training rows alone; all objectives are
validated by themselves on validation rows; the last ridge is the best of a grid.
"""

import argparse
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from score_sde.data.tables import Split, dequantize, informative, read_table, split
from score_sde.likelihood import AnnealedImportanceSampling
from score_sde.networks.kernel_exponential import DeepKernelExponentialFamily
from score_sde.objectives import (
    DenoisingScoreMatching,
    ExactScoreMatching,
    SlicedScoreMatching,
    UniformIndex,
    exponential,
)
from score_sde.objectives.exponential import QuadraticForm
from score_sde.parameterize import EnergyScore
from score_sde.sde import DiscreteChain

NOISE = 0.05
BATCH = 100
CHECK = 50
"""Steps between validations."""
PATIENCE = 4
"""Validations without gain, after which training ends."""
RIDGES = np.geomspace(1e-6, 1.0, 25)
Family = DeepKernelExponentialFamily


class Method(NamedTuple):
    """form: (family, key, rows) -> what alpha minimizes. losses: of each row, at a given alpha.

    Both are the same objective. The form needs derivatives of all kernels, the losses those of
    their sum alone.
    """

    form: Callable[[Family, jax.Array, jax.Array], QuadraticForm]
    losses: Callable[[Family, jax.Array, jax.Array, jax.Array], jax.Array]


def _by(objective, form) -> Method:
    """An objective of score functions."""

    def losses(model, alpha, key, x):
        return objective(key, EnergyScore(lambda x, t: model.log_density(alpha, x)), x)

    return Method(form, losses)


def _with(form) -> Method:
    """An objective that is known as a quadratic form alone."""
    return Method(form, lambda model, alpha, key, x: form(model, key, x).losses(alpha))


def _sliced(reduced: bool) -> Method:
    objective = SlicedScoreMatching(1, "rademacher", reduced)

    def form(model, key, x):
        return exponential.sliced(model.features, x, objective.draw(key, x), reduced)

    return _by(objective, form)


def _denoising(sigma: float) -> Method:
    chain = DiscreteChain(np.ones(1), np.asarray([sigma]))
    objective = DenoisingScoreMatching(chain, UniformIndex(chain), jnp.ones_like, "sum")

    def form(model, key, x):
        z = jax.random.normal(key, x.shape, x.dtype)
        return exponential.denoising(model.features, x, z, sigma)

    return _by(objective, form)


def _propagated(model, key, x):
    traces = jax.vmap(model.hessian_traces)(x, jax.random.split(key, len(x)))
    return exponential.with_traces(model.features, x, traces)


def _approximate(model, key, x):
    traces = jax.vmap(model.hessian_traces)(x)
    return exponential.with_traces(model.features, x, traces)


METHODS = {
    "sm": _by(ExactScoreMatching(), lambda model, key, x: exponential.exact(model.features, x)),
    "ssm": _sliced(False),
    "ssm_vr": _sliced(True),
    "cp": _with(_propagated),
    "approx_bp": _with(_approximate),
}
"""dsm has a noise level, and is made with it."""


def train(method: Method, data: Split, key: jax.Array, options: argparse.Namespace):
    """The model and alpha of the best validation, both trained by one objective."""
    train_rows, validation = (jnp.asarray(a, jnp.float32) for a in (data.train, data.validation))
    key_points, key_model, key_steps, key_held = jax.random.split(key, 4)
    chosen = jax.random.choice(key_points, len(train_rows), (options.points,), replace=False)
    model = DeepKernelExponentialFamily.create(key_model, train_rows[chosen])
    optimizer = optax.chain(optax.clip_by_global_norm(100.0), optax.adam(1e-2))

    def step(rows, carry, key):
        model, state = carry
        key_rows, key_noise, key_a, key_b = jax.random.split(key, 4)
        x = jax.random.choice(key_rows, rows, (2 * BATCH,), replace=False)
        x = x + NOISE * jax.random.normal(key_noise, x.shape)

        def loss(model):
            alpha = method.form(model, key_a, x[:BATCH]).solve(jnp.exp(model.log_ridge))
            return jnp.mean(method.losses(model, alpha, key_b, x[BATCH:]))

        updates, state = optimizer.update(jax.grad(loss)(model), state, model)
        return (optax.apply_updates(model, updates), state), None

    @jax.jit  # the rows are arguments: as constants they would be folded, for minutes
    def advance(model, state, keys, rows, held):
        each = jax.random.split(keys[0], CHECK)
        (model, state), _ = jax.lax.scan(partial(step, rows), (model, state), each)
        alpha = method.form(model, keys[1], rows[:1000]).solve(jnp.exp(model.log_ridge))
        return model, state, jnp.mean(method.losses(model, alpha, keys[1], held))

    best, state, least, waited = model, optimizer.init(model), np.inf, 0
    for i in range(0, options.steps, CHECK):
        keys = jax.random.fold_in(key_steps, i), key_held
        model, state, held = advance(model, state, keys, train_rows, validation)
        waited = 0 if held < least else waited + 1
        if held < least:
            best, least = model, float(held)
        if waited >= PATIENCE:
            break
    return best, _last_ridge(method, best, train_rows, validation, key_held)


def _last_ridge(method, model, train_rows, validation, key):
    """alpha of all training rows with the ridge that validates best."""

    @jax.jit
    def run(model, key, train_rows, validation, ridges):
        alphas = jax.lax.map(method.form(model, key, train_rows).solve, ridges)
        losses = jax.lax.map(
            lambda alpha: jnp.mean(method.losses(model, alpha, key, validation)), alphas
        )
        return alphas, losses

    alphas, losses = run(model, key, train_rows, validation, jnp.asarray(RIDGES, jnp.float32))
    return alphas[jnp.nanargmin(losses)]


def assess(model, alpha, test: np.ndarray, key, temperatures: int) -> tuple[float, float]:
    """(exact score matching loss, mean log-likelihood) of test rows."""
    x, sampler = jnp.asarray(test, jnp.float32), AnnealedImportanceSampling(temperatures, 5, 32)

    @jax.jit
    def run(model, alpha, x, key):
        def ratio(z):
            a = jnp.append(alpha, jnp.ones((), alpha.dtype))
            normal = -0.5 * jnp.sum(z**2) - 0.5 * len(z) * jnp.log(2 * jnp.pi)
            return model.features(z) @ a - normal

        losses = exponential.exact(model.features, x).losses(alpha)
        constant = sampler(key, ratio, x.shape[1]).value
        return jnp.mean(losses), jnp.mean(model.log_density(alpha, x)) - constant

    loss, likelihood = run(model, alpha, x, key)
    return float(loss), float(likelihood)


def gaussian(data: Split) -> tuple[float, float]:
    """The same two numbers of one Gaussian, fitted to the training rows."""
    mean, covariance = data.train.mean(axis=0), np.cov(data.train.T)
    precision = np.linalg.inv(covariance)
    scores = -(data.test - mean) @ precision
    loss = -np.trace(precision) + 0.5 * np.mean(np.sum(scores**2, axis=1))
    quadratic = np.mean(np.sum((data.test - mean) * -scores, axis=1))
    log_det = np.linalg.slogdet(2 * np.pi * covariance)[1]
    return float(loss), float(-0.5 * quadratic - 0.5 * log_det)


def table(results: dict[str, list[tuple[float, float, float]]], note: str) -> str:
    """Mean and standard error over splits of each method."""
    lines = [f"{'':<12}{'test SM loss':>24}{'log-likelihood':>24}{'seconds':>10}  published"]
    for name, rows in results.items():
        values = np.asarray(rows)
        cells = [f"{mean:.4g}" for mean in values.mean(axis=0)]
        if len(values) > 1:
            errors = values.std(axis=0, ddof=1) / len(values) ** 0.5
            cells = [f"{m} +- {e:.2g}" for m, e in zip(cells, errors, strict=True)]
        seconds = f"{values[:, 2].mean():.0f}"
        lines.append(f"{name:<12}{cells[0]:>24}{cells[1]:>24}{seconds:>10}  a figure, no numbers")
    return "\n".join([*lines, note])


def main(arguments: list[str] | None = None) -> dict[str, list[tuple[float, float, float]]]:
    """Train by each objective on each split, print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--file", type=Path, required=True, help="CSV with a header, `,` or `;`")
    parser.add_argument("--without", default="", help="columns to leave out, like the label")
    parser.add_argument("--objectives", default="sm,ssm,ssm_vr,dsm,cp,approx_bp")
    parser.add_argument("--unique", action="store_true", help="leave out rows that repeat others")
    parser.add_argument("--seeds", type=int, default=3, help="random splits")
    parser.add_argument("--steps", type=int, default=1000, help="of training, at most")
    parser.add_argument("--points", type=int, default=200, help="inducing points")
    parser.add_argument("--sigma", type=float, default=0.16, help="noise level of dsm")
    parser.add_argument("--temperatures", type=int, default=300, help="of the constant")
    parser.add_argument("--quick", action="store_true", help="one split, 200 steps, 100 points")
    options = parser.parse_args(arguments)
    if options.quick:
        options.seeds, options.steps, options.points = 1, min(options.steps, 200), 100
        options.temperatures = 100
    numbers = read_table(options.file).without([n for n in options.without.split(",") if n])
    values, results = informative(numbers).values, {"gaussian": []}
    if options.unique:
        values = np.unique(values, axis=0)
    for seed in range(options.seeds):
        data = split(dequantize(values, seed), seed)
        results["gaussian"].append((*gaussian(data), 0.0))
        for name in options.objectives.split(","):
            method = _denoising(options.sigma) if name == "dsm" else METHODS[name]
            began = time.perf_counter()
            model, alpha = train(method, data, jax.random.key(seed), options)
            seconds = time.perf_counter() - began
            found = assess(model, alpha, data.test, jax.random.key(seed + 1), options.temperatures)
            results.setdefault(name, []).append((*found, seconds))
            line = f"split {seed}, {name}: loss {found[0]:.4g}, log-likelihood {found[1]:.4g}"
            print(f"{line}, {seconds:.0f} s", flush=True)
    kind = "reduced: " if options.quick or options.steps < 1000 else ""
    note = f"{kind}{options.seeds} split(s), {len(values)} rows of {values.shape[1]} columns"
    note += f", at most {options.steps} steps"
    print(table(results, note))
    return results


if __name__ == "__main__":
    main()
