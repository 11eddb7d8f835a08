"""Scans made up for tests: DICOM series, NIfTI volumes, HDF5 files of the fastMRI layout."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

NAME, NUMBER = "Doe^Jane", "MRN-31415926"
"""What must not be found in anything that is written."""
HEADER = """<ismrmrdHeader xmlns="http://www.ismrm.org/ISMRMRD"><encoding><encodedSpace>
<matrixSize><x>{x}</x><y>{y}</y><z>1</z></matrixSize><fieldOfView_mm><x>{fx}</x><y>{fy}</y>
<z>5</z></fieldOfView_mm></encodedSpace></encoding></ismrmrdHeader>"""


def needed(name: str) -> Any:
    """The package, or the test is skipped."""
    return pytest.importorskip(name, reason=f"{name} is part of score_sde[medical]")


def dicom_slice(file: Path, stored: np.ndarray, place: float, **tags: Any) -> Path:
    """One file; `tags` are set as attributes, None takes one away."""
    needed("pydicom")
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

    one = Dataset()
    one.file_meta = FileMetaDataset()
    one.file_meta.MediaStorageSOPClassUID = CTImageStorage
    one.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    one.file_meta.MediaStorageSOPInstanceUID = f"1.2.3.{abs(hash(file)) % 10**9}"
    signed = int(stored.dtype.kind == "i")
    values = {
        "SOPClassUID": CTImageStorage,
        "PatientName": NAME,
        "PatientID": NUMBER,
        "StudyDate": "19700214",
        "Modality": "CT",
        "SeriesInstanceUID": "1.2.3",
        "SeriesDescription": "Full Dose Images",
        "ImagePositionPatient": [0.0, 0.0, place],
        "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
        "PixelSpacing": [0.7, 0.8],
        "SliceThickness": 3.0,
        "Rows": stored.shape[0],
        "Columns": stored.shape[1],
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "BitsAllocated": 16,
        "BitsStored": 16,
        "HighBit": 15,
        "PixelRepresentation": signed,
        "RescaleSlope": 1,
        "RescaleIntercept": -1024,
        "PixelData": stored.tobytes(),
    }
    for tag, value in (values | tags).items():
        if value is not None:
            setattr(one, tag, value)
    one.save_as(file, enforce_file_format=True)
    return file


def series(folder: Path, places=(0.0, 2.5, 5.0), size: int = 8, **tags: Any) -> np.ndarray:
    """A folder with a slice of random values at each place; returns them as stored, uint16."""
    folder.mkdir(parents=True, exist_ok=True)
    stored = np.random.default_rng(0).integers(0, 4000, (len(places), size, size), np.uint16)
    for i, (one, place) in enumerate(zip(stored, places)):
        dicom_slice(folder / f"{i}.dcm", one, place, **tags)
    return stored


def nifti(file: Path, values: np.ndarray, affine: np.ndarray, **header: Any) -> Path:
    """A file of values (x, y, z); `header` are entries of its header, written as they are."""
    image = needed("nibabel").Nifti1Image(values, affine)
    file.parent.mkdir(parents=True, exist_ok=True)
    image.to_filename(file)
    if header:  # nibabel sets the slope itself, so it is changed in the file
        with file.open("r+b") as opened:
            head = type(image.header).from_fileobj(opened, check=False)
            for name, value in header.items():
                head[name] = value
            opened.seek(0)
            opened.write(head.binaryblock)
    return file


def kspace_of(images: np.ndarray) -> np.ndarray:
    """Centred unitary transform over the last two axes."""
    axes = (-2, -1)
    moved = np.fft.ifftshift(images, axes=axes)
    return np.fft.fftshift(np.fft.fft2(moved, norm="ortho"), axes=axes).astype(np.complex64)


def hdf5(file: Path, values: np.ndarray, mask: Any = None, **attributes: Any) -> Path:
    """A file of the fastMRI layout; an attribute of None is left out."""
    file.parent.mkdir(parents=True, exist_ok=True)
    given = {"acquisition": "AXT2", "patient_id": NUMBER, "max": 1.0} | attributes
    with needed("h5py").File(file, "w") as opened:
        opened["kspace"] = values
        height, width = values.shape[-2:]
        opened["ismrmrd_header"] = HEADER.format(x=height, y=width, fx=height * 1.5, fy=width * 0.5)
        if mask is not None:
            opened["mask"] = mask
        for name, value in given.items():
            if value is not None:
                opened.attrs[name] = value
    return file
