"""A score learned by sliced score matching is right where the data are, and wrong elsewhere.

Figure 5.2 of the dissertation (section 5.3.2, settings in B.3.2): 1/5 N((-5,-5), I) + 4/5 N((5,5),
I), a network of three layers with 128 softplus units, 10,000 steps of Adam at 0.001 with batches
of 128. From the repository root:

    python examples/score_field.py [--steps 10000] [--output runs/score_field]

trains it, some seconds on two CPU cores. It prints the mean squared error near the modes and away
from them, and draws both fields over the density.
"""

import argparse
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from score_sde.analytic import GaussianMixture
from score_sde.arrays import ScoreFn, batch_time
from score_sde.networks.mlp import ScoreMLP
from score_sde.objectives import SlicedScoreMatching
from score_sde.sde import DiscreteChain

MEANS = np.array([[-5.0, -5.0], [5.0, 5.0]])
DATA = GaussianMixture.isotropic([0.2, 0.8], MEANS, 1.0)
CLEAN = DiscreteChain(np.ones(1), np.zeros(1))
"""Data without noise."""


def train(steps: int, seed: int = 0, batch: int = 128) -> tuple[ScoreFn, np.ndarray]:
    """The learned score function, and the loss at every step."""
    network, optimizer, objective = (
        ScoreMLP(),
        optax.adam(1e-3),
        SlicedScoreMatching(kind="gaussian"),
    )
    key_init, key_train = jax.random.split(jax.random.key(seed))
    params = network.init(key_init, jnp.zeros((1, 2)), jnp.zeros(1))

    def score_fn(params):
        return lambda x, t: network.apply(params, x, batch_time(t, x))

    def step(carry, key):
        params, state = carry
        key_data, key_loss = jax.random.split(key)
        x = DATA.sample(key_data, batch)
        loss, gradient = jax.value_and_grad(
            lambda p: jnp.mean(objective(key_loss, score_fn(p), x))
        )(params)
        updates, state = optimizer.update(gradient, state, params)
        return (optax.apply_updates(params, updates), state), loss

    keys = jax.random.split(key_train, steps)
    (params, _), losses = jax.jit(lambda carry: jax.lax.scan(step, carry, keys))(
        (params, optimizer.init(params))
    )
    return score_fn(params), np.asarray(losses)


def grid(n: int) -> np.ndarray:
    """(n * n, 2) points of [-8, 8]^2, row by row."""
    side = np.linspace(-8, 8, n, dtype=np.float32)
    return np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2)


def errors(score_fn: ScoreFn) -> dict[str, tuple[float, float]]:
    """Mean of |estimate - score|^2 and of |score|^2, by region of [-8, 8]^2."""
    points = grid(161)
    to_modes = np.linalg.norm(points[:, None] - MEANS[None], axis=2)
    regions = {
        "within 1 of (5, 5)": to_modes[:, 1] < 1,
        "within 1 of (-5, -5)": to_modes[:, 0] < 1,
        "within 2 of (0, 0)": np.linalg.norm(points, axis=1) < 2,
        "over 4 from both modes": to_modes.min(axis=1) > 4,
    }
    exact, estimate = (
        np.asarray(f(jnp.asarray(points), jnp.zeros(()))) for f in (DATA.score_fn(CLEAN), score_fn)
    )
    squares, sizes = np.sum((estimate - exact) ** 2, axis=1), np.sum(exact**2, axis=1)
    return {
        name: (float(squares[inside].mean()), float(sizes[inside].mean()))
        for name, inside in regions.items()
    }


def draw(score_fn: ScoreFn, path: Path) -> None:
    """Score of the data and estimate over the density, as in figure 5.2.

    Rectangles show where they should agree.
    """
    figure = Figure(figsize=(9, 4.6), layout="constrained")
    axes: list[Axes] = list(figure.subplots(1, 2))
    fine, coarse = grid(200), grid(20)
    density = np.exp(np.asarray(DATA.log_prob(CLEAN, jnp.asarray(fine), jnp.zeros(())))).reshape(
        200, 200
    )
    fields = {"score of the data": DATA.score_fn(CLEAN), "estimate": score_fn}
    for panel, (title, field) in zip(axes, fields.items(), strict=True):
        arrows = np.asarray(field(jnp.asarray(coarse), jnp.zeros(())))
        panel.imshow(density, extent=(-8, 8, -8, 8), origin="lower", cmap="Oranges")
        panel.quiver(*coarse.T, *arrows.T, width=0.004, angles="xy", scale=150)
        for mean in MEANS:
            panel.add_patch(Rectangle(mean - 2, 4, 4, fill=False, color="red"))
        panel.set(title=title, xlim=(-8.6, 8.6), ylim=(-8.6, 8.6))
    figure.savefig(path, dpi=100)


def main(arguments: list[str] | None = None) -> dict[str, tuple[float, float]]:
    """Train, print the errors by region, draw the fields."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=10_000, help="of training")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("runs/score_field"))
    options = parser.parse_args(arguments)
    score_fn, losses = train(options.steps, options.seed)
    tail = losses[-min(1000, len(losses)) :]
    print(f"loss over the last {len(tail)} steps: {tail.mean():.3f}")
    result = errors(score_fn)
    print(f"{'':<24} {'|error|^2':>10} {'|score|^2':>10}")
    for name, (error, size) in result.items():
        print(f"{name:<24} {error:>10.3f} {size:>10.3f}")
    options.output.mkdir(parents=True, exist_ok=True)
    draw(score_fn, options.output / "score_field.png")
    print(f"picture: {options.output / 'score_field.png'}")
    return result


if __name__ == "__main__":
    main()
