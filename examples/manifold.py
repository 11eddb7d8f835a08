"""Data on a manifold have no score around it: score matching fails without a little noise.

Figure 5.1 of the dissertation (section 5.3.1, settings in B.3.2). A residual auto-encoder is
trained by sliced score matching on images in [0, 1] as they are, and with noise N(0, 0.0001) that
nobody sees. Published: on CIFAR-10, 50,000 steps of Adam at 0.001 with batches of 128, and twice
the filters. From the repository root:

    python examples/manifold.py [--steps 1000] [--images digits] [--output runs/manifold]

trains both, some minutes on two CPU cores, and draws the loss curves side by side. Seen in 1500
steps on digits: without noise the loss falls to -3000 and breaks down to +3000. It does so again
with ever smaller falls, until it stays near 0. With noise it falls to about -4000 by step 800 and
stays there, with single bad steps, noisier than the published curve.

`--images` takes digits, a folder of pictures, or the name of a prepared TFDS data set; sides must
be multiples of 4.
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

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from score_sde.data import FolderSource, Source, TFDSSource, digits, take
from score_sde.networks.autoencoder import ResNetAutoencoder
from score_sde.objectives import SlicedScoreMatching
from score_sde.parameterize import Parameterization


def load(name: str, size: int | None) -> np.ndarray:
    """Images in [0, 1], float32 (n, h, w, c)."""
    if name == "digits":
        source: Source = digits("train")
    elif Path(name).is_dir():
        source = FolderSource(name, image_size=size, split="all", held_out=0.0)
    else:
        source = TFDSSource(name, "train")
    return np.asarray(take(source, np.arange(len(source)))["image"], np.float32) / (
        source.levels - 1
    )


def train(images: np.ndarray, noise: float, steps: int, nf: int, seed: int) -> np.ndarray:
    """Loss at every step of training on the images with noise of that standard deviation."""
    network, optimizer, objective = ResNetAutoencoder(nf), optax.adam(1e-3), SlicedScoreMatching()
    from_unit = Parameterization(c_noise=lambda t: t, centre=True)
    key_init, key_train = jax.random.split(jax.random.key(seed))
    data = jnp.asarray(images)
    params = network.init(key_init, data[:1], jnp.zeros(1))

    @jax.jit
    def step(params, state, key):
        key_rows, key_noise, key_loss = jax.random.split(key, 3)
        x = data[jax.random.randint(key_rows, (128,), 0, len(data))]
        x = x + noise * jax.random.normal(key_noise, x.shape)

        def loss(params):
            score_fn = from_unit.score_fn(lambda x, t: network.apply(params, x, t))
            return jnp.mean(objective(key_loss, score_fn, x))

        value, gradient = jax.value_and_grad(loss)(params)
        updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state, value

    # A loop, not a scan: convolutions inside a scan run on one core where there is no accelerator.
    state, losses = optimizer.init(params), []
    for i in range(steps):
        params, state, value = step(params, state, jax.random.fold_in(key_train, i))
        losses.append(value)
    return np.asarray(losses)


def roughness(losses: np.ndarray) -> float:
    """Median absolute change from step to step over the last third.

    It is relative to the median loss there.
    """
    tail = losses[-max(2, len(losses) // 3) :].astype(np.float64)
    return float(np.median(np.abs(np.diff(tail))) / abs(np.median(tail)))


def draw(curves: dict[str, np.ndarray], path: Path) -> None:
    """Loss curves side by side, as in figure 5.1."""
    figure = Figure(figsize=(10, 3.7), layout="constrained")
    axes: list[Axes] = list(figure.subplots(1, 2))
    for panel, (title, losses) in zip(axes, curves.items(), strict=True):
        panel.plot(losses, linewidth=0.6)
        panel.set(title=title, xlabel="step", ylabel="sliced score matching loss")
    figure.savefig(path, dpi=100)


def main(arguments: list[str] | None = None) -> dict[str, np.ndarray]:
    """Train without and with noise, print and draw the losses."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", default="digits", help="digits, a folder, or a TFDS data set")
    parser.add_argument(
        "--size", type=int, help="crop and resize the pictures of a folder to this side"
    )
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument(
        "--nf", type=int, default=16, help="filters of the first block; published: 32"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("runs/manifold"))
    options = parser.parse_args(arguments)
    images = load(options.images, options.size)
    curves = {}
    for name, noise in {"no noise": 0.0, "noise N(0, 0.0001)": 0.01}.items():
        curves[name] = train(images, noise, options.steps, options.nf, options.seed)
        marks = curves[name][np.linspace(0, options.steps - 1, 7).astype(int)]
        print(f"{name:<20} loss " + " ".join(f"{mark:.4g}" for mark in marks))
        print(
            f"{'':<20} change from step to step over the last third {roughness(curves[name]):.3f}"
        )
    options.output.mkdir(parents=True, exist_ok=True)
    draw(curves, options.output / "manifold.png")
    print(f"picture: {options.output / 'manifold.png'}")
    return curves


if __name__ == "__main__":
    main()
