"""How well Markov chains mixed: autocorrelation, effective sample size, split R-hat.

Chains are arrays (chains, n, ...): n states of each of several chains, burn-in left out. Every
entry of a state is judged on its own; the worst of them is `min` of an effective sample size, `max`
of R-hat. Computed in double precision on the host.

None of these says that the chains have the right law. A method with a large step has many effective
samples of a wrong law, and diverging chains may have more than there are states. So compare the
moments with known ones first: `known` states them, and then the deviation from them counts.
"""

import math

import numpy as np
from jaxtyping import Float, Num

from score_sde.errors import UserError

Known = tuple[Num[np.ndarray, "..."] | float, Num[np.ndarray, "..."] | float]
"""(mean, variance) of each entry of a state, or numbers for all."""


def autocorrelation(
    chains: Num[np.ndarray, "chains n ..."], known: Known | None = None
) -> Float[np.ndarray, "n ..."]:
    """rho_k = 1 - (W - C_k)/V at the lags k = 0, ..., n - 1, from all chains together.

    C_k = mean over chains of sum_i (x_i - m)(x_(i+k) - m)/n with m the mean of the chain, W =
    C_0 n/(n - 1) the variance within chains, and V = W (n - 1)/n + the variance of the means of the
    chains. Chains that disagree have a large V, and then correlations near 1. With `known`, m and V
    are the true ones, and rho_k = C_k/V.

    Raises:
        UserError: not (chains, n, ...) with n >= 4, values that are not finite, or an entry that
            never changes.
    """
    x = _checked(chains)
    mean = x.mean(axis=1, keepdims=True) if known is None else np.asarray(known[0], np.float64)
    covariances = _autocovariances(x - mean).mean(axis=0)
    if known is not None:
        return covariances / np.asarray(known[1], np.float64)
    within, total = _variances(x)
    rho = 1 - (within - covariances) / total
    rho[0] = 1.0
    return rho


def effective_sample_size(
    chains: Num[np.ndarray, "chains n ..."], known: Known | None = None
) -> Float[np.ndarray, "..."]:
    """Independent draws that would estimate the mean as well as chains x n dependent ones.

        chains n/tau, tau = -1 + 2 sum_j P_j, P_j = rho_2j + rho_(2j+1)

    The sum ends before the first P_j <= 0, and each P_j is brought down to the least before it:
    Geyer's initial monotone sequence, which for reversible chains is positive and falls. An odd
    last lag counts if positive. tau is at least 1/log10(chains n), for chains that alternate.

    With `known` = (mean, variance) a chain stuck beside the true mean has few effective samples.

    Raises UserError as `autocorrelation`.
    Source: Geyer 1992; Gelman et al. 2013, section 11.5; Vehtari et al. 2021, section 3.2.
    """
    rho = autocorrelation(chains, known)
    n = rho.shape[0]
    total = chains.shape[0] * n
    flat = rho.reshape(n, -1)
    pairs = flat[: n - n % 2].reshape(n // 2, 2, -1).sum(axis=1)
    kept = np.cumprod(pairs > 0, axis=0)
    kept[0] = 1
    falling = np.minimum.accumulate(pairs, axis=0)
    tau = -1 + 2 * np.sum(kept * falling, axis=0)
    count = kept.sum(axis=0)
    # The even lag after the last pair, which makes alternating chains count right.
    following = np.take_along_axis(flat, np.minimum(2 * count, n - 1)[None], axis=0)[0]
    tau = tau + np.where(2 * count < n - 1, np.maximum(following, 0), 0)
    tau = np.maximum(tau, 1 / math.log10(total))
    return (total / tau).reshape(rho.shape[1:])


def split_rhat(chains: Num[np.ndarray, "chains n ..."]) -> Float[np.ndarray, "..."]:
    """sqrt(V/W) of the chains cut into halves: 1 where they agree, above 1.01 where they do not.

    V and W are those of `autocorrelation`. Halves show a chain that drifts. An odd middle state is
    left out.

    Raises UserError as `autocorrelation`.
    Source: Gelman et al. 2013, section 11.4.
    """
    x = _checked(chains)
    half = x.shape[1] // 2
    within, total = _variances(np.concatenate([x[:, :half], x[:, -half:]]))
    return np.asarray(np.sqrt(total / within))


def _variances(x):
    """(W, V): the variance within chains, and the one of all that also counts their means."""
    n = x.shape[1]
    within = x.var(axis=1, ddof=1).mean(axis=0)
    between = x.mean(axis=1).var(axis=0, ddof=1) if len(x) > 1 else 0.0
    return within, within * (n - 1) / n + between


def _autocovariances(x):
    """sum_i x_i x_(i+k)/n of each chain at all lags, by the Fourier transform."""
    n = x.shape[1]
    size = 1 << (2 * n - 1).bit_length()
    power = np.abs(np.fft.rfft(x, size, axis=1)) ** 2
    return np.fft.irfft(power, size, axis=1)[:, :n] / n


def _checked(chains):
    x = np.asarray(chains, np.float64)
    if x.ndim < 2 or x.shape[0] < 1 or x.shape[1] < 4:
        raise UserError(
            "chains must be an array (chains, n, ...) of at least 1 chain of 4 states; "
            f"got shape {x.shape}"
        )
    if not np.isfinite(x).all():
        raise UserError("chains must be finite; some states are NaN or infinite: take a lower step")
    if (x.var(axis=1) == 0).all(axis=0).any():
        raise UserError("an entry never changes in any chain; leave it out")
    return x
