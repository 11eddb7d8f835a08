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
steps and a learning rate that falls; one who wants s2 could train such an s1 instead. "Exact s1"
learns s2 with the true s1, which shows what errors of s1 do to s2.
"""

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(Path(__file__).resolve().parent))

from second_order_accuracy import RANKS, accuracy_figure
from second_order_networks import Tanh, Training, fit, matrix_of, objectives, score_of, spread

from score_sde.sde import DiscreteChain

SIGMAS = (1e-3, 1e-2, 1e-1)


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


def train_plane(keys: jax.Array, how: Training, kinds=("plain", "VR")) -> dict[str, np.ndarray]:
    """Mean squared errors (seeds, sigma, order) after training without and with reduction.

    Both orders are trained together, by the sum of their losses.
    """
    chain, levels = plane_chain(), jnp.arange(float(len(SIGMAS)))
    variances = 1 + jnp.asarray(SIGMAS) ** 2
    found: dict[str, np.ndarray] = {}
    for kind in kinds:
        first, second = objectives(chain, kind == "VR", "full")

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
        found[kind] = np.asarray(made, np.float64)
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
    kinds = ("VR",) if options.quick else ("plain", "VR")
    errors = train_plane(jax.random.split(jax.random.key(1), options.seeds), how, kinds)
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
    parser.add_argument(
        "--target",
        choices=["noise", "residual"],
        default="noise",
        help="what a direct s2 is fitted to: noise as published, or errors of the denoised",
    )
    parser.add_argument("--ranks", default="", help="for accuracy, like 15,30; default 15,20,30")
    parser.add_argument("--quick", action="store_true", help="reduced, to see that it runs")
    parser.add_argument("--output", type=Path, default=Path("runs/second_order"))
    options = parser.parse_args(arguments)
    options.ranks = tuple(int(r) for r in options.ranks.split(",")) if options.ranks else RANKS
    if options.quick:
        options.seeds, options.steps, options.longer, options.points = 1, 20, 1, 250
        options.ranks, options.densities = (15,), "normal"
    options.output.mkdir(parents=True, exist_ok=True)
    return variance_figure(options) if options.figure == "variance" else accuracy_figure(options)


if __name__ == "__main__":
    main()
