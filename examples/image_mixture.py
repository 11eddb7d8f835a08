"""The largest noise scale must be as large as the distances between images.

Figure 6.2 of the dissertation (section 6.3.1): the data are up to 10,000 images. With noise they
are a mixture of Gaussians, whose score is known. Annealed Langevin dynamics starts from uniform
noise. With a small sigma_1 its samples reach few of the images. With sigma_1 = the largest
distance between two of them (technique 6.1) they are as diverse as the images. From the repository
root:

    python examples/image_mixture.py [--images digits] [--output runs/image_mixture]

`--images` takes digits, a folder of pictures, or the name of a prepared TFDS data set. The number
of scales and the step size follow from sigma_1 (techniques 6.2 and 6.4), so sigma_1 is all that
differs. The small one, `--sigma`, is by default 1/17.78 of the mean distance: 1 on CIFAR-10, as
published.

It prints the mean distance between two samples, and how many different images they are. Published
for CIFAR-10: 10.12 with the small sigma_1, 18.65 with the large one, and 17.78 in the data. On
3,000 images of CIFAR-10's test set (as JPEG), 64 samples with the small one gave 7.39 and 27
different images. Those with the large one gave 18.89 and 64 images; the data 18.79.

The effect is one of high dimensions. Among 100 samples are 75 and 95 different images of digits
(64 entries; all 1,437). Of MNIST (784 entries; 2,000 images) there are 61 and 98. There the small
sigma_1 finds bold digits, some eight times over, and hardly a 1. These are further apart (10.9)
than the average two (10.1), so the mean distance alone would not tell.
"""

import argparse
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from score_sde import grids
from score_sde.arrays import ScoreFn, left_broadcast
from score_sde.data import FolderSource, Source, TFDSSource, digits, take
from score_sde.metrics import nearest_neighbors
from score_sde.noise_scales import Suggestion, largest_distance, random_subset, suggest
from score_sde.sampling import Sampler
from score_sde.sde import DiscreteChain
from score_sde.steppers import AnnealedLangevin
from score_sde.viz import image_grid, save_png


def load(name: str, limit: int, size: int | None) -> np.ndarray:
    """At most `limit` images in [0, 1], float32 (n, h, w, c)."""
    if name == "digits":
        source: Source = digits("train")
    elif Path(name).is_dir():
        source = FolderSource(name, image_size=size, split="all", held_out=0.0)
    else:
        source = TFDSSource(name, "train")
    images = take(source, random_subset(len(source), limit))["image"]
    return np.asarray(images, np.float32) / (source.levels - 1)


def mixture_score(images: jax.Array, chain: DiscreteChain) -> ScoreFn:
    """Exact score of the images with noise.

    It is (sum_k r_k(x) x_k - x)/sigma^2, with r the softmax of -|x - x_k|^2/(2 sigma^2). Memory
    grows with batch x images and images x pixels.
    """
    shape, flat = images.shape[1:], images.reshape(len(images), -1)
    center = jnp.mean(flat, axis=0, keepdims=True)  # distances of centred images lose fewer digits
    rows = flat - center
    norms = jnp.sum(rows**2, axis=1)

    def score_fn(x, t):
        sigma2 = left_broadcast(chain.marginal(t)[1] ** 2, x.reshape(len(x), -1))
        y = x.reshape(len(x), -1) - center
        # |y|^2 is common to all images.
        products = jnp.matmul(y, rows.T, precision=jax.lax.Precision.HIGHEST)
        shares = jax.nn.softmax((products - 0.5 * norms[None]) / sigma2, axis=1)
        pull = jnp.matmul(shares, rows, precision=jax.lax.Precision.HIGHEST) - y
        return (pull / sigma2).reshape(-1, *shape)

    return score_fn


def sample(key: jax.Array, images: np.ndarray, settings: Suggestion, n: int) -> np.ndarray:
    """n samples by annealed Langevin dynamics.

    They start from uniform noise in [0, 1] and are denoised at the end.
    """
    chain = DiscreteChain.smld(settings.sigma_min, settings.sigma_max, settings.n)
    stepper = AnnealedLangevin(chain, settings.snr, settings.steps)
    sampler = Sampler(chain, stepper, grids.levels(chain), uniform=(0.0, 1.0))
    run = jax.jit(
        lambda images: sampler(key, mixture_score(images, chain), (n, *images.shape[1:])).x
    )
    return np.asarray(run(jnp.asarray(images)))


def mean_distance(images: np.ndarray) -> float:
    """Mean Euclidean distance between two different ones of the images."""
    flat = images.reshape(len(images), -1).astype(np.float64)
    flat -= flat.mean(axis=0)
    norms = np.sum(flat**2, axis=1)
    total = 0.0
    for i in range(0, len(flat), 1000):
        squares = norms[i : i + 1000, None] + norms[None] - 2 * flat[i : i + 1000] @ flat.T
        total += float(np.sum(np.sqrt(np.maximum(squares, 0))))
    return total / (len(flat) * (len(flat) - 1))


def main(arguments: list[str] | None = None) -> dict[str, tuple[float, int]]:
    """Sample with both choices of sigma_1; print distances and numbers of images; save grids."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", default="digits", help="digits, a folder, or a TFDS data set")
    parser.add_argument(
        "--size", type=int, help="crop and resize the pictures of a folder to this side"
    )
    parser.add_argument(
        "--components", type=int, default=10_000, help="images in the mixture, at most"
    )
    parser.add_argument("--sigma", type=float, help="the small sigma_1")
    parser.add_argument("--samples", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("runs/image_mixture"))
    options = parser.parse_args(arguments)
    if min(options.samples, options.components) < 2:
        parser.error("--samples and --components must be 2 or more, for distances between them")
    images = load(options.images, options.components, options.size)
    dimension = int(np.prod(images.shape[1:]))
    farthest, _ = largest_distance(images)
    print(f"{len(images)} images of {dimension} entries, largest distance {farthest:.4g}")
    result = {"data": (mean_distance(images), len(images))}
    shown = np.linspace(0, len(images) - 1, min(options.samples, len(images))).astype(int)
    pictures = {"data": images[shown]}
    small = options.sigma or result["data"][0] / 17.78
    for name, sigma_max in {"small": small, "largest_distance": farthest}.items():
        settings = suggest(sigma_max, dimension)
        x = sample(jax.random.key(options.seed), images, settings, options.samples)
        nearest = nearest_neighbors(x, images).indices
        result[name], pictures[name] = (mean_distance(x), len(np.unique(nearest))), x
        print(
            f"{name}: sigma_1={sigma_max:.4g}, n={settings.n}, T={settings.steps}, "
            f"epsilon={settings.epsilon:.3g}"
        )
    print(f"{'sigma_1':<18} {'mean distance':>13} {'different images':>17}")
    for name, (distance, count) in result.items():
        print(f"{name:<18} {distance:>13.3f} {count:>17}")
    options.output.mkdir(parents=True, exist_ok=True)
    for name, x in pictures.items():
        save_png(options.output / f"{name}.png", image_grid(np.clip(x, 0, 1)))
    print(f"pictures: {options.output}")
    return result


if __name__ == "__main__":
    main()
