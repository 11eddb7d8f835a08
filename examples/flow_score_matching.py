"""NICE trained by score matching in place of likelihood (table 3.1).

The dissertation's section 3.5.2: four additive couplings of five linear maps, in logit space. The
published rows of curvature propagation and approximate back-propagation are beside ours for
completeness: the released code differentiates the wrong half in two of its four couplings. From the
repository root:

    python examples/flow_score_matching.py [--mnist FOLDER] [--epochs 2] [--hidden 200]

prints the exact score matching loss and the log-likelihood of test images by each method, beside
the published numbers, which are of MNIST with 1000 hidden units and 100 epochs. FOLDER has the idx
files of MNIST; without it the embedded 8 x 8 digits are used. `--quick` takes a minute or two.
"""

import argparse
import gzip
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from score_sde.networks.curvature import approximate_backpropagation, curvature_propagation
from score_sde.networks.nice import NICE, to_logits
from score_sde.objectives import (
    DenoisingScoreMatching,
    ExactScoreMatching,
    SlicedScoreMatching,
    UniformIndex,
)
from score_sde.parameterize import EnergyScore
from score_sde.sde import DiscreteChain

PUBLISHED = {
    "mle": (-579, -791),
    "ssm_vr": (-8054, -3355),
    "ssm": (-2428, -2039),
    "dsm_0.1": (-3035, -4363),
    "dsm_1.74": (-97, -8082),
    "cp": (-1694, -1517),
    "approx_bp": (-48, -2288),
}
"""(test score matching loss, log-likelihood in logit space) of MNIST, table 3.1."""
Loss = Callable[[NICE, jax.Array, jax.Array], jax.Array]


def _by(objective) -> Loss:
    """The mean loss of an objective of score functions."""

    def loss(model, key, x):
        return jnp.mean(objective(key, EnergyScore(lambda x, t: model.log_prob(x)), x))

    return loss


def _denoising(sigma: float) -> Loss:
    chain = DiscreteChain(np.ones(1), np.asarray([sigma]))
    return _by(
        DenoisingScoreMatching(chain, UniformIndex(chain), lambda t: sigma**4 + 0 * t, "sum")
    )


def _likelihood(model, key, x):
    return -jnp.mean(model.log_prob(x))


def _curvature(estimate) -> Loss:
    """|score|^2/2 and the trace by one of the two baselines."""

    def loss(model, key, x):
        gradients, diagonals = jax.vmap(partial(estimate, model.layers()))(
            x, jax.random.split(key, len(x))
        )
        return jnp.mean(jnp.sum(diagonals + 0.5 * gradients**2, axis=1))

    return loss


METHODS: dict[str, Loss] = {
    "mle": _likelihood,
    "ssm_vr": _by(SlicedScoreMatching()),
    "ssm": _by(SlicedScoreMatching(variance_reduced=False)),
    "dsm_0.1": _denoising(0.1),
    "dsm_1.74": _denoising(1.74),
    "cp": _curvature(lambda layers, x, key: curvature_propagation(key, layers, x)),
    "approx_bp": _curvature(lambda layers, x, key: approximate_backpropagation(layers, x)),
}


def images(folder: Path | None, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Train and test pixels in [0, 1] with uniform noise of one level, flattened."""
    if folder is None:
        from sklearn.datasets import load_digits

        pixels, levels, held = load_digits().data, 17, 360
    else:
        parts = []
        for name in ("train", "t10k"):
            with gzip.open(folder / f"{name}-images-idx3-ubyte.gz") as file:
                parts.append(np.frombuffer(file.read(), np.uint8, offset=16).reshape(-1, 784))
        pixels, levels, held = np.concatenate(parts).astype(float), 256, 10_000
    rng = np.random.default_rng(seed)
    noisy = (pixels + rng.uniform(-0.5, 0.5, pixels.shape)) / (levels - 1)
    return noisy[:-held].astype(np.float32), noisy[-held:].astype(np.float32)


def train(loss: Loss, x: np.ndarray, options: argparse.Namespace, seed: int) -> tuple[NICE, float]:
    """The trained flow, and seconds without compilation of the first step."""
    key = jax.random.key(seed)
    model = NICE.create(jax.random.fold_in(key, 0), x.shape[1], options.hidden, options.depth)
    optimizer = optax.adam(options.lr)
    data, steps = jnp.asarray(x), options.epochs * len(x) // options.batch

    @jax.jit
    def step(model, state, key):
        key_rows, key_loss = jax.random.split(key)
        rows = to_logits(data[jax.random.randint(key_rows, (options.batch,), 0, len(data))])
        gradient = jax.grad(loss)(model, key_loss, rows)
        updates, state = optimizer.update(gradient, state, model)
        return optax.apply_updates(model, updates), state

    state = optimizer.init(model)
    model, state = jax.block_until_ready(step(model, state, jax.random.fold_in(key, 1)))
    began = time.perf_counter()
    for i in range(1, steps):
        model, state = step(model, state, jax.random.fold_in(key, i + 1))
    jax.block_until_ready(model)
    return model, time.perf_counter() - began


def assess(model: NICE, x: np.ndarray) -> tuple[float, float]:
    """(exact score matching loss, log-likelihood in logit space), means over images."""
    rows = to_logits(jnp.asarray(x))
    score_fn = EnergyScore(lambda x, t: model.log_prob(x))
    objective = ExactScoreMatching(chunk=16)
    loss = jax.jit(lambda x: objective.at(score_fn, x, jnp.zeros(())))
    losses = [loss(part) for part in np.array_split(rows, max(1, len(rows) // 100))]
    return float(jnp.mean(jnp.concatenate(losses))), float(jnp.mean(model.log_prob(rows)))


def main(arguments: list[str] | None = None) -> dict[str, np.ndarray]:
    """Train by each method, print the table; returns (seeds, 3) of each method."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--mnist", type=Path, help="folder with the idx files")
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--hidden", type=int, default=1000)
    parser.add_argument("--depth", type=int, default=5, help="linear maps of a coupling")
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--images", type=int, default=500, help="test images that are assessed")
    parser.add_argument("--quick", action="store_true", help="64 hidden units, a few epochs")
    options = parser.parse_args(arguments)
    if options.quick:
        options.hidden, options.images = min(options.hidden, 64), min(options.images, 200)
        options.epochs = min(options.epochs, 20 if options.mnist is None else 1)
    results: dict[str, list[tuple[float, float, float]]] = {}
    for seed in range(options.seeds):
        training, test = images(options.mnist, seed)
        for name in options.methods.split(","):
            model, seconds = train(METHODS[name], training, options, seed)
            found = assess(model, test[: options.images])
            results.setdefault(name, []).append((*found, seconds))
    show({name: np.asarray(rows) for name, rows in results.items()}, options)
    return {name: np.asarray(rows) for name, rows in results.items()}


def show(results: dict[str, np.ndarray], options: argparse.Namespace) -> None:
    """Print the table: means, standard errors over seeds, seconds, published numbers."""
    data = "MNIST" if options.mnist else "8 x 8 digits, not comparable with the published MNIST"
    print(f"{data}; {options.hidden} units, {options.epochs} epochs, {options.seeds} seed(s)")
    head = ("test SM loss", "log-likelihood", "seconds", "published SM loss, LL")
    print(f"{'':<10}{head[0]:>22}{head[1]:>22}{head[2]:>9}{head[3]:>24}")
    for name, rows in results.items():
        cells = [f"{mean:.5g}" for mean in rows.mean(axis=0)]
        if len(rows) > 1:
            errors = rows.std(axis=0, ddof=1) / len(rows) ** 0.5
            cells = [f"{m} +- {e:.2g}" for m, e in zip(cells, errors, strict=True)]
        published = "{}, {}".format(*PUBLISHED[name])
        seconds = rows[:, 2].mean()
        print(f"{name:<10}{cells[0]:>22}{cells[1]:>22}{seconds:>9.0f}{published:>24}")


if __name__ == "__main__":
    main()
