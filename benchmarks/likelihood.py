"""Speed of exact likelihood.

    python benchmarks/likelihood.py --config vp/ddpmpp_cont:digits --batch 64

It is compared with the conventional way: SciPy's `solve_ivp` (RK45) on one vector of all images
and log-densities of the batch, calling a jitted function for score and divergence. Network,
images, probes and precision are the same. What each number means: README.md.
"""

import dataclasses
import tempfile
from pathlib import Path
from typing import Any

import common
import diffrax
import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from scipy.integrate import solve_ivp

from score_sde.arrays import ScoreFn
from score_sde.build.likelihood import build_likelihood
from score_sde.build.settings import Settings
from score_sde.data import take
from score_sde.errors import UserError
from score_sde.flow import AdamsMoulton
from score_sde.likelihood import ODELikelihood
from score_sde.modes import train
from score_sde.workdir.run import Run

flags.adopt_module_key_flags(common)
flags.DEFINE_integer("train_steps", 400, "Steps of training before the measurement.", lower_bound=1)
flags.DEFINE_string("trained", None, "Working directory of a trained model to measure instead.")
flags.DEFINE_list("ours", ["1e-5", "1e-4", "1e-3"], "Tolerances (rtol = atol) of our solver.")
flags.DEFINE_list("adams", ["16", "24", "32"], "Steps of AdamsMoulton over angle_log_snr.")
flags.DEFINE_list("scipy", ["1e-5", "1e-3"], "Tolerances (rtol = atol) of SciPy's.")
flags.DEFINE_integer(
    "exact", 8, "Images whose log p is computed in double precision for the errors.", lower_bound=1
)


class Conventional:
    """log p by SciPy's RK45 on the flattened batch.

    dx/dt = f x - g^2/2 score, and d logp/dt = v^T (d/dx of it) v.
    """

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
            flat,
            (self.sde.t_min, self.sde.t_max),
            start,
            method="RK45",
            rtol=tolerance,
            atol=tolerance,
        )
        z, integral = end.y[: self.x.size, -1].reshape(shape), end.y[self.x.size :, -1]
        return np.asarray(self.sde.prior_logp(jnp.asarray(z, dtype))) + integral, end.nfev


def exact(ode: ODELikelihood, model, params, x: jax.Array, v: jax.Array) -> np.ndarray:
    """log p in double precision, with Dopri8 at 1e-6."""
    with jax.enable_x64(True):
        params, x, v = jax.tree.map(
            lambda a: jnp.asarray(np.asarray(a), jnp.float64), (params, x, v)
        )
        flow = dataclasses.replace(ode.flow, solver=diffrax.Dopri8(), rtol=1e-6, atol=1e-6)
        tight = dataclasses.replace(ode, flow=flow, tolerance=1e-5)
        solve = jax.jit(lambda params, x, v: tight.with_probes(model.score_fn(params), x, v))
        return np.asarray(solve(params, x, v).logp)


def trained(settings: Settings) -> tuple[Run, Any, int]:
    """(run, averaged weights, step) after a short training, or of the trained model asked for."""
    with tempfile.TemporaryDirectory() as folder:
        run = Run.of(settings, Path(common.FLAGS.trained or folder))
        if not common.FLAGS.trained:
            train.main(run)
        return run, *run.weights()


def measure(settings: Settings) -> tuple[list[common.Row], dict[str, Any]]:
    """Rows and values of these settings after a short training."""
    settings = settings.change("training", steps=common.FLAGS.train_steps)
    run, params, step = trained(settings)
    experiment = run.experiment
    ode, _ = build_likelihood(settings.eval, experiment.process, experiment.shape)
    if ode is None or ode.probes != 1:
        raise UserError("this benchmark compares with one probe: leave config.eval.probes at 1")
    batch = common.FLAGS.batch or 64
    images = take(run.source(train=False), np.arange(batch))["image"]
    noise = np.random.default_rng(0).uniform(size=images.shape)
    x = jnp.asarray(experiment.pixel_range.dequantize(images, noise), jnp.float32)
    v = ode.draw(jax.random.key(1), x)
    few = common.FLAGS.exact
    truth = exact(ode, experiment.model, params, x[:few], v[:few])
    calls, results = solvers(ode, experiment.model.score_fn(params), x, v)
    clocks = {name: common.clock(call) for name, call in calls.items()}
    seconds = common.in_turns(clocks, common.FLAGS.repeats)
    about = f"{batch} images {experiment.shape}, network after {step} steps of training"
    rows, values = compared(results, seconds, truth, batch)
    return [("batch", about), *rows], {"batch": batch, "step": step} | values


def solvers(ode: ODELikelihood, score_fn: ScoreFn, x: jax.Array, v: jax.Array):
    """By name the calls to be timed, and (log p, mean evaluations, most) of each."""
    fixed = {"solver": AdamsMoulton(), "variable": "angle_log_snr"}
    flows = {f"ours {float(t):g}": {"rtol": float(t), "atol": float(t)} for t in common.FLAGS.ours}
    flows |= {f"Adams {n}": {**fixed, "steps": int(n)} for n in common.FLAGS.adams}
    conventional, calls, results = Conventional(ode, score_fn, x, v), {}, {}
    for name, changes in flows.items():
        own = dataclasses.replace(ode, flow=dataclasses.replace(ode.flow, **changes))
        solve = jax.jit(lambda x, v, own=own: own.with_probes(score_fn, x, v))
        found = solve(x, v)
        results[name] = found.logp, float(found.nfe.mean()), int(found.nfe.max())
        calls[name] = lambda solve=solve: solve(x, v)
    for tol in map(float, common.FLAGS.scipy):
        logp, count = conventional(tol)
        results[f"SciPy {tol:g}"] = logp, float(count), count
        calls[f"SciPy {tol:g}"] = lambda tol=tol: conventional(tol)
    return calls, results


def compared(
    results: dict[str, Any], seconds: dict[str, np.ndarray], truth: np.ndarray, batch: int
) -> tuple[list[common.Row], dict[str, Any]]:
    """Rows and values: time and error of each, and ratios of times."""
    rows: list[common.Row] = []
    values: dict[str, Any] = {}
    for name, (logp, nfe, most) in results.items():
        error = np.abs(np.asarray(logp)[: len(truth)] - truth)
        each = 1e3 * float(np.median(seconds[name])) / batch
        values[name] = {
            "ms_per_image": each,
            "nfe": nfe,
            "nfe_max": most,
            "error_median": float(np.median(error)),
            "error_max": float(error.max()),
        }
        text = f"{each:.2f} ms an image, {nfe:.0f} evaluations (at most {most}), error "
        text += f"{np.median(error):.1e} nats (median), {error.max():.1e} (worst)"
        rows.append((name, text))
    theirs = [name for name in results if name.startswith("SciPy")]
    for mine in (name for name in results if name not in theirs):
        for names in ((mine, other) for other in theirs):
            faster = common.ratio(seconds[names[1]], seconds[names[0]])
            values[" / ".join(names)] = faster
            rounds = f"rounds {faster['lowest']:.2f} .. {faster['highest']:.2f}"
            text = f"{faster['median']:.2f} times faster ({rounds})"
            rows.append((f"{names[0]}, {names[1]}", text))
    return rows, values


if __name__ == "__main__":
    common.run(measure)
