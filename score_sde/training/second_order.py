"""Training of a second-order score beside a score model (dissertation, chapter 4)."""

from collections.abc import Callable

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, PyTree

from score_sde.arrays import ScoreFn, fold_in, uniform
from score_sde.curvature import CurvatureFn, CurvatureParameterization
from score_sde.data import Batch
from score_sde.data.pixels import PixelRange
from score_sde.objectives import JointDenoising, SecondOrderDenoising


class SecondOrderMatching(flax.struct.PyTreeNode):
    """The task of fitting s2, the Hessian of log p_t, where s1 is that of a trained score model.

    With a `JointDenoising` the score model is trained on, beside (eq. 4.14). Then parameters are
    {"score", "second_order"}; else they are those of the network, and s1 stays as it is.

    Args:
        score_params: parameters of the score model, or those it begins with.
        network: (x, labels) -> what `parameterization` makes s2 and the covariance of.
        parameterization: see `CurvatureParameterization`.
        objective: the loss of an image, with (s1, s2).
        score_fn: (score_params) -> s1.
        pixel_range: of the images.
        dequantize: whether s1 was trained on dequantized images; then s2 is too.
    """

    score_params: PyTree
    network: nn.Module = flax.struct.field(pytree_node=False)
    parameterization: CurvatureParameterization = flax.struct.field(pytree_node=False)
    objective: SecondOrderDenoising | JointDenoising = flax.struct.field(pytree_node=False)
    score_fn: Callable[[PyTree], ScoreFn] = flax.struct.field(pytree_node=False)
    pixel_range: PixelRange = flax.struct.field(pytree_node=False)
    dequantize: bool = flax.struct.field(pytree_node=False, default=False)

    def init(self, key: Key[Array, ""], shape: tuple[int, ...]) -> PyTree:
        """Fresh parameters of the network; of both, jointly, with those the score begins with."""
        fresh = self.network.init(key, jnp.zeros((1, *shape)), jnp.zeros((1,)))["params"]
        return {"score": self.score_params, "second_order": fresh} if self.joint else fresh

    @property
    def joint(self) -> bool:
        """Whether the score model is trained on."""
        return isinstance(self.objective, JointDenoising)

    def score_of(self, params: PyTree) -> PyTree:
        """Parameters of the score model."""
        return params["score"] if self.joint else self.score_params

    def curvature_fn(self, params: PyTree) -> CurvatureFn:
        """s2."""
        return self.parameterization.curvature_fn(self._network(params))

    def covariance_fn(self, params: PyTree) -> CurvatureFn:
        """Cov[x_0 | x_t]."""
        return self.parameterization.covariance_fn(self._network(params))

    def losses(
        self, params: PyTree, keys: Key[Array, "batch"], batch: Batch, train: bool
    ) -> Float[Array, "batch"]:
        """Loss of each image; the same in training, as the network has no dropout."""
        x0 = jnp.asarray(batch.image)
        if self.dequantize:
            levels = jnp.asarray(self.pixel_range.decode(x0))
            u = uniform(fold_in(keys, 1), x0.shape, x0.dtype)
            x0 = jnp.asarray(self.pixel_range.dequantize(levels, u))
        score_params = self.score_of(params)
        if not self.joint:
            score_params = jax.lax.stop_gradient(score_params)
        score_fn = self.score_fn(score_params)
        return self.objective(fold_in(keys, 0), (score_fn, self.curvature_fn(params)), x0)

    def _network(self, params):
        own = params["second_order"] if self.joint else params
        return lambda x, labels: self.network.apply({"params": own}, x, labels)
