"""The fast solvers of config.sampling.predictor: DDIM, Heun, DPM-Solver, UniPC, DEIS and others.

A row of `SOLVERS` makes a stepper, and names the entries of config.sampling that it takes. A new
solver is a file in `steppers/` and a row here.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

from score_sde import steppers
from score_sde.build.settings import Sampling
from score_sde.sde import GaussianSDE, Perturbation
from score_sde.steppers import Exponential, Multistep, RungeKutta, Singlestep, Stepper
from score_sde.steppers.exponential import Orders

OPTIONS = ("order", "eta", "churn", "churn_min", "churn_max", "churn_noise", "rtol", "atol")
"""Entries of config.sampling for some solvers alone."""
CHURN = ("churn", "churn_min", "churn_max", "churn_noise")


class Solver(NamedTuple):
    """make: (process, settings) -> stepper. takes: which `OPTIONS` mean something to it.

    orders: those it has, the usual one first.
    """

    make: Callable[[Perturbation, Sampling], Stepper]
    takes: tuple[str, ...] = ()
    orders: tuple[int, ...] = ()


def _orders(settings: Sampling) -> Orders:
    """With fewer than 15 steps the last ones have lower orders, as the published codes have it."""
    if settings.steps < 15:
        return steppers.lowered_orders(settings.order, settings.steps)
    return settings.order


def _runge_kutta(tableau: steppers.Tableau, nodes: str = "rho", eta: bool = False):
    def make(process: Perturbation, settings: Sampling) -> Stepper:
        noise = settings.eta if eta else 0.0
        stepper: Stepper = RungeKutta(process, tableau, nodes, noise)  # type: ignore[arg-type]
        if not settings.churn:
            return stepper
        if not isinstance(process, GaussianSDE):
            raise ValueError(
                f"churn={settings.churn} lifts samples to a noise level between two of a chain; "
                "it needs a continuous process"
            )
        return steppers.Churn(
            process,
            stepper,
            settings.churn / settings.steps,
            settings.churn_min,
            settings.churn_max,
            settings.churn_noise,
        )

    return make


def _singlestep(prediction: str, law: str = "ancestral", noisy: bool = False):
    def make(process: Perturbation, settings: Sampling) -> Stepper:
        eta = settings.eta if prediction == "data" else 0.0
        exponential = Exponential(process, prediction, eta, law)  # type: ignore[arg-type]
        return Singlestep(exponential, settings.order, noisy=noisy)

    return make


def _multistep(prediction: str, weights: str = "bh2", corrector: bool = False):
    def make(process: Perturbation, settings: Sampling) -> Stepper:
        exponential = Exponential(process, prediction, settings.eta)  # type: ignore[arg-type]
        orders = _orders(settings)
        return Multistep(exponential, orders, weights, corrector)  # type: ignore[arg-type]

    return make


def _adams(variable: str):
    def make(process: Perturbation, settings: Sampling) -> Stepper:
        return steppers.AdamsBashforth(process, settings.order, variable)  # type: ignore[arg-type]

    return make


def _adaptive(process: Perturbation, settings: Sampling) -> Stepper:
    if settings.steps != 1:
        raise ValueError(
            "predictor=dpm_solver_adaptive chooses its own steps within each step of the grid, so "
            f"steps={settings.steps} would only add evaluations; set steps=1"
        )
    return steppers.Adaptive(
        Exponential(process, "noise"), settings.order, settings.rtol, settings.atol
    )


SOLVERS: dict[str, Solver] = {
    "ddim": Solver(_runge_kutta(steppers.EULER, eta=True), ("eta", *CHURN)),
    "heun": Solver(_runge_kutta(steppers.HEUN), CHURN),
    "dpm_2": Solver(_runge_kutta(steppers.MIDPOINT, "log_rho", eta=True), ("eta", *CHURN)),
    "lms": Solver(_adams("rho"), ("order",), (4, 1, 2, 3)),
    "deis": Solver(_adams("time"), ("order",), (3, 1, 2, 4)),
    "ipndm": Solver(_adams("steps"), ("order",), (4, 1, 2, 3)),
    "dpm_solver": Solver(_singlestep("noise"), ("order",), (3, 1, 2)),
    "dpm_solver_multistep": Solver(_multistep("noise"), ("order",), (2, 1, 3)),
    "dpm_solver_adaptive": Solver(_adaptive, ("order", "rtol", "atol"), (3, 2)),
    "dpmpp_2s": Solver(_singlestep("data"), ("order", "eta"), (2, 1, 3)),
    "dpmpp_sde": Solver(_singlestep("data", noisy=True), ("eta",), (2,)),
    "dpmpp_2m": Solver(_multistep("data"), ("eta",), (2,)),
    "dpmpp_3m": Solver(_multistep("data", "exact"), ("eta",), (3,)),
    "unipc": Solver(_multistep("data", corrector=True), ("order",), (3, 1, 2)),
}
"""By the name in config.sampling.predictor."""

NOISY = {
    "euler_ancestral": "ddim",
    "dpm_2_ancestral": "dpm_2",
    "dpmpp_2s_ancestral": "dpmpp_2s",
    "dpmpp_2m_sde": "dpmpp_2m",
    "dpmpp_3m_sde": "dpmpp_3m",
    "dpmpp_sde": "dpmpp_sde",
}
"""Names for solvers with noise: they are other rows, with eta = 1 where it is 0."""
USUAL = Sampling()


def solver(name: str, process: Perturbation, settings: Sampling) -> Stepper:
    """The stepper of a row, after its options were checked.

    Raises:
        ValueError: an option that means nothing to it, an order that it has not, or a process that
            it cannot go with.
    """
    row = SOLVERS[NOISY.get(name, name)]
    for option in OPTIONS:
        value = getattr(settings, option)
        if option not in row.takes and value != getattr(USUAL, option):
            known = [other for other, one in SOLVERS.items() if option in one.takes]
            raise ValueError(
                f"{option}={value} means nothing to predictor={name}; leave it at "
                f"{getattr(USUAL, option)}, or take one of {', '.join(known)}"
            )
    if "order" in row.takes and settings.order and settings.order not in row.orders:
        orders = ", ".join(map(str, sorted(row.orders)))
        raise ValueError(f"predictor={name} has the orders {orders}; got order={settings.order}")
    order = settings.order or (row.orders[0] if row.orders else 0)
    eta = settings.eta or float(name in NOISY)
    return row.make(process, dataclasses.replace(settings, order=order, eta=eta))
