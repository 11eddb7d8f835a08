"""Measurements of images in [0, 1]: simulated as config.inverse says, or read of a file."""

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from score_sde.arrays import sample_keys
from score_sde.build.inverse import (
    TASK_ENTRIES,
    USUAL_MASKS,
    Known,
    Maps,
    build_operator,
    build_simulator,
    takes_mask,
)
from score_sde.build.sections import InverseSettings
from score_sde.data import PhantomSource
from score_sde.data.inputs import join, read_mask
from score_sde.devices import say
from score_sde.errors import UserError
from score_sde.files import npz_names, read_npz
from score_sde.inverse import Measurement, measure, simulate
from score_sde.workdir.inputs import read_given, split_images
from score_sde.workdir.run import Run


@dataclasses.dataclass(frozen=True, eq=False)
class Measured:
    """What was measured of n images.

    measurement: of images in [0, 1]. names: of the images. known: what --mask says.
    originals: the images, or None where nobody knows them. about: for records. maps: of coils,
    where a file has them.
    """

    measurement: Measurement
    names: list[str]
    known: Known
    originals: Float[np.ndarray, "n h w c"] | None
    about: dict[str, Any]
    maps: Maps | None = None

    def arrays(self, section: InverseSettings) -> dict[str, Any]:
        """As an npz file has them, which `measured` reads again."""
        found: dict[str, Any] = {
            "y": np.asarray(self.measurement.y),
            "y_std": np.asarray(self.measurement.std),
            "names": np.asarray(self.names, str),
            "inverse": json.dumps(_entries(section)),
        }
        found |= {"known": self.known} if takes_mask(section) else {}
        found |= {} if self.maps is None else {"maps": self.maps}
        return found if self.originals is None else found | {"originals": self.originals}

    def fingerprint(self) -> str:
        """Of what the samples depend on."""
        digest = hashlib.sha256(self.known.tobytes())
        maps = () if self.maps is None else (self.maps,)
        for array in (self.measurement.y, self.measurement.std, *maps):
            digest.update(np.asarray(array).tobytes())
        return digest.hexdigest()[:16]


def with_task(run: Run, task: Literal["inpaint", "colorize"]) -> Run:
    """The run with another config.inverse.task.

    Raises:
        UserError: its configuration asks for a third one.
    """
    asked, usual = run.settings.inverse, InverseSettings()
    if asked.task not in (task, usual.task):
        raise UserError(
            f"config.inverse.task={asked.task} is not what this mode does; leave it out, or use "
            "--mode reconstruct"
        )
    if asked.task == task:
        return run
    section = dataclasses.replace(asked, task=task)
    return dataclasses.replace(run, settings=dataclasses.replace(run.settings, inverse=section))


def measured(run: Run, input: list[Path] | None, mask: str | None) -> Measured:
    """The measurement of config.inverse of the images that `input` names, or a measurement's file.

    `input`: as `read_given` takes it, or one npz file with `y`; by default the first images of
    config.eval.split. `mask`: known pixels of the task inpaint, by default the left half; pixels
    without metal of mar, by default all but implants; points of k-space where
    config.inverse.kspace=mask. Noise depends on the seed and an image's number.

    Raises:
        UserError: a mask for another task, what `build_operator` refuses, or a file that does not
            fit.
    """
    section, shape = run.settings.inverse, run.experiment.shape
    if mask and not takes_mask(section):
        more = ", or set config.inverse.kspace=mask" if section.task == "mri" else ""
        raise UserError(
            f"--mask means nothing to config.inverse.task={section.task}; leave it out{more}"
        )
    files = [path for path in input or () if path.suffix.lower() == ".npz"]
    if any("y" in npz_names(path) for path in files):
        if input is None or len(input) > 1:
            raise UserError("--input takes one file of measurements, and nothing beside it")
        return _read(run, files[0], mask)
    if section.task == "mri" and takes_mask(section) and not mask:
        raise UserError(
            "config.inverse.kspace=mask needs --mask, an image file, white where k-space is "
            "measured, with frequency 0 in the middle"
        )
    mask = mask or USUAL_MASKS.get(section.task, "left")
    known = read_mask(mask, shape)
    operator = build_operator(section, shape, known)
    if input and section.finer > 1:
        raise UserError(
            f"config.inverse.finer={section.finer} draws the images of config.eval.split finer; "
            "those of --input have the pixels they have. Leave one of them out"
        )
    given = join(read_given(run, input, ["images"]) if input else split_images(run, section.images))
    levels = run.experiment.pixel_range.levels
    originals = given.values.astype(np.float32) / np.float32(levels - 1)
    keys = sample_keys(run.keys()["eval"], jnp.arange(len(originals)))
    images = _finer(run, len(originals)) if section.finer > 1 else originals
    simulator = build_simulator(section, operator)
    found = simulate(simulator, jnp.asarray(images), section.std, keys)
    found = Measurement(operator, found.y, found.std)
    about = {"mask": mask} if takes_mask(section) else {}
    unknown = input and section.task == "colorize" and _grey(originals)
    return Measured(found, given.names, known, None if unknown else originals, about)


def _finer(run: Run, count: int) -> Float[np.ndarray, "n h w c"]:
    """The first images of config.eval.split, with finer pixels."""
    source, factor = (
        run.source(train=run.settings.eval.split == "train"),
        run.settings.inverse.finer,
    )
    if not isinstance(source, PhantomSource):
        raise UserError(
            f"config.inverse.finer={factor} needs images that can be drawn finer, as phantoms can; "
            f"those of {source.name!r} cannot. Set it to 1"
        )
    return np.stack([source.finer(i, factor) for i in range(count)]).astype(np.float32)


def _grey(images: np.ndarray) -> bool:
    """Whether there are images whose colours nobody knows; says so."""
    grey = (images == images[..., :1]).all(axis=(1, 2, 3))
    if grey.any():
        say(
            f"{int(grey.sum())} of {len(images)} images are grey: their colours are not known, so "
            "nothing is compared with them"
        )
    return bool(grey.any())


def _entries(section: InverseSettings) -> dict[str, Any]:
    """The entries of config.inverse that say what is measured."""
    return {name: getattr(section, name) for name in ("task", *TASK_ENTRIES[section.task])}


def _read(run: Run, path: Path, mask: str | None) -> Measured:
    section, shape, arrays = run.settings.inverse, run.experiment.shape, read_npz(path)
    _check_entries(path, arrays, section)
    known = _known(path, arrays, mask, shape) if takes_mask(section) else None
    known = read_mask("left", shape) if known is None else known
    maps = arrays.get("maps")
    if maps is not None and maps.dtype.kind != "c":
        raise UserError(f"`maps` in {path} must be complex numbers; they are {maps.dtype}")
    y, std = arrays["y"], arrays.get("y_std", np.asarray(section.std, np.float32))
    if y.dtype.kind not in "fiuc" or std.dtype.kind not in "fiu":
        raise UserError(
            f"`y` and `y_std` in {path} must be numbers; they are {y.dtype}, {std.dtype}"
        )
    if section.std and "y_std" in arrays and (std != np.float32(section.std)).any():
        raise UserError(
            f"{path} has its own noise, `y_std`, {std.min():g} .. {std.max():g}, and "
            f"config.inverse.std={section.std:g} is another; leave the entry out"
        )
    try:
        found = measure(build_operator(section, shape, known, maps), y, std)
    except UserError as error:
        raise UserError(f"{path}, config.inverse.task={section.task}: {error}") from error
    names = arrays.get("names", np.zeros(0, str))
    if names.shape != y.shape[:1]:
        names = np.asarray([f"{path.stem}[{i}]" for i in range(len(y))])
    about, originals = {"measurements": path.name}, _originals(path, arrays, shape)
    return Measured(found, list(map(str, names)), known, originals, about, maps)


def _check_entries(path: Path, arrays: dict[str, np.ndarray], section: InverseSettings) -> None:
    """Raises UserError where the file was made with other entries of config.inverse."""
    if "inverse" not in arrays:
        return
    try:
        stored = json.loads(str(arrays["inverse"].item()))
        theirs = {str(name): stored[name] for name in stored}
    except (ValueError, TypeError) as error:
        raise UserError(
            f"`inverse` in {path} is not what --mode measure writes ({error}); leave it out"
        ) from error
    other = {n: v for n, v in theirs.items() if getattr(section, n, None) != v}
    if other:
        flags = " ".join(f"--config.inverse.{name}={value}" for name, value in other.items())
        here = ", ".join(f"{name}={getattr(section, name, None)}" for name in other)
        raise UserError(f"{path} was measured otherwise than config.inverse says ({here}); {flags}")


def _known(path: Path, arrays: dict[str, np.ndarray], mask: str | None, shape) -> Known:
    if mask and "known" in arrays:
        raise UserError(f"{path} has its own mask, `known`; leave --mask out")
    if "known" not in arrays:
        if mask is None:
            raise UserError(f"{path} has no `known` pixels (h, w, 1), True or False; name a --mask")
        return read_mask(mask, shape)
    known = arrays["known"]
    if known.shape != (*shape[:2], 1) or known.dtype != bool:
        raise UserError(
            f"`known` in {path} is {known.dtype} of shape {known.shape}; it must be bool of shape "
            f"{(*shape[:2], 1)}, True where a pixel is known"
        )
    return known


def _originals(path: Path, arrays: dict[str, np.ndarray], shape) -> np.ndarray | None:
    if "originals" not in arrays:
        return None
    found, wanted = arrays["originals"], (len(arrays["y"]), *shape)
    good = found.shape == wanted and found.dtype.kind == "f" and np.isfinite(found).all()
    if not good or found.min() < 0 or found.max() > 1:
        raise UserError(
            f"`originals` in {path} are {found.dtype} of shape {found.shape}; they must be finite "
            f"floats in [0, 1] of shape {wanted}. Correct them, or leave them out"
        )
    return found.astype(np.float32)
