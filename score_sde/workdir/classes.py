"""Samples of classes: by a class-conditional network, or by a classifier of noisy images."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, PyTree

from score_sde import guidance
from score_sde.arrays import ScoreFn
from score_sde.curvature import ScoreWithCurvature
from score_sde.devices import say
from score_sde.errors import UserError
from score_sde.grids import as_pairs
from score_sde.workdir.classifier import make_classifier
from score_sde.workdir.run import Run
from score_sde.workdir.second_order import fitting, make_second_order
from score_sde.workdir.which import Which, weights_checksum

PLAIN = guidance.Cost(1, 0)
"""Of an evaluation without guidance."""


@dataclasses.dataclass(frozen=True, eq=False)
class Scores:
    """Which score samples are drawn with, by `make_generator`.

    params: of the score, and of a classifier where there is one. given: of the samples, rows in
    order. score_fn: (params, given) -> score; None is the model's own. cost: of an evaluation.
    about: for records.
    """

    params: PyTree
    given: dict[str, Int[Array, "n"]] = dataclasses.field(default_factory=dict)
    score_fn: Callable[[PyTree, PyTree], ScoreFn] | None = None
    cost: guidance.Cost = PLAIN
    about: dict[str, Any] = dataclasses.field(default_factory=dict)


def of_classes(run: Run, params: PyTree, asked: Sequence[int], count: int) -> Scores:
    """The score of the classes `asked`, which `count` samples have in turn; () is all of them.

    A class-conditional network is guided by its own score of all classes (Ho & Salimans 2022), any
    other by the classifier in the run's folder (dissertation eq. 7.14).

    Raises:
        UserError: no classifier, or an unknown class.
    """
    model, scale = run.experiment.model, run.settings.sampling.guidance_scale

    def told(params: PyTree, given: PyTree) -> ScoreFn:
        known = model.score_fn(params, model.of_classes(given["label"]))
        return _within(run, guidance.mix(known, model.score_fn(params), scale), known)

    if model.classes:
        labels = _labels(asked, model.classes, count)
        cost = guidance.cost("mix") if scale else PLAIN
        return Scores(params, {"label": labels}, told, cost)
    task, weights, step = make_classifier(run)
    if not scale:
        say("config.sampling.guidance_scale=0: the classifier is not used; 1 is its usual weight")

    def classified(params: PyTree, given: PyTree) -> ScoreFn:
        plain, log_probs = model.score_fn(params["score"]), task.log_probs(params["classifier"])
        guided = guidance.classifier(plain, log_probs, given["label"], scale)
        return _within(run, guided, plain)

    labels = _labels(asked, task.network.num_classes, count)  # type: ignore[attr-defined]
    both = {"score": params, "classifier": weights}
    return Scores(both, {"label": labels}, classified, about={"classifier_step": step})


def in_turn(run: Run, params: PyTree, count: int) -> Scores:
    """The score of samples that are measured: of all classes in turn, where classes are asked for.

    They are with a class-conditional network, and with config.sampling.guidance_scale.
    """
    if run.settings.sampling.guidance_scale:
        return of_classes(run, params, (), count)
    return of_network(run, params, count)


def of_network(run: Run, params: PyTree, count: int) -> Scores:
    """The network's own score, of all classes in turn where it is told them.

    Training shows samples of it: there is no classifier yet.
    """
    if run.experiment.model.classes:
        return of_classes(run, params, (), count)
    return Scores(params)


def with_curvature(run: Run, scores: Scores, step: Which) -> Scores:
    """The same; for config.sampling.corrector=ozaki with the second-order score of the run.

    Raises:
        UserError: there is none, it was trained for another checkpoint or other noise, or the
            score is that of classes, whose second order is another.
    """
    if run.settings.sampling.corrector != "ozaki":
        return scores
    if scores.score_fn is not None:
        raise UserError(
            "config.sampling.corrector=ozaki takes the second order of the score without classes; "
            "leave --classes out, or take another corrector, like langevin"
        )
    process, times = run.experiment.process, as_pairs(run.experiment.sampler.times)[:, 1]
    alpha, sigma = process.marginal(jnp.asarray(times))
    noise = float(jnp.min(sigma / alpha)), float(jnp.max(sigma / alpha))
    instead = "take another config.sampling.corrector, like langevin"
    second = fitting(make_second_order(run), (step, scores.params), noise, instead)
    model = run.experiment.model

    def both(params: PyTree, given: PyTree) -> ScoreFn:
        curvature_fn = second.task.curvature_fn(params["second_order"])
        return ScoreWithCurvature(model.score_fn(params["score"]), curvature_fn)

    score = scores.params if second.score is None else second.score
    params = {"score": score, "second_order": second.params}
    about = {"second_order_step": second.step, "second_order": weights_checksum(second.params)}
    return Scores(params, score_fn=both, about=about)


def _within(run: Run, guided: ScoreFn, plain: ScoreFn) -> ScoreFn:
    interval = run.settings.sampling.guidance_interval
    if not interval:
        return guided
    return guidance.within(guided, plain, run.experiment.process, *interval)


def _labels(asked: Sequence[int], number: int, count: int) -> Int[Array, "n"]:
    unknown = [label for label in asked if not 0 <= label < number]
    if unknown:
        raise UserError(
            f"--classes {','.join(map(str, unknown))}: there are the classes 0 .. {number - 1}"
        )
    return jnp.asarray(np.resize(np.asarray(asked or range(number), np.int32), count))
