"""What of public scans becomes slices to train on: a row of `SOURCES` for each collection.

LIDC-IDRI and LDCT are DICOM series, BraTS 2021 NIfTI files, fastMRI HDF5 files. Sizes, slices and
the scaling of BraTS are those of dissertation chapter 8 and Song et al. 2022 (ICLR). Two things
differ there: LIDC was scaled to [0, 1] for each volume and kept in 8 bits. Here all CT has one
window, so that a level means the same attenuation everywhere.
"""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from score_sde.data.dicom import Series, find_series, read_dicom
from score_sde.data.listing import folders_below
from score_sde.data.pixels import PixelRange
from score_sde.data.prepared import LEVELS, Volume
from score_sde.data.scans import KSpace, Scan, Spacing, patient_hash, read_kspace, read_nifti
from score_sde.data.transforms import resize
from score_sde.errors import UserError

AIR_HU = -1000.0
"""Where mu = mu_water (1 + HU/1000) is 0; less is noise, and is lifted."""
WINDOW = (-1024.0, 3200.0)
"""Hounsfield units of the lowest and the highest level, as HU = 4224 v - 1024 has them."""
BODY = ("head", "chest", "abdomen")
CONTRASTS = ("t1", "t1ce", "t2", "flair")
ACQUISITIONS = (
    *("AXFLAIR", "AXT1", "AXT1POST", "AXT1PRE", "AXT2", "CORPDFS_FBK", "CORPD_FBK", "other"),
)
SKIPPED = (40, 25)
"""Slices of BraTS that are left out at the bottom and the top of the head."""


class Collection(NamedTuple):
    """How one collection is prepared.

    kind: "folders" that are volumes, or "files" that are. endings: of the files. read: folder or
    file -> (what was found in it, its volumes). published: slices that the dissertation counts.
    recipe: what its slices are called behind the colon of a recipe; "" for those that have no name.
    """

    unit: str
    kind: str
    endings: tuple[str, ...]
    read: Callable[[Path], tuple[str, list[Volume]]]
    labels: tuple[str, ...] = ()
    published: int = 0
    recipe: str = ""


def places(collection: Collection, root: Path) -> list[Path]:
    """The folders or files below `root` that may hold volumes, sorted; hidden ones are left out.

    Raises:
        UserError: no such folder, a folder that cannot be listed, or none in it.
    """
    if not os.path.isdir(root):
        what = "is a file" if os.path.exists(root) else "does not exist"
        raise UserError(f"--input {root} {what}; name the folder of the scans")
    found: list[Path] = []
    for here in folders_below(root):
        files = [here.path / n for n in here.files if n.lower().endswith(collection.endings)]
        found += files if collection.kind == "files" else [here.path] * bool(files)
    if not found:
        raise UserError(
            f"--input {root} holds no files that end in {', '.join(collection.endings)}"
            if any(collection.endings)
            else f"--input {root} holds no files; name the folder of the scans"
        )
    return found


def volumes(collection: Collection, root: Path, tell: Callable[[str], None]) -> Iterator[Volume]:
    """All volumes below a folder. `tell` gets a line for each place: what was found or is wrong."""
    for place in places(collection, root):
        name = place.relative_to(root).as_posix()
        try:
            line, found = collection.read(place)
        except UserError as error:
            tell(f"{name}: left out: {error}")
            continue
        tell(f"{name}: {line}")
        yield from found


def window_levels(
    values: Float[np.ndarray, "n h w"], low: float, high: float, size: int
) -> np.ndarray:
    """Levels (n, size, size, 1) of slices: cut to [low, high], then resized with antialiasing."""
    levels = _levels(values, low, high)
    planes = resize(levels.transpose(1, 2, 0), size, "bilinear", LEVELS)
    return planes.transpose(2, 0, 1)[..., None]


def ct_volume(scan: Scan, size: int, label: int = 0) -> Volume:
    """All slices of a CT volume in `WINDOW`, air or more, size x size pixels.

    Raises:
        UserError: slices that are not square, no number of the patient.
    """
    n, height, width = scan.values.shape
    if height != width:
        raise UserError(f"its slices are not square, {height} x {width} pixels")
    if not scan.patient:
        raise UserError(
            "it has no PatientID, so its patient could be in both splits. Write a pseudonym there"
        )
    between, row, column = scan.spacing
    spacing = (between, row * height / size, column * width / size)
    levels = window_levels(np.maximum(scan.values, AIR_HU), *WINDOW, size)
    return Volume(levels, range(n), scan.patient, spacing, *WINDOW, label)


def lidc(folder: Path, size: int = 320) -> tuple[str, list[Volume]]:
    """Every CT series of LIDC-IDRI; radiographs and annotations are left out."""
    series = _ct_series(folder)
    return _ct(series, size)


def ldct(folder: Path, size: int = 512) -> tuple[str, list[Volume]]:
    """The images at full dose of LDCT-and-Projection-data, with the region as label."""
    series = _ct_series(folder)
    words = series.description.lower().replace("-", " ")
    if not ("full dose" in words and "image" in words):
        raise UserError(f"its description is {series.description!r}, not 'Full Dose Images'")
    part = series.body_part.lower()
    if part not in BODY:  # numbers of patients begin with N (neuro), C (chest) or L (liver)
        part = dict(zip("NCL", BODY)).get(series.number[:1].upper(), "")
    if not part:
        raise UserError(
            f"its region is not known: BodyPartExamined is {series.body_part!r}, not head, chest "
            "or abdomen, and the number of the patient does not begin with N, C or L"
        )
    return _ct(series, size, BODY.index(part))


def _ct_series(folder: Path) -> Series:
    series = find_series(folder)
    if series.modality != "CT":
        raise UserError(f"its modality is {series.modality}; this collection's scans are CT")
    return series


def _ct(series: Series, size: int, label: int = 0) -> tuple[str, list[Volume]]:
    scan = read_dicom(series)
    volume = ct_volume(scan, size, label)
    n, height, _ = scan.values.shape
    above = float(np.mean(scan.values > WINDOW[1]))
    line = (
        f"{n} slices of {height} x {height} pixels made {size} x {size}, {_mm(scan.spacing)}, "
        f"{scan.unit} {scan.values.min():g} .. {scan.values.max():g}"
    )
    return line + (f", {above:.2%} of it above {WINDOW[1]:g} cut" if above else ""), [volume]


def brats(folder: Path, size: int = 240) -> tuple[str, list[Volume]]:
    """The four contrasts of one head of BraTS 2021, whose folder has the patient's number.

    Slices first + 40 .. last - 25, where first and last are those of T1 that are not empty.
    """
    files = {name: _contrast(folder, name) for name in CONTRASTS}
    if missing := [name for name, file in files.items() if file is None]:
        raise UserError(f"it has no file that ends in _{missing[0]}.nii or _{missing[0]}.nii.gz")
    scans = {name: read_nifti(file) for name, file in files.items() if file is not None}
    shapes = {scan.values.shape for scan in scans.values()}
    if len(shapes) > 1 or next(iter(shapes))[1:] != (size, size):
        raise UserError(f"its volumes are of shape {sorted(shapes)}, not (slices, {size}, {size})")
    filled = np.flatnonzero(np.any(scans["t1"].values, axis=(1, 2)))
    if not len(filled):
        raise UserError("its T1 volume is empty")
    first, last = int(filled[0]) + SKIPPED[0], int(filled[-1]) - SKIPPED[1]
    if first > last:
        raise UserError(f"its head has {len(filled)} slices; {sum(SKIPPED)} of them are left out")
    patient, found = patient_hash(folder.name), []
    for label, scan in enumerate(scans.values()):
        low, high, values = brats_scaled(scan.values)
        levels = _levels(values[first : last + 1], low, high)[..., None]
        numbers = range(first, last + 1)
        found.append(Volume(levels, numbers, patient, scan.spacing, low, high, label))
    line = (
        f"slices {first} .. {last} of {len(scans['t1'].values)} in {len(CONTRASTS)} contrasts, "
        f"{size} x {size} pixels, {_mm(scans['t1'].spacing)}, arbitrary units"
    )
    return line, found


def brats_scaled(
    values: Float[np.ndarray, "n h w"],
) -> tuple[float, float, Float[np.ndarray, "n h w"]]:
    """(low, high, values cut to mean +- 6 std of the box around all that is not 0).

    low and high are the smallest and the largest of the cut values, which go to 0 and 1.

    Raises:
        UserError: a volume of one value.
    """
    box = values
    for axis in range(3):
        others = tuple(i for i in range(3) if i != axis)
        there = np.flatnonzero(np.any(values, axis=others))
        if len(there):
            box = np.take(box, range(there[0], there[-1] + 1), axis=axis)
    mean, std = box.mean(dtype=np.float64), box.std(dtype=np.float64)
    cut = np.clip(values, np.float32(mean - 6 * std), np.float32(mean + 6 * std))
    low, high = float(cut.min()), float(cut.max())
    if not low < high:
        raise UserError(f"one of its volumes has the value {low:g} alone")
    return low, high, cut


def _contrast(folder: Path, name: str) -> Path | None:
    for file in sorted(folder.iterdir()):
        if file.name.lower().endswith((f"_{name}.nii", f"_{name}.nii.gz")):
            return file
    return None


def fastmri(file: Path, size: int = 320) -> tuple[str, list[Volume]]:
    """Magnitudes of one fully sampled file: root sum of squares over coils, the central square."""
    data = read_kspace(file)
    if not data.patient:
        raise UserError(
            "it has no attribute patient_id, so its patient could be in both splits. Write a "
            "pseudonym there"
        )
    there = np.flatnonzero(data.measured)
    if not len(there) or not data.measured[there[0] : there[-1] + 1].all():
        raise UserError(
            f"{int(data.measured.sum())} of {len(data.measured)} columns were measured; train on "
            "fully sampled files"
        )
    values = magnitudes(data)
    n, height, width = values.shape
    if min(height, width) < size:
        raise UserError(f"its images have {height} x {width} pixels, less than {size} x {size}")
    top, left = (height - size) // 2, (width - size) // 2
    values = values[:, top : top + size, left : left + size]
    high = float(values.max())
    levels = _levels(values, 0.0, high)[..., None]
    known = data.acquisition in ACQUISITIONS
    label = ACQUISITIONS.index(data.acquisition if known else "other")
    line = (
        f"{n} slices of {data.values.shape[1]} coils, {data.acquisition or 'contrast not said'}, "
        f"{height} x {width} pixels cut to {size} x {size}, {_mm(data.spacing)}, largest {high:g}"
    )
    return line, [Volume(levels, range(n), data.patient, data.spacing, 0.0, high, label)]


def magnitudes(data: KSpace) -> Float[np.ndarray, "n h w"]:
    """sqrt(sum over coils |F^-1 k|^2) with the unitary centred transform, float32."""
    axes = (-2, -1)
    images = np.empty((len(data.values), *data.values.shape[2:]), np.float32)
    for i, kspace in enumerate(data.values):
        coils = np.fft.ifft2(np.fft.ifftshift(kspace, axes=axes), norm="ortho")
        images[i] = np.sqrt(np.sum(np.abs(np.fft.fftshift(coils, axes=axes)) ** 2, axis=0))
    return images


def _levels(values: np.ndarray, low: float, high: float) -> np.ndarray:
    return np.asarray(PixelRange(LEVELS, low, high).decode(values))


def _mm(spacing: Spacing) -> str:
    between, row, column = (f"{value:.3g}" for value in spacing)
    return f"spacing {between} x {row} x {column} mm"


SOURCES: dict[str, Collection] = {
    "lidc": Collection("HU", "folders", ("",), lidc, (), 130_304, "lidc_320"),
    "ldct": Collection("HU", "folders", ("",), ldct, BODY, 47_006, "ldct_512"),
    "brats": Collection(
        "arbitrary", "folders", (".nii", ".nii.gz"), brats, CONTRASTS, 297_270, "brats"
    ),
    "fastmri": Collection("arbitrary", "files", (".h5", ".hdf5"), fastmri, ACQUISITIONS),
}
"""By the name of --source."""
