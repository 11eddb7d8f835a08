"""A small classifier of small images, trained on first use.

It gives features for quality numbers without downloads. Its distances order models of one data set;
they are not comparable with published ones.
"""

import functools
import hashlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import traverse_util
from jaxtyping import Array, Float, Integer, PyTree, UInt8
from tqdm import tqdm

from score_sde.errors import UserError
from score_sde.files import read_npz, write_npz, writing
from score_sde.metrics.features import Extractor, Features

Labelled = tuple[UInt8[np.ndarray, "n h w c"], Integer[np.ndarray, "n"]]

CLASSES = 10
BATCH, LEARNING_RATE = 128, 2e-3
RECIPE = 1
"""Changes with whatever changes the weights.

So features of other recipes are not taken for these.
"""


class SmallClassifier(nn.Module):
    """Three convolutions and two dense layers: images in [0, 1] -> (features after ReLU, logits).

    Args:
        width: channels of the first convolution.
        features: length of the features.
        classes: number of classes.
    """

    width: int = 16
    features: int = 128
    classes: int = CLASSES

    @nn.compact
    def __call__(
        self, x: Float[Array, "n h w c"]
    ) -> tuple[Float[Array, "n features"], Float[Array, "n classes"]]:
        """Features and logits."""
        large = x.shape[1] > 16
        x = nn.relu(nn.Conv(self.width, (5, 5), strides=2 if large else 1)(x))
        x = nn.relu(nn.Conv(2 * self.width, (3, 3), strides=2)(x))
        x = nn.relu(nn.Dense(self.features)(x.reshape(len(x), -1)))
        return x, nn.Dense(self.classes)(x)


def train_classifier(
    images: UInt8[np.ndarray, "n h w c"],
    labels: Integer[np.ndarray, "n"],
    *,
    steps: int = 2000,
    seed: int = 0,
    title: str = "",
) -> PyTree:
    """Parameters of a `SmallClassifier`: Adam on the cross entropy, its step falling as a cosine.

    Args:
        images: levels 0 .. 255, all of one size.
        labels: 0 .. 9.
        steps, seed: of the training; the same give the same weights on one machine.
        title: of the progress bar.
    """
    if not len(images) or images.shape[1] < 4 or images.shape[2] < 4:
        raise UserError(f"a classifier needs images of at least 4 x 4 pixels; got {images.shape}")
    if labels.min() < 0 or labels.max() >= CLASSES:
        raise UserError(
            f"labels must lie in 0 .. {CLASSES - 1}; got {labels.min()} .. {labels.max()}"
        )
    model = SmallClassifier()
    optimizer = optax.adam(optax.cosine_decay_schedule(LEARNING_RATE, steps))
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        params = jax.jit(model.init)(jax.random.key(seed), _unit(images[:1]))["params"]
        state = optimizer.init(params)

        @functools.partial(jax.jit, donate_argnums=(0, 1))
        def update(params, state, images, labels):
            def loss(params):
                _, logits = model.apply({"params": params}, _unit(images))
                return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

            changes, state = optimizer.update(jax.grad(loss)(params), state)
            return optax.apply_updates(params, changes), state

        batches = _batches(len(images), np.random.default_rng(seed))
        options = {"unit": "step", "dynamic_ncols": True, "disable": not title}
        for _ in tqdm(range(steps), desc=title or None, **options):
            rows = next(batches)
            params, state = update(params, state, images[rows], labels[rows].astype(np.int32))
    return jax.tree.map(np.asarray, params)


def _batches(count: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """`BATCH` numbers below `count` at a time, without end: one permutation after another."""
    order = np.zeros(0, int)
    while True:
        if len(order) < BATCH:
            order = np.concatenate([order, rng.permutation(count)])
            order = np.resize(order, max(len(order), BATCH))
        rows, order = order[:BATCH], order[BATCH:]
        yield rows


def small_extractor(
    name: str,
    load_data: Callable[[], Labelled],
    cache: Path | None = None,
    weights: Path | None = None,
) -> Extractor:
    """The classifier `name`: read from a file, or trained once and kept.

    It is read from `weights`, or from the folder `cache`, or trained and kept there.

    Args:
        name: of the data set it classifies.
        load_data: its training images, levels 0 .. 255, and labels; called only where it must be
            trained.
        cache: folder; default ~/.cache/score_sde/extractors.
        weights: a file that was kept in a cache, for the same features on another machine.

    Raises:
        UserError: `weights` is missing or damaged, or is of another classifier.
    """
    if weights is not None:
        params, shape = _read(weights, name)
        return _extractor(name, params, shape)
    folder = cache or Path.home() / ".cache" / "score_sde" / "extractors"
    path = folder / f"{name}-{RECIPE}.npz"
    if path.exists():
        try:
            return _extractor(name, *_read(path, name))
        except UserError as error:
            print(f"{error} It is trained again.", file=sys.stderr)
    images, labels = load_data()
    title = f"training the {name} classifier, once"
    params = train_classifier(images, labels, steps=STEPS.get(name, 2000), title=title)
    shape = images.shape[1:]
    flat = traverse_util.flatten_dict(params, sep="/")
    known = {"name": name, "recipe": RECIPE, "shape": shape, "checksum": _checksum(params)}
    about = {f"about/{key}": np.asarray(value) for key, value in known.items()}
    with writing(path, "make room there, or set HOME to another place"):
        write_npz(path, flat | about, compress=False)
    return _extractor(name, params, shape)


STEPS = {"digits": 1000, "mnist": 4000}
"""Training steps, where others than 2000."""


def _read(path: Path, name: str) -> tuple[PyTree, tuple[int, ...]]:
    entries = read_npz(path)
    about = {
        key.removeprefix("about/"): entries.pop(key)
        for key in list(entries)
        if key.startswith("about/")
    }
    if {"name", "recipe", "shape", "checksum"} - about.keys():
        raise UserError(
            f"{path} is no weights file of a small classifier; leave it out, and one is trained"
        )
    if (str(about["name"]), int(about["recipe"])) != (name, RECIPE):
        raise UserError(
            f"{path} holds the classifier {about['name']} (recipe {about['recipe']}), not {name} "
            f"(recipe {RECIPE})."
        )
    params = traverse_util.unflatten_dict(entries, sep="/")
    if _checksum(params) != str(about["checksum"]):
        raise UserError(
            f"{path} is damaged: its weights have another checksum than when they were written."
        )
    return params, tuple(int(size) for size in about["shape"])


def _checksum(params: PyTree) -> str:
    digest = hashlib.sha256()
    for name, value in sorted(traverse_util.flatten_dict(params, sep="/").items()):
        digest.update(
            f"{name} {value.shape} {value.dtype}".encode() + np.ascontiguousarray(value).tobytes()
        )
    return digest.hexdigest()


def _extractor(name: str, params: PyTree, shape: tuple[int, ...]) -> Extractor:
    def fn(images) -> Features:
        if images.shape[1:] != tuple(shape):
            raise UserError(
                f"extractor {name!r} takes images of shape {tuple(shape)} (height, width, "
                f"channels); got {images.shape[1:]}. Use --extractor inception, or pixels"
            )
        return Features(*SmallClassifier().apply({"params": params}, _unit(images)))

    return Extractor(name, _checksum(params), "levels 0 .. 255 divided by 255", fn)


def _unit(images):
    return jnp.asarray(images, jnp.float32) / 255
