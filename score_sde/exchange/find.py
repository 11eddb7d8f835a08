"""Which settings a published checkpoint is of."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from score_sde.build.published import (
    check_extent,
    follow_code,
    misfit,
    modules_of,
    refinenet_variant,
    sigmas_differ,
    structure,
    with_original,
)
from score_sde.build.settings import OPEN, SECTIONS, Settings
from score_sde.convert.originals import translate
from score_sde.convert.published import Published
from score_sde.errors import UserError
from score_sde.files import kind_of
from score_sde.recipes import DATASETS, RECIPES
from score_sde.workdir import config as configurations
from score_sde.workdir.jobs import Overrides


class Asked(NamedTuple):
    """What the user says of a checkpoint's settings.

    recipe: --config. original: --source_config. overrides: changes, which come last. again: the
    command line to repeat.
    """

    recipe: str | None = None
    original: Path | None = None
    overrides: Overrides = ()
    again: str = ""


def find_settings(published: Published, source: Path, asked: Asked) -> tuple[Settings, str]:
    """(our settings, where they are from) for the content of the file `source`.

    In this order: a recipe, or config.json of a run; a configuration of the original code as JSON;
    a config.json beside the file; the one recipe whose network has these arrays.

    Raises:
        UserError: none or several fit, or a configuration that is named cannot be followed.
    """
    beside = source.parent / "config.json"
    if asked.recipe:
        found, origin = configurations.load(asked.recipe), asked.recipe
        found = follow_code(found, published)
    elif asked.original or beside.is_file():
        path = asked.original or beside
        with followed(path):
            found, origin = _read_original(path, published)
    else:
        found, origin = _recognize(published, asked)
    found = configurations.override(found, asked.overrides)
    check_extent(found)
    return found, origin


@contextlib.contextmanager
def followed(origin: str | Path) -> Iterator[None]:
    """Raises UserError for whatever settings that others wrote can cause in this context."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # the one place where all of that ends
        raise UserError(
            f"the configuration {origin} cannot be followed ({type(error).__name__}: "
            f"{error!s:.200}); name another with --config"
        ) from error


def _read_original(path: Path, published: Published) -> tuple[Settings, str]:
    """The settings that a JSON file describes in the original code's terms, or in ours."""
    original = read_json(path)
    if {*OPEN, *SECTIONS} <= original.keys():
        return configurations.load_json(path), str(path)
    try:
        found = translate(original)
    except UserError as error:
        raise UserError(
            f"{path}: {error}. Name a recipe of this library with --config instead"
        ) from error
    location = f"{found.recipe}:{found.dataset}"
    try:
        settings = configurations.load(location)
    except UserError:  # the recipe does not have this data set
        location = f"{found.recipe}:folder"
        settings = configurations.load(location)
    settings = follow_code(with_original(settings, found.changes), published)
    if settings.model.name in ("ncsn", "ncsnv2"):
        settings = settings.change("model", variant=refinenet_variant(published))
    return settings, f"{path} (as {location})"


def read_json(path: Path) -> dict[str, Any]:
    """The sections of a JSON file that others wrote; raises UserError for anything else."""
    try:
        if kind := kind_of(path):
            raise ValueError(f"it is {kind}")
        values = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(
            f"{path} cannot be read as JSON ({error}); name a recipe with --config instead"
        ) from error
    if not isinstance(values, dict):
        raise UserError(
            f"{path} holds {type(values).__name__}, not sections; name a recipe with --config "
            "instead"
        )
    return values


NOT_IMPORTED = ("edm", "straight")
"""Groups of recipes whose published codes are not among those that can be imported."""


def recipes() -> Iterator[tuple[str, Settings]]:
    """("GROUP/NAME:DATASET", settings) of every recipe of the codes here, on every data set."""
    for name in (name for name in RECIPES if name.partition("/")[0] not in NOT_IMPORTED):
        for dataset in DATASETS:
            try:
                yield f"{name}:{dataset}", configurations.load(f"{name}:{dataset}")
            except UserError:  # the recipe does not have this data set
                continue


Located = tuple[str, Settings]


def _candidates(published: Published, asked: Asked) -> dict[str, list[Located]]:
    """All recipes with the overrides, by what names and shapes of their weights depend on."""
    found: dict[str, list[Located]] = {}
    refused: UserError | None = None
    for location, settings in recipes():
        try:
            settings = follow_code(settings, published)
            settings = configurations.override(settings, asked.overrides)
        except UserError as error:  # an override that means nothing to this recipe
            refused = error
            continue
        if settings.data.image_size:
            found.setdefault(structure(settings), []).append((location, settings))
    if not found:
        raise UserError(f"no recipe takes these overrides ({refused}); name one with --config")
    return found


def _recognize(published: Published, asked: Asked) -> tuple[Settings, str]:
    """The recipe whose network, with the overrides, is that of the weights."""
    found = _candidates(published, asked)
    modules = {key: modules_of(located[0][1], published) for key, located in found.items()}
    if not any(names & published.modules for names in modules.values()):
        listed = ", ".join(sorted(published.modules)[:5])
        raise UserError(
            f"the weights are of no network here: none has any of their modules ({listed}, ...)"
        )
    distances = {key: len(names ^ published.modules) for key, names in modules.items()}
    nearest = [key for key, distance in distances.items() if distance == min(distances.values())]
    fitting, reasons = [], []
    for key in nearest:
        foreign, reason = misfit(published, found[key][0][1])
        for location, settings in found[key]:
            why = reason or sigmas_differ(published, settings)
            if why:
                reasons.append((foreign, location, why))
            else:
                fitting.append((location, settings))
    if len(fitting) == 1:
        return fitting[0][1], fitting[0][0]
    if fitting:
        listed = "\n".join(f"  {asked.again} --config {location}" for location, _ in fitting)
        raise UserError(
            f"{len(fitting)} recipes have the network of these weights, which do not tell process, "
            f"image size and pixel range. Say which one it is:\n{listed}"
        )
    _, location, reason = min(reasons)
    raise UserError(
        f"no recipe has the network of these weights. The nearest is {location}: {reason}. Name a "
        f"recipe and what is other, like: {asked.again} --config {location} "
        "--config.model.nf=NUMBER, or the original configuration as JSON with --source_config"
    )
