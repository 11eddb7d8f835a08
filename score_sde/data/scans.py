"""Scans as files hold them: NIfTI volumes and k-space of the fastMRI layout; `dicom` has series.

The packages are the extra `medical`, and each is imported when a file is read. What is read here
carries no name, date or path: of the patient there is a hash alone.
"""

import contextlib
import dataclasses
import hashlib
import math
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any
from xml.etree import ElementTree

import numpy as np
from jaxtyping import Bool, Complex, Float

from score_sde.errors import UserError, optional
from score_sde.files import kind_of

Spacing = tuple[float, float, float]
"""Millimetres between slices, rows and columns; nan where a file does not say."""
MILLIMETRES = {"meter": 1000.0, "mm": 1.0, "micron": 0.001, "unknown": 1.0}


@dataclasses.dataclass(frozen=True, eq=False)
class Scan:
    """A volume in physical units, as axial DICOM images lie.

    Slices go from feet to head, rows from front to back, columns from the patient's right to left,
    where a file says so. A DICOM series in other planes keeps its own rows and columns.

    Attributes:
        values: (slices, height, width), float32.
        spacing: millimetres between slices, rows and columns.
        unit: "HU", or "arbitrary".
        patient: hash of the patient's number, "" where the file has none.
    """

    values: Float[np.ndarray, "n h w"]
    spacing: Spacing
    unit: str
    patient: str = ""


@dataclasses.dataclass(frozen=True, eq=False)
class KSpace:
    """Measured k-space of several slices, the zero frequency in the middle.

    Attributes:
        values: (slices, coils, height, width), complex64. One coil where the file has no axis of
            them.
        measured: (width,), which columns were measured: those of the file's mask, and not all zero.
        spacing: millimetres between slices, rows and columns of the image.
        acquisition: the contrast, as AXT2 or CORPD_FBK; "" where the file does not say.
        patient: hash of the patient's number, "" where the file has none.
    """

    values: Complex[np.ndarray, "n coils h w"]
    measured: Bool[np.ndarray, "w"]
    spacing: Spacing
    acquisition: str = ""
    patient: str = ""


def patient_hash(number: str) -> str:
    """16 hexadecimal digits of SHA-256: equal for equal patients.

    A number that can be guessed can be found from its hash. So the input should have pseudonyms.
    """
    return hashlib.sha256(b"patient:" + number.strip().encode()).hexdigest()[:16]


def extra(name: str) -> ModuleType:
    """A package of the extra `medical`.

    Raises:
        UserError: it is not installed.
    """
    return optional(name, "medical", "reading these files")


def read_nifti(path: Path | str) -> Scan:
    """A volume of a .nii or .nii.gz file, its axes in the order of `Scan`.

    A slope that is 0 or not a number means no scaling, as the standard has it. Values are the
    file's; their unit is arbitrary.

    Raises:
        UserError: no readable NIfTI file, no orientation, an intercept that is not a number, not
            three axes, complex values or colours, values that are not finite.
    """
    path, nibabel = Path(path), extra("nibabel")
    _check_there(path)
    with _whatever_is_wrong(path, "NIfTI"):
        image = nibabel.Nifti1Image.from_filename(path)
    header, stored = image.header, image.dataobj
    shape = (*image.shape, *[1] * (3 - len(image.shape)))
    if math.prod(shape[3:]) != 1:
        raise UserError(
            f"{path} has axes of {image.shape}, not three; write one file for each volume"
        )
    if header.get_data_dtype().kind not in "iuf":
        raise UserError(
            f"{path} holds {header.get_data_dtype()} values, not real numbers; store magnitudes, "
            "or one file for each part"
        )
    if header["qform_code"] == 0 and header["sform_code"] == 0:
        raise UserError(
            f"{path} does not say how its axes lie in the patient (sform_code and qform_code are "
            "0). Set one of them with the tool that made the file"
        )
    with _whatever_is_wrong(path, "NIfTI"):
        values = np.asarray(stored, np.float32).reshape(shape[:3])
        axes = nibabel.io_orientation(image.affine)
        values = nibabel.apply_orientation(values, axes)
        unit = header.get_xyzt_units()[0]
    if missing := int(np.sum(~np.isfinite(values))):
        raise UserError(
            f"{path} has {missing} values that are not finite; replace them, say by the background"
        )
    sizes = nibabel.affines.voxel_sizes(image.affine)[np.argsort(axes[:, 0])]
    x, y, z = (float(size) * MILLIMETRES[unit] for size in sizes)
    # nibabel's axes point to the right, the front and the head.
    turned = values[::-1, ::-1].transpose(2, 1, 0)
    return Scan(np.ascontiguousarray(turned), (z, y, x), "arbitrary")


def read_kspace(path: Path | str) -> KSpace:
    """k-space of an HDF5 file with the layout of fastMRI (Zbontar et al. 2018).

    `kspace` is complex, (slices, coils, height, width) or (slices, height, width); columns are
    phase-encoding lines. `mask` (width,) is there where lines are left out. The attributes
    `acquisition` and `patient_id`, and the field of view in the XML of `ismrmrd_header`, are used
    where they are there.

    Raises:
        UserError: no readable HDF5 file, no `kspace`, real numbers, other axes, values that are not
            finite or all zero, a mask of another length, a zero frequency not in the middle.
    """
    path, h5py = Path(path), extra("h5py")
    _check_there(path)
    with _whatever_is_wrong(path, "HDF5"), h5py.File(path, "r") as file:
        if "kspace" not in file:
            raise UserError(
                f"{path} has no data set `kspace`; it has {', '.join(file) or 'none'}. The layout "
                "of fastMRI is kspace (slices, coils, height, width), complex"
            )
        values = np.asarray(file["kspace"])
        mask = np.asarray(file["mask"]) if "mask" in file else None
        header = file["ismrmrd_header"][()] if "ismrmrd_header" in file else b""
        acquisition, patient = (_text(file.attrs.get(n)) for n in ("acquisition", "patient_id"))
    if not np.issubdtype(values.dtype, np.complexfloating) or values.ndim not in (3, 4):
        raise UserError(
            f"`kspace` of {path} is {values.dtype} of shape {values.shape}; it must be complex, "
            "(slices, coils, height, width) or (slices, height, width). Store complex64, not two "
            "real parts"
        )
    values = values.astype(np.complex64, copy=False)
    values = values[:, None] if values.ndim == 3 else values
    _check_centred(path, values)
    measured = np.any(values, axis=(0, 1, 2))
    if mask is not None:
        if mask.shape != measured.shape:
            raise UserError(
                f"`mask` of {path} has the shape {mask.shape}; `kspace` has {len(measured)} "
                "columns, and a mask has one entry for each"
            )
        measured &= mask.astype(bool)
    hashed = patient_hash(patient) if patient else ""
    return KSpace(values, measured, _field_of_view(header), acquisition, hashed)


def _check_centred(path: Path, values: np.ndarray) -> None:
    if not np.isfinite(values).all():
        raise UserError(f"`kspace` of {path} has values that are not finite; leave the file out")
    energy = np.sum(np.abs(values[len(values) // 2]) ** 2, axis=0)
    if not energy.any():
        raise UserError(f"`kspace` of {path} is all zero in its middle slice; leave the file out")
    peak = np.unravel_index(np.argmax(energy), energy.shape)
    away = [abs(int(i) - n // 2) > max(n // 4, 1) for i, n in zip(peak, energy.shape)]
    if any(away):
        where = tuple(int(i) for i in peak)
        raise UserError(
            f"`kspace` of {path} is not centred: its largest value lies at {where} of "
            f"{energy.shape}, not in the middle. Store np.fft.fftshift(kspace, axes=(-2, -1))"
        )


def _field_of_view(header: bytes | str) -> Spacing:
    """Millimetres of a voxel, by the encoded space: rows are read out (x), columns encoded (y)."""
    try:
        space = ElementTree.fromstring(header).find(".//{*}encodedSpace")
    except ElementTree.ParseError:
        space = None
    sizes = []
    for axis in "zxy":
        texts = [
            None if space is None else space.findtext(f"{{*}}{part}/{{*}}{axis}")
            for part in ("fieldOfView_mm", "matrixSize")
        ]
        try:
            view, count = (float(text) for text in texts if text is not None)
            sizes.append(view / count)
        except (ValueError, ZeroDivisionError):
            sizes.append(math.nan)
    return sizes[0], sizes[1], sizes[2]


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value or "")


def _check_there(path: Path) -> None:
    if kind := kind_of(path):
        what = "does not exist" if kind == "missing" else f"is {kind}"
        raise UserError(f"{path} {what}; name a file")


@contextlib.contextmanager
def _whatever_is_wrong(path: Path, kind: str) -> Iterator[None]:
    """Makes a UserError of what readers raise on damaged files, which is of many types."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"{path} is no readable {kind} file: {error}. It is empty, damaged or cut off, or of "
            "another kind; copy it again, or leave it out"
        ) from error
