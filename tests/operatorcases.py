"""Operators for tests, their dense matrices, and what the library computes of them."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from score_sde import inverse
from score_sde.inverse import Operator, static


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class HalfFourier(Operator):
    """Every second row of the unitary Fourier transform: complex data, and `forward` alone."""

    event: tuple[int, ...] = static()

    def forward(self, x):
        return jnp.fft.fft2(x, axes=(1, 2), norm="ortho")[:, ::2]


def _random(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape)


def _mask(*shape: int) -> np.ndarray:
    mask = np.random.default_rng(1).random(shape) < 0.6
    mask.reshape(-1, *shape[-3:])[:, :1, :1] = True
    return mask


def _low_rank() -> Operator:
    matrix = _random(4, 6)
    matrix[3] = matrix[0] + matrix[1]
    return inverse.Separable((6, 3), (inverse.Factor(matrix), None))


def _grey_in_basis(event: tuple[int, int, int]) -> Operator:
    basis = inverse.mix_channels(event, inverse.grey_basis(3))
    return inverse.Masked(basis, jnp.asarray([True, False, False])[None, None, None])


def _deblurred_blocks() -> Operator:
    kernel = inverse.gaussian_kernel(0.7, 5)
    return inverse.compose(inverse.block_mean((6, 8, 1), 2), inverse.blur((6, 8, 1), kernel[:, 1:]))


def _masked_blur() -> Operator:
    return inverse.Masked(inverse.blur((5, 6, 1), _random(3, 2)), jnp.asarray(_mask(1, 5, 6, 1)))


OPERATORS: dict[str, Callable[[], Operator]] = {
    "inpainting": lambda: inverse.inpainting((5, 7, 3), _mask(5, 7, 1)[..., 0]),
    "inpainting, a mask a row": lambda: inverse.inpainting((4, 6, 2), _mask(3, 4, 6, 1)),
    "inpainting, channels": lambda: inverse.inpainting((3, 4, 3), _mask(3, 4, 3)),
    "colorization": lambda: inverse.colorization((3, 4, 3)),
    "luma": lambda: inverse.colorization((5, 2, 3), inverse.REC_601),
    "published basis": lambda: inverse.mix_channels((2, 3, 3), inverse.PUBLISHED_BASIS),
    "grey in a basis": lambda: _grey_in_basis((4, 3, 3)),
    "block means": lambda: inverse.block_mean((6, 9, 2), 3),
    "bicubic, even": lambda: inverse.bicubic((12, 8, 1), 2),
    "bicubic, odd": lambda: inverse.bicubic((9, 15, 1), 3),
    "crop": lambda: inverse.crop((5, 6, 2), 1, 2, (3, 4)),
    "a matrix of low rank": _low_rank,
    "circular blur": lambda: inverse.blur((7, 6, 2), inverse.gaussian_kernel(0.8, 5)),
    "circular blur, a kernel a row": lambda: inverse.blur((6, 9, 1), _random(2, 4, 3)),
    "circular blur that loses the mean": lambda: inverse.blur((4, 5, 1), np.array([[1.0, -1.0]])),
    "valid blur": lambda: inverse.blur((7, 8, 1), _random(3, 4), "valid"),
    "blur, then block means": _deblurred_blocks,
    "blur, then a mask": _masked_blur,
}


def row(operator: Operator, i: int) -> Operator:
    """The operator of sample i, with one row."""
    return jax.tree.map(lambda leaf: leaf[i % len(leaf)][None], operator)


@jax.jit
def probe(operator: Operator, shifts: jax.Array) -> dict[str, jax.Array]:
    """Dense matrices of what an operator of one row does; `shifts` (m,), one for each column."""
    n, m = (int(np.prod(shape)) for shape in (operator.event, operator.measured))
    x, y = jnp.eye(n).reshape(n, *operator.event), jnp.eye(m).reshape(m, *operator.measured)
    back = jax.vjp(operator.forward, jnp.zeros((m, *operator.event)))[1]
    found = {
        "forward": operator.forward(x),
        "adjoint": operator.adjoint(y),
        "vjp": back(y)[0],
        "solve": operator.solve(y, shifts),
        "pinv": operator.pinv(y),
        "norm": operator.norm(),
    }
    spectrum = operator.decompose()
    if spectrum is not None:
        c = jnp.eye(n).reshape(spectrum.from_x(x).shape)
        values = jnp.broadcast_to(spectrum.values, (1, *c.shape[1:]))
        found |= {"values": values, "from_x": spectrum.from_x(x), "to_x": spectrum.to_x(c)}
        found |= {"from_y": spectrum.from_y(y), "to_y": spectrum.to_y(c)}
    return {name: _columns(array) for name, array in found.items()}


def _columns(array: jax.Array) -> jax.Array:
    """Rows of results as the columns of a matrix; what has one row, as a vector."""
    return array.reshape(len(array), -1).T if len(array) > 1 else array.reshape(-1)
