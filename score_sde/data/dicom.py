"""Series of DICOM images: which files make a volume, and its values in Hounsfield units.

pydicom is part of the extra `medical`. Headers are read with the few tags of `TAGS`; names and
dates are not among them.
"""

import dataclasses
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from score_sde.data.scans import Scan, Spacing, extra, patient_hash
from score_sde.errors import UserError

TAGS = (
    *("Modality", "SeriesInstanceUID", "SeriesDescription", "PatientID", "BodyPartExamined"),
    *("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness"),
    *("Rows", "Columns", "SamplesPerPixel", "NumberOfFrames", "RescaleSlope", "RescaleIntercept"),
    *("ImageType", "RescaleType"),
)
NEEDED = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "Rows", "Columns")
AIR = {"CT": -1000.0, "MR": 0.0}
"""By modality, what stands for padding."""
LEAST = -1024.0
"""Hounsfield units below are no matter: scanners write -2000 or -3024 outside the round view."""


@dataclasses.dataclass(frozen=True, eq=False)
class Series:
    """The files of one volume, sorted by position along the normal of the slices.

    `number` is the patient's, for this process alone; what is written has its hash.
    """

    files: tuple[Path, ...]
    modality: str
    spacing: Spacing
    description: str = ""
    body_part: str = ""
    number: str = dataclasses.field(default="", repr=False)


def find_series(folder: Path | str) -> Series:
    """The one series in a folder; its sub-folders are not looked at.

    The position of a slice is ImagePositionPatient along the cross product of the row's and the
    column's direction. The order of names and InstanceNumber say nothing.

    Raises:
        UserError: no DICOM file, several series, a modality but CT and MR, a view to plan the
            scan, several frames in one file, colours, a tag that is missing, slices of different
            sizes or directions, two slices at one place, missing slices.
    """
    folder = Path(folder)
    found, others = _headers(folder)
    if not found:
        raise UserError(
            f"{folder} holds no DICOM files ({others} other files); name the folder that they lie "
            "in"
        )
    _check_one_series(folder, found)
    first = found[0][1]
    for file, header in found:
        _check_header(file, header, first.Modality)
    _check_alike(folder, found)
    across, down = np.reshape(np.float64(first.ImageOrientationPatient), (2, 3))
    normal = np.cross(across, down)
    places = np.array([np.float64(h.ImagePositionPatient) @ normal for _, h in found])
    order = np.argsort(places, kind="stable")
    between = _distance(folder, places[order])
    if len(found) == 1:
        between = float(first.get("SliceThickness") or np.nan)
    row, column = (float(value) for value in first.PixelSpacing)
    return Series(
        files=tuple(found[i][0] for i in order),
        modality=first.Modality,
        spacing=(between, row, column),
        description=str(first.get("SeriesDescription") or ""),
        body_part=str(first.get("BodyPartExamined") or ""),
        number=str(first.get("PatientID") or "").strip(),
    )


def read_dicom(folder: Path | str | Series) -> Scan:
    """The volume of a folder with one series, or of `find_series`.

    v = slope stored + intercept, with each slice's own slope and intercept; a CT without them is
    refused, an MR image is then as stored. Padding becomes air, -1000 HU (0 of MR): what
    PixelPaddingValue says, and in CT all below -1024 HU.

    Raises:
        UserError: as `find_series`; compressed pixels without a decoder, damaged or missing pixels.
    """
    series = folder if isinstance(folder, Series) else find_series(folder)
    values = np.stack([_slice(file, series.modality) for file in series.files])
    unit = "HU" if series.modality == "CT" else "arbitrary"
    hashed = patient_hash(series.number) if series.number else ""
    return Scan(values, series.spacing, unit, hashed)


def _headers(folder: Path) -> tuple[list[tuple[Path, Any]], int]:
    """The headers of the DICOM files in a folder, by name, and the number of other files."""
    pydicom = extra("pydicom")
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder; name the folder that holds the files of a series")
    found, others = [], 0
    for file in sorted(folder.iterdir()):
        if not file.is_file() or file.name.startswith("."):
            continue
        try:
            header = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=list(TAGS))
        except Exception:  # damaged files raise many types; what has no header is no slice
            others += 1
            continue
        if "Modality" in header and "SeriesInstanceUID" in header:
            found.append((file, header))
        else:  # a DICOMDIR
            others += 1
    return found, others


def _check_one_series(folder: Path, found: list[tuple[Path, Any]]) -> None:
    series = Counter((h.SeriesInstanceUID, h.Modality) for _, h in found)
    if len(series) > 1:
        parts = ", ".join(f"{count} of {modality}" for (_, modality), count in series.items())
        raise UserError(
            f"{folder} mixes {len(series)} series ({parts}); put each in a folder of its own"
        )


def _check_header(file: Path, header: Any, modality: str) -> None:
    if modality not in AIR:
        raise UserError(
            f"{file} has the modality {modality}; only CT and MR images are slices of a volume. "
            "Leave it out"
        )
    if "LOCALIZER" in (header.get("ImageType") or ()):
        raise UserError(f"{file} is a view to plan the scan (LOCALIZER), not a slice; leave it out")
    if int(header.get("NumberOfFrames") or 1) > 1:
        raise UserError(
            f"{file} has {header.NumberOfFrames} frames in one file; convert it to one file a slice"
        )
    if int(header.get("SamplesPerPixel") or 1) != 1:
        raise UserError(
            f"{file} has {header.SamplesPerPixel} samples a pixel: it is a colour picture, not "
            "measured values. Leave it out"
        )
    needed = NEEDED + (("RescaleSlope", "RescaleIntercept") if modality == "CT" else ())
    if missing := [name for name in needed if header.get(name) in (None, "")]:
        raise UserError(
            f"{file} has no {', '.join(missing)}, so its place or its units are not known. "
            "Leave the series out, or export it with all tags"
        )
    try:
        found = [np.size(np.float64(header[name].value)) for name in NEEDED]
    except (ValueError, TypeError):
        found = []
    if found != [3, 6, 2, 1, 1]:
        raise UserError(
            f"{file} has other than 3, 6, 2, 1 and 1 numbers as {', '.join(NEEDED)}. Leave the "
            "series out"
        )
    if modality == "CT" and header.get("RescaleType", "HU") not in ("HU", ""):
        raise UserError(
            f"{file} is a CT image in units {header.RescaleType!r}, not HU; export it in "
            "Hounsfield units"
        )


def _check_alike(folder: Path, found: list[tuple[Path, Any]]) -> None:
    """All slices have one size, one pixel spacing and one direction."""
    first = found[0][1]
    for name, tolerance in (
        ("Rows", 0.0),
        ("Columns", 0.0),
        ("PixelSpacing", 1e-4),
        ("ImageOrientationPatient", 1e-3),
    ):
        one = np.atleast_1d(np.float64(first[name].value))
        for file, header in found[1:]:
            other = np.atleast_1d(np.float64(header[name].value))
            if np.abs(other - one).max() > tolerance:
                raise UserError(
                    f"slices in {folder} differ in {name}: {one.tolist()} in "
                    f"{found[0][0].name}, {other.tolist()} in {file.name}. They are not one "
                    "volume; put each in a folder of its own"
                )


def _distance(folder: Path, places: np.ndarray) -> float:
    """The usual distance of neighbours, in the order of the places."""
    steps = np.diff(places)
    if not len(steps):
        return float("nan")
    usual = float(np.median(steps))
    near = int(np.argmin(steps))
    if steps[near] < 1e-3:
        raise UserError(
            f"{folder} has two slices at one place, {places[near]:g} mm along the normal: two "
            "acquisitions in one series. Put each in a folder of its own"
        )
    gaps = np.flatnonzero(steps > 1.5 * usual)
    if len(gaps):
        i = gaps[0]
        lost = int(np.sum(np.rint(steps[gaps] / usual) - 1))
        raise UserError(
            f"{folder} misses about {lost} slices: neighbours are {usual:g} mm apart, but between "
            f"{places[i]:g} and {places[i + 1]:g} mm there is none. Copy the series again"
        )
    return usual


def _slice(file: Path, modality: str) -> np.ndarray:
    """Values of one file, (height, width), float32."""
    try:
        header = extra("pydicom").dcmread(file)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{file} cannot be read ({error}); copy the series again") from error
    if "PixelData" not in header:
        raise UserError(f"{file} has no pixels (PixelData); copy the series again")
    _check_decoder(file, header)
    try:
        stored = header.pixel_array
    except Exception as error:  # decoders raise many types on damaged input
        raise UserError(
            f"pixels of {file} cannot be decoded: {error}. Copy it again, or leave its series out"
        ) from error
    slope, intercept = header.get("RescaleSlope"), header.get("RescaleIntercept")
    values = stored * float(1 if slope is None else slope)
    values += float(0 if intercept is None else intercept)
    empty = _padding(header, stored)
    if modality == "CT":
        empty |= values < LEAST
    return np.where(empty, AIR[modality], values).astype(np.float32)


def _padding(header: Any, stored: np.ndarray) -> np.ndarray:
    """Where the pixels are padding.

    The tag may be written as a signed or an unsigned number whatever the pixels are, so that it is
    brought to their type first.
    """
    value = header.get("PixelPaddingValue")
    if value is None:
        return np.zeros(stored.shape, bool)
    limit = header.get("PixelPaddingRangeLimit")
    ends = np.array([value, value if limit is None else limit]).astype(stored.dtype)
    return (stored >= ends.min()) & (stored <= ends.max())


def _check_decoder(file: Path, header: Any) -> None:
    syntax = header.file_meta.TransferSyntaxUID
    if not syntax.is_encapsulated:
        return
    try:
        decoder = extra("pydicom.pixels").get_decoder(syntax)
    except NotImplementedError:
        needed = "no decoder for it is known"
    else:
        if decoder.is_available:
            return
        needed = "one of: " + "; ".join(decoder.missing_dependencies)
    raise UserError(
        f"{file} is compressed as {syntax.name}, and no decoder for it is installed ({needed}). "
        "Install one: pip install pylibjpeg pylibjpeg-libjpeg pylibjpeg-openjpeg"
    )
