"""Images and latents that a user hands to a trained model: image files, folders and npz files."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Integer, Num

from score_sde.data.folders import scan_folder, tell_used
from score_sde.data.image_files import check_file, read_image
from score_sde.data.masks import HALVES, SHARES, named_mask
from score_sde.errors import UserError
from score_sde.files import kind_of, read_npz

Kind = Literal["images", "z"]
KEYS = {"images": "integer pixel levels", "z": "latents"}
"""Entries of an npz file."""


class Inputs(NamedTuple):
    """Things of one kind that were read together.

    names: a file's name, below its folder; an npz file's `names`, or FILE[i]. kind: "images" or
    "z". values: (n, height, width, channels): integer levels of images, float32 latents. files:
    whether 8-bit image files were mapped to levels.
    labels: (n,), zeros where there are none.
    """

    names: list[str]
    kind: Kind
    values: Num[np.ndarray, "n h w c"]
    labels: Integer[np.ndarray, "n"]
    files: bool = False


def join(parts: Sequence[Inputs]) -> Inputs:
    """Parts of one kind as one."""
    names = [name for part in parts for name in part.names]
    values, labels = (
        np.concatenate(arrays) for arrays in zip(*((p.values, p.labels) for p in parts))
    )
    return Inputs(names, parts[0].kind, values, labels, any(part.files for part in parts))


def read_inputs(
    paths: Sequence[Path],
    shape: tuple[int, int, int],
    levels: int,
    accept: Sequence[Kind],
    prior_std: float | None = None,
) -> list[Inputs]:
    """Read image files, folders of images and npz files, in the order given.

    A file's 8-bit value v becomes level round(v (levels - 1)/255). Values of 16 bits are levels as
    they are, of models with more than 256. Images are never cropped,
    resized or made grey: what goes in shall be what the model maps. Transparency is composited onto
    white, palettes are looked up.

    Args:
        paths: what to read.
        shape: (height, width, channels) of the model's images.
        levels: of a pixel.
        accept: kinds that are wanted; of an npz file that holds several, the first.
        prior_std: of the model; latents that name another are refused.

    Raises:
        UserError: missing, unreadable or empty inputs, another size, channels, depth or range,
            floating-point images, npz files without the entry, with other shapes or types, or
            values that are not finite. Files are named.
    """
    return [_read(path.expanduser(), shape, levels, accept, prior_std) for path in paths]


def _read(
    path: Path, shape, levels: int, accept: Sequence[Kind], prior_std: float | None
) -> Inputs:
    if not os.path.exists(path):
        raise UserError(f"input {path} does not exist")
    if path.suffix.lower() == ".npz":
        return _read_npz(path, shape, levels, accept, prior_std)
    if "images" not in accept:
        raise UserError(f"input {path} is no npz file of latents; make one with --mode encode")
    if path.is_dir():
        scan = scan_folder(path, "Name a folder of images with --input")
        found = _read_files(path, [file.name for file in scan.files], shape, levels)
        tell_used(path, scan, scan.files)
        return found
    return _read_files(path.parent, [path.name], shape, levels)


def read_mask(text: str, shape: tuple[int, int, int], seed: int = 0) -> Bool[np.ndarray, "h w 1"]:
    """Known pixels of images of `shape`: a mask by name, or what is bright in an image file.

    `text` is a name of `masks.named_mask`, such as left or random:0.7, or the path of the file.

    Raises UserError for a file that is missing, unreadable or of another size, a share that is no
    number in (0, 1), and for a mask that leaves nothing known or nothing to fill in.
    """
    height, width, _ = shape
    known = named_mask(text, height, width, seed)
    if known is None:
        path = Path(text).expanduser()
        if kind := kind_of(path):
            raise UserError(
                f"--mask {text} is no file ({kind}), and none of the words "
                f"{', '.join((*HALVES, *SHARES))}"
            )
        try:
            pixels = _read_pixels(path.parent, path.name, (height, width, 3))
            known = pixels.mean(axis=-1) >= (np.iinfo(pixels.dtype).max + 1) / 2
        except UserError as error:
            raise UserError(f"--mask {text}: {error}") from error
    if known.all() or not known.any():
        raise UserError(
            f"--mask {text} says that {'everything' if known.all() else 'nothing'} is known; known "
            "pixels are white (128 .. 255 of 255), those to fill in are black"
        )
    return known[..., None]


def _read_files(root: Path, names: list[str], shape: tuple[int, int, int], levels: int) -> Inputs:
    pixels, problems = [], []
    for name in names:
        try:
            pixels.append(_read_pixels(root, name, shape))
            _check_depth(pixels[-1], levels)
        except UserError as error:
            problems.append(f"\n  {name}: {error}")
    if problems:
        more = f"\n  ... and {len(problems) - 10} more" if len(problems) > 10 else ""
        raise UserError(
            f"{len(problems)} of {len(names)} images in {root} cannot be "
            f"used:{''.join(problems[:10])}{more}\n"
            f"The model takes images of shape {shape} (height, width, channels) with {levels} "
            "levels. Convert or remove them."
        )
    values = np.stack([image.astype(np.uint16) for image in pixels])
    eight = np.asarray([image.dtype == np.uint8 for image in pixels])
    if levels < 256 and 0 < values.max() < levels:
        raise UserError(
            f"the brightest pixel in {root} is {values.max()}: these look like levels 0 .. "
            f"{levels - 1}, but image files are read as 0 (black) .. 255 (white). Stretch them by "
            f"255/{levels - 1}, or pass levels as `images` of an npz file."
        )
    values[eight] = np.rint(values[eight] * ((levels - 1) / 255))
    values = values.astype(np.uint8 if levels <= 256 else np.uint16)
    return Inputs(list(names), "images", values, np.zeros(len(names), np.int32), bool(eight.any()))


def _check_depth(pixels: np.ndarray, levels: int) -> None:
    if pixels.dtype == np.uint16 and (levels <= 256 or pixels.max() >= levels):
        raise UserError(
            f"16 bits a channel with values up to {pixels.max()}, and the model's levels are 0 .. "
            f"{levels - 1}"
        )


def _read_pixels(root: Path, name: str, shape: tuple[int, int, int]) -> np.ndarray:
    """Of one file; the message of its UserError says only what is wrong."""
    found = check_file(root, name)
    if found.problem:
        raise UserError(found.problem)
    if found.size != shape[:2]:
        raise UserError(f"{found.size[0]} x {found.size[1]} pixels, not {shape[0]} x {shape[1]}")
    try:
        pixels = read_image(root / name, 3)
    except UserError:
        raise
    except Exception as error:  # decoders raise many types on damaged input
        raise UserError(f"broken: {error}") from error
    if shape[2] == 3:
        return pixels
    if (pixels != pixels[..., :1]).any():
        raise UserError("in colour, and the model's images are grey")
    return pixels[..., :1]


def _read_npz(
    path: Path, shape, levels: int, accept: Sequence[Kind], prior_std: float | None
) -> Inputs:
    entries = read_npz(path)
    kind = next((kind for kind in accept if kind in entries), None)
    if kind is None:
        wanted = " or ".join(f"`{key}` ({KEYS[key]})" for key in accept)
        raise UserError(f"{path} has no entry {wanted}; it holds {', '.join(entries) or 'nothing'}")
    values = entries[kind]
    if values.shape[1:] != shape or not len(values):
        raise UserError(
            f"`{kind}` in {path} has shape {values.shape}; the model takes (n, "
            f"{', '.join(map(str, shape))}) with n >= 1: (number, height, width, channels)"
        )
    if kind == "images":
        _check_levels(path, values, levels, _scalar(path, entries, "levels"))
        values = values.astype(np.uint8 if levels <= 256 else np.uint16)
    else:
        _check_latents(path, values, prior_std, _scalar(path, entries, "prior_std"))
        values = values.astype(np.float32)
    given = entries.get("names", np.zeros(0, str))
    names = (
        given.tolist()
        if given.shape == values.shape[:1]
        else [f"{path.stem}[{i}]" for i in range(len(values))]
    )
    labels = entries.get("label", np.zeros(0, np.int32))
    if labels.shape != values.shape[:1]:
        labels = np.zeros(len(values), np.int32)
    if not np.issubdtype(labels.dtype, np.integer):
        raise UserError(
            f"`label` in {path} is {labels.dtype}; labels are integers. Number them, or leave it "
            "out"
        )
    return Inputs([str(name) for name in names], kind, values, labels.astype(np.int32))


def _scalar(path: Path, entries: Mapping[str, np.ndarray], name: str) -> float | None:
    """An entry that is one number, or None where there is no such entry."""
    if name not in entries:
        return None
    entry = entries[name]
    if entry.size != 1 or entry.dtype.kind not in "iuf":
        raise UserError(
            f"`{name}` in {path} is {entry.dtype} of shape {entry.shape}; it must be one number. "
            "Correct it, or leave it out"
        )
    return float(entry.item())


def _check_levels(path: Path, values: np.ndarray, levels: int, theirs: float | None) -> None:
    if not np.issubdtype(values.dtype, np.integer):
        floating = np.issubdtype(values.dtype, np.floating)
        bad = (
            " with values that are not finite" if floating and not np.isfinite(values).all() else ""
        )
        raise UserError(
            f"`images` in {path} are {values.dtype}{bad}; they must be integer levels 0 .. "
            f"{levels - 1}. Round them first"
        )
    if theirs is not None and theirs != levels:
        raise UserError(f"`images` in {path} have {theirs:g} levels; the model's have {levels}")
    if values.min() < 0 or values.max() >= levels:
        raise UserError(
            f"`images` in {path} have values {values.min()} .. {values.max()}; the model's levels "
            f"are 0 .. {levels - 1}"
        )


def _check_latents(
    path: Path, values: np.ndarray, prior_std: float | None, theirs: float | None
) -> None:
    if not np.issubdtype(values.dtype, np.floating):
        raise UserError(f"`z` in {path} is {values.dtype}; latents are floating-point numbers")
    bad = np.flatnonzero(~np.isfinite(values).all(axis=(1, 2, 3)))
    if len(bad):
        raise UserError(
            f"{len(bad)} of {len(values)} latents in {path} are not finite (numbers "
            f"{bad[:5].tolist()}); remove them"
        )
    if theirs is not None and prior_std is not None and not np.isclose(theirs, prior_std):
        raise UserError(
            f"the latents in {path} are of a process with prior_std={theirs:g}, this model's has "
            f"{prior_std:g}; encode the images with this model"
        )
