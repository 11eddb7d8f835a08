"""The network of FID and Inception score, for inference only.

It is InceptionV3 as TF-Slim's graph of December 2015 has it. It differs from the network of the
paper and of torchvision: average pooling leaves the padding out, the last mixed block pools by the
maximum, and there are 1008 classes. Its blocks are data (`NETWORK`), its names those of the weights
file.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from score_sde.convert import read_file
from score_sde.convert.table import Entry, from_torch
from score_sde.errors import UserError
from score_sde.metrics import weights as weight_files
from score_sde.metrics.features import Extractor, Features

SIZE = 299
"""Height and width of what the network sees."""
CLASSES = 1008
EPSILON = 1e-3
"""Added to the running variances of batch normalization."""
PREPROCESSING = "grey repeated in 3 channels; bilinear to 299 x 299 as TensorFlow 1; (x - 128)/128"
HIGHEST = jax.lax.Precision.HIGHEST


class Conv(NamedTuple):
    """Convolution without bias, batch normalization, ReLU."""

    name: str
    features: int
    kernel: tuple[int, int] = (1, 1)
    stride: int = 1
    padding: Literal["SAME", "VALID"] = "SAME"


class Pool(NamedTuple):
    """Over 3 x 3 pixels.

    With stride 1 as many as before (padding never counts), with stride 2 without padding.
    """

    kind: Literal["average", "max"]
    stride: int = 1


class Mixed(NamedTuple):
    """Branches beside each other, their channels joined in this order.

    What is in a fork has its block's name.
    """

    name: str
    branches: tuple[tuple["Step", ...], ...]


Step: TypeAlias = Conv | Pool | Mixed


def _block_a(name: str, pooled: int) -> Mixed:
    branch1 = (Conv("branch1x1", 64),)
    branch5 = (Conv("branch5x5_1", 48), Conv("branch5x5_2", 64, (5, 5)))
    double3 = (
        Conv("branch3x3dbl_1", 64),
        Conv("branch3x3dbl_2", 96, (3, 3)),
        Conv("branch3x3dbl_3", 96, (3, 3)),
    )
    return Mixed(name, (branch1, branch5, double3, (Pool("average"), Conv("branch_pool", pooled))))


def _block_b(name: str) -> Mixed:
    branch3 = (Conv("branch3x3", 384, (3, 3), 2, "VALID"),)
    double3 = (
        Conv("branch3x3dbl_1", 64),
        Conv("branch3x3dbl_2", 96, (3, 3)),
        Conv("branch3x3dbl_3", 96, (3, 3), 2, "VALID"),
    )
    return Mixed(name, (branch3, double3, (Pool("max", 2),)))


def _block_c(name: str, width: int) -> Mixed:
    branch7 = (
        Conv("branch7x7_1", width),
        Conv("branch7x7_2", width, (1, 7)),
        Conv("branch7x7_3", 192, (7, 1)),
    )
    double7 = (
        Conv("branch7x7dbl_1", width),
        Conv("branch7x7dbl_2", width, (7, 1)),
        Conv("branch7x7dbl_3", width, (1, 7)),
        Conv("branch7x7dbl_4", width, (7, 1)),
        Conv("branch7x7dbl_5", 192, (1, 7)),
    )
    pool = (Pool("average"), Conv("branch_pool", 192))
    return Mixed(name, ((Conv("branch1x1", 192),), branch7, double7, pool))


def _block_d(name: str) -> Mixed:
    branch3 = (Conv("branch3x3_1", 192), Conv("branch3x3_2", 320, (3, 3), 2, "VALID"))
    branch7 = (
        Conv("branch7x7x3_1", 192),
        Conv("branch7x7x3_2", 192, (1, 7)),
        Conv("branch7x7x3_3", 192, (7, 1)),
        Conv("branch7x7x3_4", 192, (3, 3), 2, "VALID"),
    )
    return Mixed(name, (branch3, branch7, (Pool("max", 2),)))


def _block_e(name: str, kind: Literal["average", "max"]) -> Mixed:
    fork = Mixed("", ((Conv("branch3x3_2a", 384, (1, 3)),), (Conv("branch3x3_2b", 384, (3, 1)),)))
    double = Mixed(
        "", ((Conv("branch3x3dbl_3a", 384, (1, 3)),), (Conv("branch3x3dbl_3b", 384, (3, 1)),))
    )
    branch3 = (Conv("branch3x3_1", 384), fork)
    double3 = (Conv("branch3x3dbl_1", 448), Conv("branch3x3dbl_2", 384, (3, 3)), double)
    pool = (Pool(kind), Conv("branch_pool", 192))
    return Mixed(name, ((Conv("branch1x1", 320),), branch3, double3, pool))


NETWORK: tuple[Step, ...] = (
    Conv("Conv2d_1a_3x3", 32, (3, 3), 2, "VALID"),
    Conv("Conv2d_2a_3x3", 32, (3, 3), 1, "VALID"),
    Conv("Conv2d_2b_3x3", 64, (3, 3)),
    Pool("max", 2),
    Conv("Conv2d_3b_1x1", 80),
    Conv("Conv2d_4a_3x3", 192, (3, 3), 1, "VALID"),
    Pool("max", 2),
    _block_a("Mixed_5b", 32),
    _block_a("Mixed_5c", 64),
    _block_a("Mixed_5d", 64),
    _block_b("Mixed_6a"),
    _block_c("Mixed_6b", 128),
    _block_c("Mixed_6c", 160),
    _block_c("Mixed_6d", 160),
    _block_c("Mixed_6e", 192),
    _block_d("Mixed_7a"),
    _block_e("Mixed_7b", "average"),
    _block_e("Mixed_7c", "max"),
)


class Outputs(NamedTuple):
    """What the network makes of n images.

    pool: the 2048 features behind the last block ("pool3"), means over its 8 x 8 pixels.
    unbiased: pool times the weights of the last layer, without its bias.
    logits: with it.
    """

    pool: Float[Array, "n 2048"]
    unbiased: Float[Array, "n classes"]
    logits: Float[Array, "n classes"]


class InceptionV3(nn.Module):
    """InceptionV3 in the variant of FID.

    Batch normalization is in the kernels and biases already (`fold`).

    Args (call):
        x: images (n, 299, 299, 3) in [-1, 1), from `prepare`.
    Returns:
        `Outputs`.
    Source: Szegedy et al. 2016 (Rethinking the Inception architecture); the variant: Heusel et al.
    2017 (FID).
    """

    @nn.compact
    def __call__(self, x: Float[Array, "n 299 299 3"]) -> Outputs:
        pool = self._chain(NETWORK, "", x).mean(axis=(1, 2))
        unbiased = nn.Dense(CLASSES, use_bias=False, precision=HIGHEST, name="fc")(pool)
        bias = self.param("fc.bias", nn.initializers.zeros, (CLASSES,))
        return Outputs(pool, unbiased, unbiased + bias[None, :])

    @nn.nowrap
    def _chain(self, steps: tuple[Step, ...], block: str, x: Array) -> Array:
        for step in steps:
            match step:
                case Conv(name, features, kernel, stride, padding):
                    conv = nn.Conv(
                        features, kernel, stride, padding, precision=HIGHEST, name=block + name
                    )
                    x = nn.relu(conv(x))
                case Pool("max", stride):
                    x = nn.max_pool(x, (3, 3), (stride, stride), "SAME" if stride == 1 else "VALID")
                case Pool():
                    x = nn.avg_pool(x, (3, 3), padding="SAME", count_include_pad=False)
                case Mixed(name, branches):
                    inner = f"{name}." if name else block
                    x = jnp.concatenate(
                        [self._chain(branch, inner, x) for branch in branches], axis=-1
                    )
        return x


def prepare(images: Array | np.ndarray) -> Float[Array, "n 299 299 3"]:
    """What the network sees of 8-bit images: (resized - 128)/128.

    Bilinear as TensorFlow 1 has it by default (corners not aligned, no half-pixel centres). Row i
    of 299 is at i height/299 of the image, and beyond the last row is the last row. Nothing is
    averaged where an image shrinks. Positions are in single precision as there.

    Args:
        images: (n, height, width, 1 or 3), uint8, of any size.

    Raises:
        UserError: for other types and shapes.
    """
    if images.ndim != 4 or images.shape[-1] not in (1, 3) or 0 in images.shape[1:]:
        raise UserError(
            "Inception's features are of images (n, height, width, 1 or 3); got shape "
            f"{tuple(images.shape)}"
        )
    if images.dtype != np.uint8:
        raise UserError(
            f"Inception's features are of 8-bit images, 0 .. 255 as uint8; got {images.dtype}. "
            "Convert them, say values of [0, 1] by round(255 x)"
        )
    x = _resize(_resize(jnp.asarray(images).astype(jnp.float32), 2), 1)
    return jnp.broadcast_to((x - 128) / 128, (*x.shape[:-1], 3))


def _resize(x: Array, axis: int) -> Array:
    """One axis to SIZE, by linear interpolation."""
    length = x.shape[axis]
    position = np.arange(SIZE, dtype=np.float32) * np.float32(length / SIZE)
    low = np.minimum(position.astype(np.int32), length - 1)
    share = (position - low).reshape([-1 if i == axis else 1 for i in range(4)])
    below, above = jnp.take(x, low, axis), jnp.take(x, np.minimum(low + 1, length - 1), axis)
    return below + (above - below) * share


def inception(weights: Path | None = None, cache: Path | None = None) -> Extractor:
    """The extractor "inception": pool3 features, and the logits of the Inception score.

    The logits are without bias. The published code of the Inception score (Salimans et al. 2016)
    multiplies pool3 with the last layer's weights and leaves the bias out; so do the codes after
    it.

    Args:
        weights: a file in the layout of pytorch-fid and torch-fidelity; None for theirs, which is
            fetched once. Numbers of a file whose checksum does not begin with
            `weights.PUBLISHED_PREFIX` are not comparable with published ones.
        cache: the folder it is fetched into, default ~/.cache/score_sde.
    Raises:
        UserError: the file cannot be fetched or read, or is not of this network.
    """
    if weights is None:
        path, checksum = weight_files.published(cache)
    else:
        path, checksum = weights, weight_files.sha256(weights)
    params = read_weights(path)

    def fn(images: Array | np.ndarray) -> Features:
        found: Any = InceptionV3().apply({"params": params}, prepare(images))
        return Features(found.pool, found.unbiased)

    return Extractor("inception", checksum, PREPROCESSING, fn)


def read_weights(path: Path) -> dict[str, Any]:
    """Parameters of `InceptionV3` from a file with a PyTorch state dict; nothing in it is executed.

    Raises UserError for files that cannot be read, and where names or shapes are not those of the
    network.
    """
    try:
        _, state = read_file(path)
    except UserError as error:
        raise UserError(f"{error}. Weights of Inception are {weight_files.ADVICE}") from error
    if not isinstance(state, Mapping) or not all(isinstance(a, np.ndarray) for a in state.values()):
        raise UserError(
            f"{path} is no dictionary of arrays: weights of Inception are a state dict, "
            f"{weight_files.ADVICE}"
        )
    try:
        return fold(state)
    except UserError as error:
        raise UserError(f"{path}: {error}. What is needed is {weight_files.ADVICE}") from error


def fold(state: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Parameters of `InceptionV3` from a state dict.

    The batch normalization is folded into them, in double precision: kernel <- kernel
    w/sqrt(variance + 1e-3), bias <- b - mean w/sqrt(variance + 1e-3).

    Raises UserError where names or shapes are not those of the network, or a result is not finite.
    """
    image = jax.ShapeDtypeStruct((1, SIZE, SIZE, 3), jnp.float32)
    shapes = dict(jax.eval_shape(InceptionV3().init, jax.random.key(0), image)["params"])
    convs = [name for name in shapes if not name.startswith("fc")]
    fields = {"scale": "weight", "shift": "bias", "mean": "running_mean", "variance": "running_var"}
    table = [Entry("fc/kernel", None, "fc.weight", "dense"), Entry("fc.bias", None, "fc.bias")]
    like = {"fc": shapes["fc"], "fc.bias": shapes["fc.bias"]}
    for name in convs:
        table.append(Entry(f"{name}/kernel", None, f"{name}.conv.weight", "conv"))
        table += [
            Entry(f"{name}/{ours}", None, f"{name}.bn.{theirs}") for ours, theirs in fields.items()
        ]
        like[name] = {"kernel": shapes[name]["kernel"]} | dict.fromkeys(
            fields, shapes[name]["bias"]
        )
    given = {
        name: value for name, value in state.items() if not name.endswith(".num_batches_tracked")
    }
    params = from_torch(table, given, like)
    for name in convs:
        params[name] = _fold(
            **{key: value.astype(np.float64) for key, value in params[name].items()}
        )
    params = jax.tree.map(
        lambda value: np.array(value, np.float32), params
    )  # copies: the file may change
    wrong = [
        name
        for name in params
        if not all(np.isfinite(v).all() for v in jax.tree.leaves(params[name]))
    ]
    if wrong:
        raise UserError(
            f"the weights of {', '.join(wrong[:5])} are not finite, or a variance is negative"
        )
    return jax.tree.map(jnp.asarray, params)


def _fold(kernel, scale, shift, mean, variance) -> dict[str, np.ndarray]:
    with np.errstate(invalid="ignore"):
        gain = scale / np.sqrt(variance + EPSILON)
    return {"kernel": kernel * gain, "bias": shift - mean * gain}
