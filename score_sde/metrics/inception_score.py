"""Inception score: how sure a classifier is of each image, and how different its answers are."""

import dataclasses

import jax
import numpy as np
from jaxtyping import Float64, Int, Num
from scipy.special import entr, log_softmax

from score_sde.errors import UserError
from score_sde.metrics.vectors import as_vectors


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ScoreSums:
    """Sums over the images of each split that the Inception score needs, in float64.

    `of` makes those of some images, `+` joins them.

    A pytree whose leaves are NumPy's float64, for which jax's own arrays are too short unless
    `jax_enable_x64` is set.

    Args:
        count: (splits,), images seen.
        probability: (splits, k), the sums of p(y | image).
        entropy: (splits,), the sums of -sum_y p(y | image) log p(y | image), in nats.
    """

    count: Float64[np.ndarray, "splits"]
    probability: Float64[np.ndarray, "splits k"]
    entropy: Float64[np.ndarray, "splits"]

    @classmethod
    def of(
        cls, logits: Num[np.ndarray, "n k"], split: Int[np.ndarray, "n"], splits: int
    ) -> "ScoreSums":
        """Those of some images.

        Args:
            logits: (n, k), before the softmax.
            split: (n,), which of the splits each image belongs to, 0 .. splits - 1.
            splits: how many there are, 1 or more.

        Raises UserError for logits that are not finite, or splits out of range.
        """
        values = as_vectors("logits", logits, least=0).astype(np.float64)
        if splits < 1 or np.any((split < 0) | (split >= splits)):
            raise UserError(
                f"split must be in 0 .. splits - 1; got splits={splits} and numbers from "
                f"{split.min(initial=0)} to {split.max(initial=0)}"
            )
        log_p = log_softmax(values, axis=1)
        p = np.exp(log_p)
        member = (split == np.arange(splits)[:, None]).astype(np.float64)
        return cls(member.sum(axis=1), member @ p, member @ -(p * log_p).sum(axis=1))

    def __add__(self, other: "ScoreSums") -> "ScoreSums":
        """Of both sets together, split by split.

        UserError for another number of splits or classes.
        """
        if self.probability.shape != other.probability.shape:
            raise UserError(
                f"sums must have the same (splits, classes); got {self.probability.shape} and "
                f"{other.probability.shape}"
            )
        return ScoreSums(
            self.count + other.count,
            self.probability + other.probability,
            self.entropy + other.entropy,
        )

    def score(self) -> tuple[float, float]:
        """Mean and standard deviation over splits of exp(E KL(p(y | image) || p(y))).

        p(y) = E p(y | image), and E KL = H(p(y)) - E H(p(y | image)), where 0 log 0 = 0. The score
        is in [1, k] and grows with the number of images in a split; published ones have 5000 in
        each of 10. The deviation is divided by the number of splits, not one less.

        Raises UserError for a split without images.
        Source: Salimans et al. 2016, section 4.
        """
        empty = np.flatnonzero(self.count == 0)
        if empty.size:
            raise UserError(
                f"an Inception score needs images in every split; {int(self.count.sum())} images "
                f"leave {empty.size} of {len(self.count)} empty: use more images or fewer splits"
            )
        marginal = entr(self.probability / self.count[:, None]).sum(axis=1)
        scores = np.exp(marginal - self.entropy / self.count)
        return float(scores.mean()), float(scores.std())


def split_of(numbers: Int[np.ndarray, "n"], count: int, splits: int) -> Int[np.ndarray, "n"]:
    """Which of `splits` consecutive parts of 0 .. count - 1 each number is in.

    Part j ends before floor((j + 1) count/splits), as in the published code.
    """
    ends = np.arange(1, splits) * count // splits
    return np.searchsorted(ends, numbers, side="right")
