"""Readers of scans: values in physical units, axes, order, and what is refused by name."""

import sys

import numpy as np
import pytest
import scanfiles
from scanfiles import NUMBER, dicom_slice, hdf5, kspace_of, needed, nifti, series

from score_sde.data.dicom import find_series, read_dicom
from score_sde.data.scans import patient_hash, read_kspace, read_nifti
from score_sde.errors import UserError

RNG = np.random.default_rng(0)


def test_a_series_is_in_hounsfield_units_and_sorted_by_place(tmp_path) -> None:
    """Slopes differ from slice to slice, and names are in another order."""
    stored = RNG.integers(0, 3000, (4, 5, 6), np.uint16)
    places, slopes = [7.5, -2.5, 2.5, 0.0], [1.0, 0.5, 1.25, 2.0]
    for i, one in enumerate(stored):
        about = {"RescaleSlope": slopes[i], "RescaleIntercept": -1000 + i, "InstanceNumber": 9 - i}
        dicom_slice(tmp_path / f"{i}.dcm", one, places[i], **about)
    (tmp_path / "LICENSE").write_text("text")
    with pytest.raises(UserError, match=r"misses about 1 slices.* between 2\.5 and 7\.5"):
        read_dicom(tmp_path)
    dicom_slice(tmp_path / "4.dcm", stored[0], 5.0)
    scan = read_dicom(tmp_path)
    for at, i in ((0, 1), (1, 3), (2, 2), (4, 0)):
        np.testing.assert_array_equal(scan.values[at], stored[i] * slopes[i] - 1000 + i)
    assert (scan.spacing, scan.unit, scan.values.dtype) == ((2.5, 0.7, 0.8), "HU", np.float32)
    assert scan.patient == patient_hash(NUMBER) != patient_hash("another")
    assert NUMBER not in repr(find_series(tmp_path)) + repr(scan)


def test_places_are_along_the_normal(tmp_path) -> None:
    """Sagittal slices: rows go from front to back, columns downwards; the normal is -x."""
    for i, x in enumerate((0.0, 1.0, 2.0)):
        place = {
            "ImagePositionPatient": [x, -5.0, 9.0],
            "ImageOrientationPatient": [0, 1, 0, 0, 0, -1],
        }
        dicom_slice(tmp_path / f"{i}.dcm", np.full((3, 3), i + 1024, np.uint16), 0.0, **place)
    scan = read_dicom(tmp_path)
    np.testing.assert_array_equal(scan.values[:, 0, 0], [2, 1, 0])
    assert scan.spacing[0] == 1.0


@pytest.mark.parametrize("tag", [-2000, 2**16 - 2000])
def test_padding_is_air(tmp_path, tag: int) -> None:
    """Whether the tag says -2000 as a signed or as an unsigned number; -1024 is a value."""
    stored = np.array([[-2000, 0], [-24, 500]], np.int16)
    about = {"RescaleIntercept": -1000, "RescaleSlope": 1}
    pydicom = needed("pydicom")
    file = dicom_slice(tmp_path / "a.dcm", stored, 0.0, **about)
    data = pydicom.dcmread(file)
    data.add_new("PixelPaddingValue", "SS" if tag < 0 else "US", tag)
    data.save_as(file)
    np.testing.assert_array_equal(read_dicom(tmp_path).values[0], [[-1000, -1000], [-1024, -500]])
    dicom_slice(file, stored, 0.0, **about)  # LIDC: without the tag
    np.testing.assert_array_equal(read_dicom(tmp_path).values[0], [[-1000, -1000], [-1024, -500]])
    limit = {"PixelPaddingValue": -2000, "PixelPaddingRangeLimit": -24}
    dicom_slice(file, stored, 0.0, **about, **limit)
    np.testing.assert_array_equal(read_dicom(tmp_path).values[0], [[-1000, -1000], [-1000, -500]])


def test_an_mr_series_needs_no_slope(tmp_path) -> None:
    about = {"Modality": "MR", "RescaleSlope": None, "RescaleIntercept": None}
    stored = series(tmp_path, **about)
    scan = read_dicom(tmp_path)
    np.testing.assert_array_equal(scan.values, stored)
    assert scan.unit == "arbitrary"


WRONG = {
    "modality": ({"Modality": "CR"}, "has the modality CR; only CT and MR"),
    "slope": ({"RescaleSlope": None}, "has no RescaleSlope"),
    "place": ({"ImagePositionPatient": None}, "has no ImagePositionPatient"),
    "numbers": ({"ImagePositionPatient": [0.0, 0.0]}, "has other than 3, 6, 2"),
    "unit": ({"RescaleType": "US"}, "in units 'US', not HU"),
    "colours": ({"SamplesPerPixel": 3}, "3 samples a pixel"),
    "frames": ({"NumberOfFrames": 7}, "7 frames in one file"),
    "scout": ({"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, "LOCALIZER"),
    "pixels": ({"PixelData": None}, "has no pixels"),
    "cut off": ({"PixelData": bytes(10)}, "cannot be decoded"),
}


@pytest.mark.parametrize("case", WRONG)
def test_series_that_cannot_be_used(tmp_path, case: str) -> None:
    tags, message = WRONG[case]
    series(tmp_path, **tags)
    with pytest.raises(UserError, match=message):
        read_dicom(tmp_path)


def test_mixed_series_and_slices_that_do_not_fit(tmp_path) -> None:
    series(tmp_path)
    extra, stored = tmp_path / "x.dcm", np.zeros((8, 8), np.uint16)
    dicom_slice(extra, stored, 7.5, SeriesInstanceUID="1.2.4")
    with pytest.raises(UserError, match=r"mixes 2 series \(3 of CT, 1 of CT\)"):
        read_dicom(tmp_path)
    dicom_slice(extra, stored, 2.5)
    with pytest.raises(UserError, match=r"two slices at one place, 2\.5 mm"):
        read_dicom(tmp_path)
    dicom_slice(extra, stored, 7.5, PixelSpacing=[0.9, 0.8])
    with pytest.raises(UserError, match=r"differ in PixelSpacing: \[0\.7, 0\.8\] in 0\.dcm"):
        read_dicom(tmp_path)
    dicom_slice(extra, np.zeros((8, 9), np.uint16), 7.5)
    with pytest.raises(UserError, match="differ in Columns"):
        read_dicom(tmp_path)


def test_folders_without_a_series(tmp_path) -> None:
    needed("pydicom")
    (tmp_path / "a.txt").write_text("text")
    with pytest.raises(UserError, match=r"holds no DICOM files \(1 other files\)"):
        find_series(tmp_path)
    with pytest.raises(UserError, match="is no folder"):
        find_series(tmp_path / "a.txt")


def test_compressed_pixels_name_what_decodes_them(tmp_path, monkeypatch) -> None:
    needed("pydicom")
    from pydicom.encaps import encapsulate
    from pydicom.pixels.decoders.base import Decoder
    from pydicom.uid import JPEGLosslessSV1

    monkeypatch.setattr(Decoder, "is_available", False)
    series(tmp_path)
    for i in range(3):
        stored = np.zeros((8, 8), np.uint16)
        pixels = encapsulate([b"\xff\xd8\xff\xd9"])
        file = dicom_slice(tmp_path / f"{i}.dcm", stored, 2.5 * i)
        data = needed("pydicom").dcmread(file)
        data.file_meta.TransferSyntaxUID = JPEGLosslessSV1
        data.PixelData = pixels
        data["PixelData"].is_undefined_length = True
        data.save_as(file)
    with pytest.raises(UserError, match=r"compressed as JPEG Lossless.* pip install pylibjpeg"):
        read_dicom(tmp_path)


@pytest.mark.parametrize("turn", ["none", "flipped", "swapped"])
def test_nifti_axes_are_in_one_order(tmp_path, turn: str) -> None:
    """Whatever the order in the file: from feet to head, front to back, right to left."""
    values = RNG.integers(0, 900, (4, 5, 6)).astype(np.int16)  # to the right, front, head
    affine = np.diag([2.0, 3.0, 4.0, 1.0])
    stored = values
    if turn == "flipped":
        stored, affine[0, 0] = values[::-1], -2.0
    elif turn == "swapped":
        stored, affine = values.transpose(2, 0, 1), affine[:, [2, 0, 1, 3]]
    scan = read_nifti(nifti(tmp_path / "a.nii.gz", np.ascontiguousarray(stored), affine))
    np.testing.assert_array_equal(scan.values, values[::-1, ::-1].transpose(2, 1, 0))
    assert scan.spacing == (4.0, 3.0, 2.0)
    assert scan.values[0, 0, 0] == values[3, 4, 0]  # at the feet, in front, on the right


def test_nifti_slopes(tmp_path) -> None:
    values, affine = np.ones((2, 2, 2), np.int16), np.eye(4)
    file = tmp_path / "a.nii"
    for slope, intercept, wanted in ((2.0, -3.0, -1.0), (np.nan, 5.0, 1.0), (0.0, 5.0, 1.0)):
        scan = read_nifti(nifti(file, values, affine, scl_slope=slope, scl_inter=intercept))
        assert (scan.values == wanted).all()
    with pytest.raises(UserError, match="NIfTI file"):
        read_nifti(nifti(file, values, affine, scl_slope=2.0, scl_inter=np.nan))


def test_nifti_files_that_cannot_be_used(tmp_path) -> None:
    file, affine = tmp_path / "a.nii", np.eye(4)
    ones = np.ones((2, 3, 4), np.float32)
    assert read_nifti(nifti(file, ones[..., None], affine)).values.shape == (4, 3, 2)
    with pytest.raises(UserError, match=r"axes of \(2, 3, 4, 2\), not three"):
        read_nifti(nifti(file, np.stack([ones, ones], -1), affine))
    with pytest.raises(UserError, match="complex64 values, not real numbers"):
        read_nifti(nifti(file, ones.astype(np.complex64), affine))
    with pytest.raises(UserError, match="does not say how its axes lie"):
        read_nifti(nifti(file, ones, affine, qform_code=0, sform_code=0))
    ones[0, 0, 0] = np.nan
    with pytest.raises(UserError, match="1 values that are not finite"):
        read_nifti(nifti(file, ones, affine))
    file.write_bytes(b"no scan")
    with pytest.raises(UserError, match="no readable NIfTI file"):
        read_nifti(file)
    with pytest.raises(UserError, match="does not exist"):
        read_nifti(tmp_path / "b.nii")


def test_kspace_and_its_attributes(tmp_path) -> None:
    images = RNG.normal(3, 1, (2, 3, 9, 8)) + 1j * RNG.normal(size=(2, 3, 9, 8))
    found = read_kspace(hdf5(tmp_path / "a.h5", kspace_of(images)))
    np.testing.assert_array_equal(found.values, kspace_of(images))
    assert found.measured.all() and found.acquisition == "AXT2"
    assert found.spacing == (5.0, 1.5, 0.5)
    assert found.patient == patient_hash(NUMBER) and NUMBER not in repr(found)
    mask = np.arange(8) != 2
    values = kspace_of(images[:, 0])
    values[..., 5] = 0
    one = read_kspace(hdf5(tmp_path / "b.h5", values, mask=mask, patient_id=None))
    assert one.values.shape == (2, 1, 9, 8) and one.patient == ""
    np.testing.assert_array_equal(np.flatnonzero(~one.measured), [2, 5])


def test_kspace_that_cannot_be_used(tmp_path) -> None:
    file, values = tmp_path / "a.h5", kspace_of(RNG.normal(3, 1, (2, 9, 8)))
    with pytest.raises(UserError, match=r"`kspace` of .* is float32 of shape \(2, 9, 8\)"):
        read_kspace(hdf5(file, values.real))
    with pytest.raises(UserError, match="not centred: its largest value lies at"):
        read_kspace(hdf5(file, np.fft.ifftshift(values, axes=(-2, -1))))
    with pytest.raises(UserError, match=r"`mask` of .* has the shape \(7,\)"):
        read_kspace(hdf5(file, values, mask=np.ones(7)))
    with pytest.raises(UserError, match="not finite"):
        read_kspace(hdf5(file, values * np.float32(np.nan)))
    with pytest.raises(UserError, match="all zero"):
        read_kspace(hdf5(file, values * 0))
    with needed("h5py").File(file, "w") as opened:
        opened["images"] = 1.0
    with pytest.raises(UserError, match="no data set `kspace`; it has images"):
        read_kspace(file)
    file.write_bytes(b"no scan")
    with pytest.raises(UserError, match="no readable HDF5 file"):
        read_kspace(file)


def test_a_missing_package_says_how_to_install_it(tmp_path, monkeypatch) -> None:
    (tmp_path / "a").write_text("text")
    for name, read in (("nibabel", read_nifti), ("h5py", read_kspace)):
        monkeypatch.setitem(sys.modules, name, None)
        with pytest.raises(UserError, match=rf'{name}.*pip install "score_sde\[medical\]"'):
            read(tmp_path / "a")
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(UserError, match=r'pip install "score_sde\[medical\]"'):
        read_dicom(tmp_path)


def test_the_made_up_series_has_the_name_that_must_not_be_found(tmp_path) -> None:
    series(tmp_path)
    assert scanfiles.NAME.encode() in (tmp_path / "0.dcm").read_bytes()
