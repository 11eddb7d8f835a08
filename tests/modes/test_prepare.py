"""Mode prepare: made-up scans of each collection become slices, and a line says what was done."""

from pathlib import Path

import numpy as np
import pytest
from scanfiles import NAME, NUMBER, hdf5, kspace_of, needed, nifti, series

from score_sde import program
from score_sde.data import PreparedSource
from score_sde.data.preparation import SOURCES, brats, brats_scaled, fastmri, ldct, lidc
from score_sde.data.scans import patient_hash
from score_sde.errors import UserError

RNG = np.random.default_rng(0)


def prepare(source: str, folder: Path, output: Path) -> PreparedSource:
    given = {"source": source, "input": [str(folder)], "output": str(output)}
    program.run("prepare", given, [])
    return PreparedSource(output, "all")


def test_lidc_from_files_to_slices(tmp_path, capsys) -> None:
    """Levels of a constant series are those of its HU; nothing of the person is written."""
    scans = tmp_path / f"scans of {NAME}"
    stored = series(scans / "a" / "ct", size=4)
    series(scans / "b", PatientID="2", RescaleIntercept=-3000, SeriesInstanceUID="9")
    series(scans / "c", Modality="DX")
    (scans / "d").mkdir()
    (scans / "d" / "annotations.xml").write_text("<xml/>")
    source = prepare("lidc", scans, tmp_path / "out")
    assert (len(source), source.shape, source.unit, source.classes) == (6, (320, 320, 1), "HU", 0)
    assert set(source.index["patient"]) == {patient_hash(NUMBER), patient_hash("2")}
    assert sorted(set(source.index["split"])) == ["test", "train"]
    assert source.index["slice"].tolist() == [0, 1, 2, 0, 1, 2]
    found = source.values(1)[::80, ::80, 0]  # the corner of each pixel that was made 80 x 80
    corner = np.clip(stored[1, 0, 0] - 1024.0, -1000, 3200)
    assert abs(found[0, 0] - corner) < 0.04
    assert source.values(3).min() >= -1000.04  # padding and noise below air are lifted
    assert np.isclose(source.index["row_spacing"][0], 0.7 * 4 / 320)
    text = capsys.readouterr().out
    assert "a/ct: 3 slices of 4 x 4 pixels made 320 x 320, spacing 2.5 x 0.7 x 0.8 mm, HU" in text
    assert "c: left out:" in text and "has the modality DX" in text
    assert "d: left out:" in text and "holds no DICOM files (1 other files)" in text
    assert "6 slices (the dissertation has 130,304) of 2 patients: 3 to train on, 3 of 1" in text
    written = b"".join(file.read_bytes() for file in (tmp_path / "out").iterdir())
    for secret in (NAME, NUMBER, "Doe", "19700214", "scans", str(tmp_path)):
        assert secret.encode() not in written
    assert len(list((tmp_path / "out").iterdir())) == 3


def test_ldct_takes_full_dose_images_with_their_region(tmp_path) -> None:
    series(tmp_path / "1", BodyPartExamined="CHEST")
    assert ldct(tmp_path / "1", size=8)[1][0].label == 1
    series(tmp_path / "2", PatientID="L004", SeriesDescription="Full dose images")
    (volume,) = ldct(tmp_path / "2", size=8)[1]
    assert volume.label == 2 and volume.spacing == (2.5, 0.7, 0.8)
    series(tmp_path / "3", SeriesDescription="Low Dose Images")
    with pytest.raises(UserError, match="'Low Dose Images', not 'Full Dose Images'"):
        ldct(tmp_path / "3")
    series(tmp_path / "4")
    with pytest.raises(UserError, match="its region is not known"):
        ldct(tmp_path / "4")
    series(tmp_path / "5", PatientID=None)
    with pytest.raises(UserError, match="no PatientID"):
        lidc(tmp_path / "5", size=8)
    series(tmp_path / "6", Modality="MR")
    with pytest.raises(UserError, match="its modality is MR"):
        lidc(tmp_path / "6")
    wanted = expected_levels(series(tmp_path / "7"))
    np.testing.assert_array_equal(volume.levels[..., 0], wanted)


def expected_levels(stored: np.ndarray) -> np.ndarray:
    hounsfield = np.clip(stored.astype(float) - 1024, -1000, 3200)
    return np.rint((hounsfield + 1024) / 4224 * 65535)


def head(folder: Path, depth: int = 72, size: int = 6, **left_out) -> dict[str, np.ndarray]:
    """A head from slice 2 to depth - 2 in four contrasts, (x, y, z) to the right, front, head."""
    found = {}
    for i, name in enumerate(("t1", "t1ce", "t2", "flair")):
        values = np.zeros((size, size, depth), np.int16)
        values[1:-1, 1:-1, 2:-1] = RNG.integers(1, 500 * (i + 1), (size - 2, size - 2, depth - 3))
        if name == "t2" and depth > 50:
            values[3, 3, 50] = 30_000
        found[name] = values
        if name not in left_out:
            nifti(folder / f"{folder.name}_{name}.nii", values, np.diag([1.0, 1.0, 2.0, 1.0]))
    return found


def test_brats_has_slices_of_the_head_in_four_contrasts(tmp_path) -> None:
    """First filled slice 2 plus 40 to last filled 70 minus 25, both kept."""
    given = head(tmp_path / "BraTS2021_00000")
    line, volumes = brats(tmp_path / "BraTS2021_00000", size=6)
    assert line.startswith("slices 42 .. 45 of 72 in 4 contrasts, 6 x 6 pixels, spacing 2 x 1 x 1")
    assert [one.label for one in volumes] == [0, 1, 2, 3]
    assert {one.patient for one in volumes} == {patient_hash("BraTS2021_00000")}
    for one, values in zip(volumes, given.values()):
        turned = values[::-1, ::-1, 42:46].transpose(2, 1, 0)
        back = one.low + (one.high - one.low) * one.levels[..., 0] / 65535.0
        assert one.levels.shape == (4, 6, 6, 1) and list(one.numbers) == [42, 43, 44, 45]
        cut = np.clip(turned, one.low, one.high)
        assert np.abs(back - cut).max() <= (one.high - one.low) / 65535
        box = values[1:-1, 1:-1, 2:-1].astype(float)
        assert np.isclose(one.high, min(box.max(), box.mean() + 6 * box.std()), rtol=1e-6)
    assert volumes[2].high < 30_000


def test_brats_that_cannot_be_used(tmp_path) -> None:
    head(tmp_path / "a", t2=False)
    with pytest.raises(UserError, match=r"no file that ends in _t2\.nii"):
        brats(tmp_path / "a", size=6)
    head(tmp_path / "b", depth=20)
    with pytest.raises(UserError, match=r"\(20, 6, 6\)\], not \(slices, 240, 240\)"):
        brats(tmp_path / "b")
    with pytest.raises(UserError, match="its head has 17 slices; 65 of them"):
        brats(tmp_path / "b", size=6)
    with pytest.raises(UserError, match="the value 0 alone"):
        brats_scaled(np.zeros((3, 3, 3), np.float32))


def test_fastmri_has_magnitudes(tmp_path) -> None:
    """Two coils whose squares sum to a known image; the central square is cut out."""
    image = RNG.uniform(1, 2, (3, 10, 8))
    phase = np.exp(1j * RNG.uniform(0, 0.5, (3, 10, 8)))
    coils = np.stack([0.6 * image * phase, 0.8j * image], axis=1)
    line, (volume,) = fastmri(hdf5(tmp_path / "a.h5", kspace_of(coils)), size=6)
    wanted = image[:, 2:8, 1:7]
    assert (volume.low, volume.label) == (0.0, 4) and np.isclose(volume.high, wanted.max())
    found = volume.high * volume.levels[..., 0] / 65535.0
    np.testing.assert_allclose(found, wanted, rtol=0, atol=volume.high / 65535)
    assert "3 slices of 2 coils, AXT2, 10 x 8 pixels cut to 6 x 6, spacing 5 x 1.5 x 0.5" in line
    new = hdf5(tmp_path / "b.h5", kspace_of(coils), acquisition="AXT9")
    assert fastmri(new, size=6)[1][0].label == 7


def test_fastmri_that_cannot_be_used(tmp_path) -> None:
    values, file = kspace_of(RNG.uniform(1, 2, (2, 10, 8))), tmp_path / "a.h5"
    with pytest.raises(UserError, match="have 10 x 8 pixels, less than 320 x 320"):
        fastmri(hdf5(file, values))
    with pytest.raises(UserError, match="no attribute patient_id"):
        fastmri(hdf5(file, values, patient_id=None), size=6)
    with pytest.raises(UserError, match="7 of 8 columns were measured"):
        fastmri(hdf5(file, values, mask=np.arange(8) != 2), size=6)
    with pytest.raises(UserError, match="0 of 8 columns were measured"):
        fastmri(hdf5(file, values, mask=np.zeros(8)), size=6)
    values[..., 0] = 0  # filled up at the edge, not left out
    assert fastmri(hdf5(file, values), size=6)[1][0].levels.shape == (2, 6, 6, 1)


def test_files_are_walked_where_each_is_a_volume(tmp_path, capsys, monkeypatch) -> None:
    small = SOURCES["fastmri"]._replace(read=lambda file: fastmri(file, 6))
    monkeypatch.setitem(SOURCES, "fastmri", small)
    coils = kspace_of(RNG.uniform(1, 2, (2, 8, 8)))
    for i in range(3):
        hdf5(tmp_path / "in" / "train" / f"file{i}.h5", coils, patient_id=f"{i}")
    hdf5(tmp_path / "in" / ".hidden.h5", coils)
    source = prepare("fastmri", tmp_path / "in", tmp_path / "out")
    assert len(source) == 6 and source.classes == 8
    assert "train/file2.h5: 2 slices of 1 coils" in capsys.readouterr().out


def test_flags_that_are_needed(tmp_path) -> None:
    given = {"source": "lidc", "input": [str(tmp_path)], "output": str(tmp_path / "out")}
    for change, message in (
        ({"source": None}, "knows --source lidc, ldct, brats, fastmri; got none"),
        ({"source": "nlst"}, "got nlst"),
        ({"input": None}, "--input DIR"),
        ({"output": None}, "--output DIR"),
        ({"input": [str(tmp_path / "none")]}, "does not exist"),
        ({}, "holds no files"),
    ):
        with pytest.raises(UserError, match=message):
            program.run("prepare", given | change, [])
    (tmp_path / "a.txt").write_text("text")
    with pytest.raises(UserError, match="exists already"):
        program.run("prepare", given | {"output": str(tmp_path)}, [])
    with pytest.raises(UserError, match=r"holds no files that end in \.nii"):
        program.run("prepare", given | {"source": "brats"}, [])
    needed("pydicom")
    with pytest.raises(UserError, match="no slices were found"):
        program.run("prepare", given, [])
    assert not list((tmp_path / "out").iterdir())
