"""docs/settings.md: every entry of a configuration, from the schema and the tables of `build/`.

`python -m score_sde.build.reference` prints the page; `make settings` writes it.
"""

import ast
import inspect
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, get_args, get_origin

from score_sde.build.likelihood import SOLVERS
from score_sde.build.metrics import METRICS
from score_sde.build.network import (
    DTYPES,
    NETWORKS,
    PREDICTIONS,
    model_defaults,
    network_fields,
)
from score_sde.build.objective import OBJECTIVES, TIMES, WEIGHTS
from score_sde.build.process import PROCESSES, process_entries
from score_sde.build.sampler import CORRECTORS, GRIDS, PREDICTORS
from score_sde.build.settings import SECTIONS, Entry, changeable, entries
from score_sde.build.task import PROFILES
from score_sde.metrics.extractors import NAMES as EXTRACTORS
from score_sde.networks.layers import ACTIVATIONS

NAMED: dict[str, tuple[Iterable[str], str]] = {
    "training.objective": (OBJECTIVES, ""),
    "training.times": (TIMES, ""),
    "training.weight": (WEIGHTS, ""),
    "training.averages": (PROFILES, ""),
    "sampling.predictor": (PREDICTORS, ""),
    "sampling.corrector": (CORRECTORS, ""),
    "sampling.grid": (GRIDS, ""),
    "eval.metrics": (METRICS, ""),
    "eval.solver": (SOLVERS, ""),
    "quality.extractor": (EXTRACTORS, "FILE.py:FUNCTION"),
    "model.prediction": (PREDICTIONS, ""),
    "model.dtype": (DTYPES, ""),
    "model.activation": (ACTIVATIONS, ""),
}
"""Entry -> the table of the names it may take, and what else it may be."""
MEANINGS = {
    "sde.sigma_min": "Smallest noise level.",
    "sde.sigma_max": "Largest noise level: about the largest distance between two images.",
    "sde.beta_min": "Rate of the noise where it is least.",
    "sde.beta_max": "Rate of the noise where it is largest.",
    "sde.s": "Offset of the cosine.",
    "sde.n": "Number of noise levels.",
    "sde.t_min": "First time of training and likelihoods.",
    "sde.t_max": "Last time, where sampling begins.",
    "model.dropout": "Rate of dropout in training.",
    "model.activation": "Activation between layers.",
    "model.prediction": "What the network's output is.",
    "model.scale_by_sigma": "Divide the network's output by sigma(t).",
}
"""Meanings of entries that have no docstring of their own."""
INTRODUCTION = """\
# Settings

This page is made from `score_sde/build/settings.py` and the tables beside it, by `make settings`.
Do not edit it.

Any entry can be set on the command line: `--config.SECTION.NAME=VALUE`, for example
`--config.training.batch_size=64`. An entry that a configuration lacks takes its default. Recipes
change many of the defaults; `--mode dry_run` prints the resolved values of one.

A training run belongs to its configuration. The column "later" says which entries may still change
when a run is started again. All other modes may be given other values of any entry that does not
belong to the weights.
"""
HEAD = ("entry", "type", "default", "values", "later", "meaning")


def settings_page() -> str:
    """The text of docs/settings.md."""
    general = [
        ("`name`", "`str`", "", "not empty", "", "names the default working directory"),
        ("`seed`", "`int`", "`42`", "in [0, 2^32)", "", "seed of all random numbers"),
    ]
    parts = [INTRODUCTION, "## General\n", _table(general), *_processes(), *_networks()]
    for section, kind in SECTIONS.items():
        rows = [
            _row(f"{section}.{name}", type(field.default), field.default, about)
            for name, (field, about) in entries(kind).items()
        ]
        parts += [f"## {section}\n", f"{inspect.getdoc(kind)}\n", _table(rows)]
    return "\n".join(parts)


def _processes() -> list[str]:
    """The tables of the section `sde`."""
    parts = ["## sde\n", f"The forward process. `sde.name` is one of {_listed(PROCESSES)}.\n"]
    for name, make in PROCESSES.items():
        rows = [
            _row(f"sde.{entry}", about.annotation, about.default, Entry(""))
            for entry, about in process_entries(name).items()
        ]
        parts += [f"### sde.name={name}\n", f"{_first_line(make)}\n", _table(rows)]
    return parts


def _networks() -> list[str]:
    """The tables of the section `model`."""
    parts = ["## model\n", f"The network. `model.name` is one of {_listed(NETWORKS)}.\n"]
    for name, network in NETWORKS.items():
        meanings = field_docstrings(network)
        kinds = {field: about.type for field, about in network_fields(name).items()}
        rows = [
            _row(
                f"model.{entry}",
                kinds.get(entry, type(default)),
                default,
                Entry(meanings.get(entry, "")),
            )
            for entry, default in model_defaults(name).items()
        ]
        parts += [f"### model.name={name}\n", f"{_first_line(network)}\n", _table(rows)]
    return parts


def field_docstrings(kind: type) -> dict[str, str]:
    """The docstring behind each field of a class, on one line, where there is one."""
    (body,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    assert isinstance(body, ast.ClassDef)
    found = {}
    for field, after in zip(body.body, body.body[1:]):
        if not (isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)):
            continue
        if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
            found[field.target.id] = " ".join(str(after.value.value).split())
    return found


def _row(name: str, kind: Any, default: Any, about: Entry) -> tuple[str, ...]:
    """One row of a table; `kind` may be a Literal, which lists the values."""
    names, other = NAMED.get(name, ((), ""))
    if about.choices:
        names = about.choices
    elif get_origin(kind) is Literal:
        names = get_args(kind)
    values = " or ".join(filter(None, [_listed(names), f"`{other}`" * bool(other)]))
    values = values or about.range
    shown = "" if default == "" else f"`{default}`"
    later = "yes" if changeable(name) else ""
    meaning = about.meaning or MEANINGS.get(name, "")
    return f"`{name}`", f"`{type(default).__name__}`", shown, values, later, meaning


def _table(rows: Sequence[tuple[str, ...]]) -> str:
    """A markdown table; bars inside cells are escaped."""
    lines = [HEAD, ("---",) * len(HEAD), *rows]
    cells = [[cell.replace("|", "\\|") for cell in line] for line in lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in cells) + "\n"


def _listed(names: Iterable[str] | Mapping[str, Any]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _first_line(thing: Any) -> str:
    return (inspect.getdoc(thing) or "").partition("\n")[0]


if __name__ == "__main__":
    print(settings_page(), end="")
