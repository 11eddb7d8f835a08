"""The objective of training: which one, at which times, with which weight."""

import math
from collections.abc import Callable
from typing import Any

from score_sde import objectives
from score_sde.build.names import blame, choose
from score_sde.build.settings import Settings, Training
from score_sde.errors import UserError
from score_sde.objectives.denoising import Weight
from score_sde.objectives.times import TimeSampler
from score_sde.parameterize import Energy, Model
from score_sde.sde import DiscreteChain, GaussianSDE, Perturbation

TIMES: dict[str, Callable[[Any, Training], TimeSampler]] = {
    "uniform": lambda process, section: (
        objectives.UniformIndex(process)
        if isinstance(process, DiscreteChain)
        else objectives.UniformTime(process)
    ),
    "log_snr": lambda process, section: objectives.LogSNRUniform(process),
    "log_normal": lambda process, section: objectives.LogNormal(
        process, section.p_mean, section.p_std
    ),
}
"""By the name in config.training.times."""


def _likelihood(process: Perturbation, made: Model, settings: Settings) -> Weight:
    if isinstance(process, GaussianSDE):
        k = settings.training.likelihood_weighting
        return objectives.interpolated_weight(process, k)
    return objectives.variance_weight(process)


def _output(process: Perturbation, made: Model, settings: Settings) -> Weight:
    if isinstance(made, Energy):
        raise ValueError(
            "weight=output counts errors of a network whose output becomes a score; with "
            "model.prediction=energy it becomes an energy. Set training.weight=likelihood"
        )
    return objectives.output_weight(made)


WEIGHTS: dict[str, Callable[[Perturbation, Model, Settings], Weight]] = {
    "likelihood": _likelihood,
    "edm": lambda process, made, settings: objectives.edm_weight(process, settings.data.std),
    "output": _output,
}
"""By the name in config.training.weight."""


def _sliced(reduced: Any) -> Callable[[Training, Perturbation], objectives.CleanObjective]:
    return lambda section, process: objectives.SlicedScoreMatching(
        section.projections, section.projection_kind, reduced
    )


def _differences(form: Any) -> Callable[[Training, Perturbation], objectives.CleanObjective]:
    def make(section: Training, process: Perturbation) -> objectives.CleanObjective:
        share = section.difference_step
        return objectives.FiniteDifferenceScoreMatching(
            lambda t: share * process.marginal(t)[1],
            section.projections,
            section.projection_kind,
            form,
        )

    return make


DENOISING = {"denoising": False, "denoising_vr": True}
"""Names of denoising score matching -> whether its variance is reduced."""
PERTURBED: dict[str, Callable[[Training, Perturbation], objectives.CleanObjective]] = {
    "sliced": _sliced(False),
    "sliced_vr": _sliced(True),
    "sliced_optimal": _sliced("optimal"),
    "exact": lambda section, process: objectives.ExactScoreMatching(),
    "finite_difference": _differences("score"),
    "finite_difference_energy": _differences("energy"),
    "shifted_nce": _differences("contrast"),
}
"""Names of objectives of clean data, which are applied to perturbed data here."""
OBJECTIVES = (*DENOISING, *PERTURBED)
"""By the name in config.training.objective."""
ENERGIES = ("finite_difference_energy", "shifted_nce")
"""Objectives that compare log-densities."""
DIFFERENCES = ("finite_difference", *ENERGIES)
PROJECTED = ("sliced", "sliced_vr", "sliced_optimal", *DIFFERENCES)
KINKED = ("relu", "lrelu")
"""Activations whose derivative jumps."""


def build_objective(
    settings: Settings, process: Perturbation, made: Model
) -> objectives.DenoisingScoreMatching | objectives.PerturbedData:
    """The objective of config.training with its times, weight and reduction.

    Raises:
        UserError: an unknown name, a weighting that a discrete chain has not, two weights, an entry
            that the objective does not use, or an objective that the model cannot have.
    """
    section = settings.training
    name, likelihood = section.objective, section.likelihood_weighting
    make_times = choose("training.times", TIMES, section.times)
    make_weight = choose("training.weight", WEIGHTS, section.weight)
    choose("training.objective", dict.fromkeys(OBJECTIVES), name)
    if section.weight != "likelihood" and likelihood:
        raise UserError(
            f"config.training.likelihood_weighting={likelihood} is for training.weight=likelihood, "
            f"not {section.weight}; set one of them back"
        )
    if isinstance(process, DiscreteChain) and (section.times != "uniform" or likelihood):
        raise UserError(
            "a discrete chain is trained with training.times=uniform and "
            f"training.likelihood_weighting=0; got times={section.times}, "
            f"likelihood_weighting={likelihood}. Use a *_cont recipe for the others."
        )
    _check(settings, isinstance(made, Energy))
    with blame("training"):
        times, weight = make_times(process, section), make_weight(process, made, settings)
        if name in DENOISING:
            return objectives.DenoisingScoreMatching(
                process, times, weight, section.reduce, DENOISING[name]
            )
        clean = PERTURBED[name](section, process)
        return objectives.PerturbedData(clean, process, times, weight, section.reduce)


def _check(settings: Settings, energy: bool) -> None:
    """Raises UserError for what the objective does not use, or the model cannot have."""
    section, usual = settings.training, Training()
    name = section.objective
    used = {"projections": PROJECTED, "projection_kind": PROJECTED, "difference_step": DIFFERENCES}
    for entry, users in used.items():
        value = getattr(section, entry)
        if name not in users and value != getattr(usual, entry):
            raise UserError(
                f"config.training.{entry}={value} is for the objectives {', '.join(users)}; "
                f"training.objective={name} has no use for it. Set one of them back"
            )
    if name in ENERGIES and not energy:
        raise UserError(
            f"config.training.objective={name} compares log-densities, which a score network has "
            f"not; got model.prediction={settings.model.get('prediction', 'score')}. Set "
            "model.prediction=energy, or training.objective=finite_difference"
        )
    activation = settings.model.get("activation", "")
    if energy and name not in DENOISING and name not in ENERGIES and activation in KINKED:
        raise UserError(
            f"config.training.objective={name} integrates by parts, which a score that jumps "
            f"forbids; that of an energy with model.activation={activation} does. Set "
            "model.activation=swish or elu, or training.objective=denoising"
        )
    if section.uncertainty and name not in DENOISING:
        raise UserError(
            "config.training.uncertainty=True divides the loss by what is expected of it, which "
            f"must be positive; that of training.objective={name} is negative. Set one of them back"
        )


def check_size(settings: Settings, shape: tuple[int, ...]) -> None:
    """Raises UserError where exact score matching would take a pass for each of too many pixels."""
    largest, d = objectives.ExactScoreMatching().largest, math.prod(shape)
    if settings.training.objective == "exact" and d > largest:
        raise UserError(
            "config.training.objective=exact takes one pass through the network for each of "
            f"{d} pixel values of an image, more than {largest}. Set training.objective=sliced_vr, "
            "whose mean is the same"
        )
