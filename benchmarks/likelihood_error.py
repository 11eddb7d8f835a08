"""Evaluations for an error: log p of an exact mixture, our solver against SciPy's RK45.

    python benchmarks/likelihood_error.py [--batch 64]

64 samples of a mixture of three Gaussians among 8 x 8 images, exact scores, one probe, double
precision. What is counted are evaluations of score and divergence. Errors are those of the solver,
against Dopri8 at 1e-9.
"""

import argparse
import itertools
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
from scipy.integrate import solve_ivp

from score_sde.analytic import GaussianMixture
from score_sde.flow import AdamsMoulton, Flow
from score_sde.likelihood import ODELikelihood
from score_sde.sde import EDM, VE, VP, GaussianSDE, SubVP

SDES = {"VP": VP(), "sub-VP": SubVP(), "VE": VE(), "EDM": EDM()}


def ours(sde: GaussianSDE, score_fn, x, v, tolerance: float, **flow):
    """(log p, mean evaluations) by `ODELikelihood`; `flow`: further arguments of the `Flow`."""
    likelihood = ODELikelihood(Flow(sde, rtol=tolerance, atol=tolerance, **flow))
    found = jax.jit(lambda x, v: likelihood.with_probes(score_fn, x, v))(x, v)
    return np.asarray(found.logp), round(float(found.nfe.mean()))


def conventional(sde: GaussianSDE, score_fn, x, v, tolerance: float):
    """(log p, evaluations) by SciPy's RK45 on one vector of all samples and log-densities."""

    @jax.jit
    def rates(t, x):
        f, g2 = sde.coefficients(t)

        def drift(x):
            return f * x - 0.5 * g2 * score_fn(x, jnp.full(len(x), t))

        dx, pushed = jax.jvp(drift, (x,), (v[:, 0],))
        return dx, jnp.sum((v[:, 0] * pushed).reshape(len(x), -1), axis=1)

    def flat(t, state):
        dx, dlogp = rates(t, state[: x.size].reshape(x.shape))
        return np.concatenate([np.asarray(dx).ravel(), np.asarray(dlogp)])

    start = np.concatenate([np.asarray(x).ravel(), np.zeros(len(x))])
    end = solve_ivp(
        flat, (sde.t_min, sde.t_max), start, method="RK45", rtol=tolerance, atol=tolerance
    )
    z, integral = end.y[: x.size, -1].reshape(x.shape), end.y[x.size :, -1]
    return np.asarray(sde.prior_logp(jnp.asarray(z))) + integral, end.nfev


def main() -> None:
    """Print a line for each SDE, solver and tolerance, and all of them as JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch", type=int, default=64, help="samples")
    batch = parser.parse_args().batch
    jax.config.update("jax_enable_x64", True)
    means = np.random.default_rng(1).uniform(-0.7, 0.7, (3, 8, 8, 1))
    mixture = GaussianMixture.isotropic([0.5, 0.3, 0.2], means, [0.2, 0.3, 0.25])
    values = {}
    for name, sde in SDES.items():
        score_fn = mixture.score_fn(sde)
        x = mixture.sample_at(jax.random.key(0), sde, jnp.asarray(sde.t_min), batch, jnp.float64)
        v = jnp.sign(jax.random.normal(jax.random.key(1), (batch, 1, *x.shape[1:])))
        truth, _ = ours(sde, score_fn, x, v, 1e-9, solver=diffrax.Dopri8())
        runs = {
            f"ours in {variable} {tol:g}": ours(sde, score_fn, x, v, tol, variable=variable)
            for variable in ("t", "angle")
            for tol in (1e-3, 1e-4, 1e-5)
        }
        for variable, steps in itertools.product(("angle", "angle_log_snr"), (16, 24, 32, 48, 64)):
            fixed = {"variable": variable, "solver": AdamsMoulton(), "steps": steps}
            runs[f"Adams in {variable}, {steps}"] = ours(sde, score_fn, x, v, 1e-3, **fixed)
        for tol in (1e-3, 1e-4, 1e-5, 1e-6, 1e-7):
            runs[f"SciPy {tol:g}"] = conventional(sde, score_fn, x, v, tol)
        for run, (logp, nfe) in runs.items():
            error = np.abs(logp - truth)
            values[f"{name}, {run}"] = nfe, float(np.median(error)), float(error.max())
            found = f"{np.median(error):.1e} nats (median), {error.max():.1e} (worst)"
            print(f"{name:8}{run:28}{nfe:5} evaluations, error {found}")
    print(json.dumps(values))


if __name__ == "__main__":
    main()
