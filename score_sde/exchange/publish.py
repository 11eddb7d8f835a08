"""A checkpoint as a folder that others can read: averaged weights, settings and a model card."""

from pathlib import Path
from typing import Any

import jax

from score_sde import __version__
from score_sde.build.published import shapes_of
from score_sde.build.settings import Section
from score_sde.convert import write_safetensors
from score_sde.convert.diffusers import Family, express
from score_sde.convert.diffusers_table import table
from score_sde.convert.table import by_path, to_torch
from score_sde.errors import UserError
from score_sde.exchange.folders import INDEX, OWN_WEIGHTS, SCHEDULER_FILE, UNET_FILE, WEIGHTS
from score_sde.exchange.states import new_folder
from score_sde.files import write_bytes, write_json
from score_sde.report.page import environment
from score_sde.training import costs
from score_sde.training.state import TrainState
from score_sde.workdir import config as configurations
from score_sde.workdir.documents import read_document
from score_sde.workdir.measurements import read, told
from score_sde.workdir.run import Run
from score_sde.workdir.which import Which

PACKAGES = ("python", "jax", "flax", "numpy")
WRITTEN_FOR = "0.42.1"
"""The version of diffusers that the folders were tried with."""


def write_model(folder: Path, run: Run, state: TrainState, which: Which) -> str:
    """Write the averaged weights of a checkpoint as a new folder; returns what form it has.

    It is a pipeline of diffusers where that has such a model. Else it is `config.json` with the
    settings and `model.safetensors` with our names. `--mode import` reads both back, bit for bit.

    Raises:
        UserError: it cannot be written.
    """
    settings, params = run.settings, jax.device_get(state.averages[0])
    texts = {"step": str(int(state.step))}
    try:
        family, unet, scheduler = express(settings.to_dict())
    except UserError as error:
        with new_folder(folder, "--output") as place:
            weights = to_torch(by_path(params), params)
            write_safetensors(place / OWN_WEIGHTS, weights, texts | {"format": "flax"})
            configurations.save(settings, place / UNET_FILE)
            _card(place, run, state, which, None)
        return f"in this library's form, as diffusers has no such model: {error}"
    network: Any = run.experiment.model.network
    weights = to_torch(table(network, shapes_of(network, run.experiment.shape)), params)
    with new_folder(folder, "--output") as place:
        write_safetensors(place / "unet" / WEIGHTS[0], weights, texts | {"format": "pt"})
        made = {"_diffusers_version": WRITTEN_FOR}
        write_json(place / "unet" / UNET_FILE, unet | made)
        write_json(place / "scheduler" / SCHEDULER_FILE, scheduler | made)
        parts = {"unet": ["diffusers", "UNet2DModel"], "scheduler": ["diffusers", family.scheduler]}
        write_json(place / INDEX, {"_class_name": family.pipeline} | made | parts)
        _card(place, run, state, which, family)
    return f"as a {family.pipeline} of diffusers"


def _card(place: Path, run: Run, state: TrainState, which: Which, family: Family | None) -> None:
    settings = run.settings
    library = "diffusers" if family else "score_sde"
    lines = [
        *("---", f"library_name: {library}", "pipeline_tag: unconditional-image-generation"),
        *("tags:", "- score-based generative model", "- score_sde", "---", ""),
        *(f"# {settings.name}", ""),
        f"A score-based generative model of images, written by score_sde {__version__}. Its "
        f"weights are the averaged ones of checkpoint {which}.",
        *("", "| | |", "|---|---|"),
    ]
    facts = _facts(run) | {
        "parameters": f"{costs.count(state.averages[0]):,}",
        "versions": ", ".join(f"{n} {v}" for n, v in environment().items() if n in PACKAGES),
    }
    lines += [f"| {name} | {_cell(value)} |" for name, value in facts.items()]
    if rows := read(run.folder).get(which, []):
        lines += ["", "## Measurements", "", "| measure | value |", "|---|---|"]
        lines += [f"| {_cell(name)} | {_cell(value)} |" for name, value in map(told, rows)]
    lines += ["", "## Use", ""]
    if family:
        lines += [
            *("```python", f"from diffusers import {family.pipeline}", ""),
            *(f'images = {family.pipeline}.from_pretrained("FOLDER")().images', "```", ""),
        ]
    lines += ["```bash", "score-sde --mode import --source FOLDER --workdir runs/NAME"]
    lines += ["score-sde --mode sample --workdir runs/NAME", "```", ""]
    write_bytes(place / "README.md", "\n".join(lines).encode())


def _facts(run: Run) -> dict[str, str]:
    """What the model is of; what it was trained with only where that was here."""
    settings, pixels = run.settings, run.experiment.pixel_range
    data, training = settings.data, settings.training
    facts = {
        "data": data.source,
        "images": f"{data.image_size} x {data.image_size} pixels, {data.channels} channels, "
        f"{pixels.levels} levels in [{pixels.low:g}, {pixels.high:g}]",
        "process": _listed(settings.sde),
        "network": _listed(settings.model),
    }
    if (path := run.folder / "imported.json").exists():
        origin = read_document(path, {"source": str, "code": str}, "Remove it.")
        facts["imported"] = f"{origin['source']} ({origin['code']})"
    if (run.folder / "metrics.jsonl").exists():
        facts["training"] = (
            f"objective={training.objective}, batch_size={training.batch_size}, "
            f"lr={settings.optim.lr:g}, ema_rate={training.ema_rate:g}, seed={settings.seed}"
        )
    return facts


def _listed(section: Section) -> str:
    return ", ".join(f"{name}={value}" for name, value in section.items())


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
