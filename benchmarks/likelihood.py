"""Speed of exact likelihood: python benchmarks/likelihood.py --config configs/vp/ddpmpp_cont.py:digits --batch 64.

The conventional way to compare with: SciPy's `solve_ivp` (RK45) on one vector of all images and log-densities of the batch,
calling a jitted function for score and divergence. Same network, images, probes and precision. What each number means:
README.md.
"""

import tempfile
from pathlib import Path
from typing import Any

import common
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from absl import flags
from scipy.integrate import solve_ivp

import run_lib
from score_sde.build import build_likelihood, open_source
from score_sde.data import take
from score_sde.likelihood import ODELikelihood
from score_sde.types import ScoreFn

flags.adopt_module_key_flags(common)
flags.DEFINE_integer("train_steps", 400, "Steps of training before the measurement.", lower_bound=1)
flags.DEFINE_string("trained", None, "Working directory of a trained model to measure instead.")
flags.DEFINE_list(
    "scipy_rtol", ["1e-5", "1e-6"], "Tolerances of SciPy; the first is config.eval.rtol's rival."
)
flags.DEFINE_float("reference", 1e-7, "Tolerance of the SciPy solution that errors are taken from.")


class Conventional:
    """log p by SciPy's RK45 on the flattened batch: dx/dt = f x - g^2/2 score, d logp/dt = v^T (d/dx of it) v."""

    def __init__(self, ode: ODELikelihood, score_fn: ScoreFn, x: jax.Array, v: jax.Array):
        self.sde, self.x, self.v = ode.flow.sde, np.asarray(x), v[:, 0]

        def field(t, x):
            f, g2 = self.sde.coefficients(t)
            return f * x - 0.5 * g2 * score_fn(x, jnp.full(len(x), t, x.dtype))

        @jax.jit
        def rates(t, x):
            dx, pushed = jax.jvp(lambda x: field(t, x), (x,), (self.v,))
            return dx, jnp.sum((self.v * pushed).reshape(len(x), -1), axis=1)

        self.rates = rates

    def __call__(self, tolerance: float) -> tuple[np.ndarray, int]:
        """(log p (batch,), evaluations)."""
        shape, dtype = self.x.shape, self.x.dtype

        def flat(t, y):
            dx, dlogp = self.rates(dtype.type(t), y[: self.x.size].reshape(shape).astype(dtype))
            return np.concatenate([np.asarray(dx).ravel(), np.asarray(dlogp)])

        start = np.concatenate([self.x.ravel(), np.zeros(len(self.x))])
        end = solve_ivp(
            flat, (self.sde.t_min, self.sde.t_max), start, method="RK45", rtol=tolerance, atol=tolerance
        )
        z, integral = end.y[: self.x.size, -1].reshape(shape), end.y[self.x.size :, -1]
        return np.asarray(self.sde.prior_logp(jnp.asarray(z, dtype))) + integral, end.nfev


def measure(config: ml_collections.ConfigDict) -> tuple[list[common.Row], dict[str, Any]]:
    """Rows and values of `config` after a short training."""
    with tempfile.TemporaryDirectory() as folder:
        workdir = Path(common.FLAGS.trained or folder)
        if not common.FLAGS.trained:
            config.training.steps = common.FLAGS.train_steps
            run_lib.train(config, workdir)
        experiment, _, state, step = run_lib.restore(config, workdir, None)
    ode, _ = build_likelihood(config.eval, experiment.process, experiment.shape)
    if ode is None or ode.probes != 1:
        raise run_lib.UserError("this benchmark compares with one probe: leave config.eval.probes at 1")
    tolerance, batch = ode.flow.atol, common.FLAGS.batch or 64
    images = take(open_source(config.data, train=False), np.arange(batch))["image"]
    noise = np.random.default_rng(0).uniform(size=images.shape)
    x = jnp.asarray(experiment.pixel_range.dequantize(images, noise), jnp.float32)
    score_fn = experiment.model.score_fn(state.ema_params)
    v = ode.draw(jax.random.key(1), x)
    solve = jax.jit(lambda x, v: ode.with_probes(score_fn, x, v))
    conventional = Conventional(ode, score_fn, x, v)

    truth, _ = conventional(common.FLAGS.reference)
    ours = solve(x, v)
    rivals = {float(tol): conventional(float(tol)) for tol in common.FLAGS.scipy_rtol}
    first = next(iter(rivals))
    clocks = {"ours": common.clock(lambda: solve(x, v))}
    clocks |= {f"SciPy {tol:g}": common.clock(lambda tol=tol: conventional(tol)) for tol in rivals}
    seconds = common.in_turns(clocks, common.FLAGS.repeats)

    def describe(name, logp, nfe):
        error = np.abs(np.asarray(logp) - truth)
        values[name] = {
            "ms_per_image": 1e3 * float(np.median(seconds[name])) / batch,
            "nfe": nfe,
            "error_median": float(np.median(error)),
            "error_max": float(error.max()),
        }
        text = f"{values[name]['ms_per_image']:.2f} ms an image, {nfe} evaluations, "
        return name, text + f"error {np.median(error):.1e} nats (median), {error.max():.1e} (worst)"

    values: dict[str, Any] = {"batch": batch, "step": step, "tolerance": tolerance}
    nfe = np.asarray(ours.nfe)
    rows = [
        ("batch", f"{batch} images {experiment.shape}, network after {step} steps of training"),
        describe("ours", ours.logp, f"{nfe.mean():.0f} (at most {nfe.max()})"),
        *(describe(f"SciPy {tol:g}", logp, count) for tol, (logp, count) in rivals.items()),
    ]
    for tol in rivals:
        values[f"speedup {tol:g}"] = faster = common.ratio(seconds[f"SciPy {tol:g}"], seconds["ours"])
        text = f"{faster['median']:.2f} (fastest {faster['fastest']:.2f}, "
        text += f"rounds {faster['lowest']:.2f} .. {faster['highest']:.2f})"
        goal = (": goal 3 reached" if faster["median"] >= 3 else ": goal 3 MISSED") if tol == first else ""
        rows.append((f"times faster than {tol:g}", text + goal))
    return rows, values


if __name__ == "__main__":
    common.run(measure)
