"""--mode doctor: findings on a page and as JSON, of data alone and beside a run."""

import json
from pathlib import Path

import numpy as np
from commands import refused
from PIL import Image
from runs import call


def folder_of(path: Path, count: int = 40) -> Path:
    path.mkdir()
    rng = np.random.default_rng(0)
    for i in range(count):
        Image.fromarray(rng.integers(0, 256, (8, 8, 3)).astype(np.uint8)).save(path / f"{i}.png")
    return path


def doctor(tmp_path: Path, **flags) -> tuple[list[str], dict]:
    call("doctor", tmp_path / "run", output=tmp_path / "found", **flags)
    written = json.loads((tmp_path / "found" / "doctor.json").read_text())
    page = (tmp_path / "found" / "doctor.html").read_text()
    names = [one["name"] for one in written["findings"]]
    assert all(f"<h2>{name}</h2>" in page for name in names)
    return names, written


def test_clean_data_have_no_finding(tmp_path: Path, capsys) -> None:
    names, written = doctor(tmp_path, config="ve/ncsnpp_cont:digits")
    assert names == [] and "nothing was found to be wrong" in capsys.readouterr().out
    assert written["images"]["shape of an image"] == "(8, 8, 1)"
    assert not (tmp_path / "run").exists()


def test_a_folder_with_faults(tmp_path: Path, capsys) -> None:
    folder = folder_of(tmp_path / "images")
    Image.new("RGB", (8, 8), (9, 9, 9)).save(folder / "flat.png")
    values = {"data.path": folder, "data.image_size": 8}
    names, written = doctor(tmp_path, config="ve/ncsnpp_cont:folder", values=values)
    assert names == ["constant images", "few images", "sigma_max does not fit"]
    assert written["findings"][0]["examples"] == [str(folder / "flat.png")]
    out = capsys.readouterr().out
    assert "1 of 41 images have one value everywhere" in out and "3 findings" in out


def test_files_that_cannot_be_used(tmp_path: Path) -> None:
    """Told like any other finding, with their names; the others are looked at all the same."""
    folder = folder_of(tmp_path / "images")
    flags = {"workdir": tmp_path / "run", "config": "ve/ncsnpp_cont:folder"}
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    values = {"data.path": folder, "data.image_size": 8}
    names, written = doctor(tmp_path, config="ve/ncsnpp_cont:folder", values=values)
    assert names == ["images that cannot be used", "few images", "sigma_max does not fit"]
    assert "broken.png" in written["findings"][0]["what"]
    counts = [written["images"][f"{split} images"] for split in ("training", "held-out")]
    assert sum(map(int, counts)) == 40
    refused("does not exist", "doctor", values=values | {"data.path": tmp_path / "none"}, **flags)
