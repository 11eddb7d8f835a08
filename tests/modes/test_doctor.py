"""--mode doctor: findings on a page and as JSON, of data alone and beside a run."""

import json
import re
from pathlib import Path

import numpy as np
from commands import refused
from PIL import Image
from runs import call, load

from score_sde.workdir import capacity

SMALL = {"model.nf": 4, "model.ch_mult": "(1,)", "model.num_res_blocks": 1}


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
    fits, asked = re.findall(r"[\d,]+", written["training"]["largest batch that fits"])
    assert int(fits.replace(",", "")) > int(asked) == 64
    assert not (tmp_path / "run").exists()


def test_a_folder_with_faults(tmp_path: Path, capsys) -> None:
    folder = folder_of(tmp_path / "images")
    Image.new("RGB", (8, 8), (9, 9, 9)).save(folder / "flat.png")
    values = SMALL | {"data.path": folder, "data.image_size": 8}
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
    values = SMALL | {"data.path": folder, "data.image_size": 8}
    names, written = doctor(tmp_path, config="ve/ncsnpp_cont:folder", values=values)
    assert names == ["images that cannot be used", "few images", "sigma_max does not fit"]
    assert "broken.png" in written["findings"][0]["what"]
    counts = [written["images"][f"{split} images"] for split in ("training", "held-out")]
    assert sum(map(int, counts)) == 40
    refused("does not exist", "doctor", values=values | {"data.path": tmp_path / "none"}, **flags)


def test_a_batch_that_does_not_fit(tmp_path: Path, monkeypatch) -> None:
    """On devices with room for the weights and some images, and on some without."""
    for room, size, do in (
        (2**24, 64, None),
        (2**24, 8192, r"set training.batch_size to [\d,]+ or less, or raise"),
        (2**12, 64, "raise training.fsdp"),
    ):
        monkeypatch.setattr(capacity, "_room", lambda place, room=room: room)
        values = SMALL | {"training.batch_size": size}
        _, written = doctor(tmp_path, config="vp/ddpmpp_cont:digits", values=values)
        found = {one["name"]: one["do"] for one in written["findings"]}
        assert found.keys() == ({"the batch does not fit"} if do else set())
        assert do is None or re.match(do, found["the batch does not fit"])


def test_settings_that_cannot_be_trained(tmp_path: Path) -> None:
    values = SMALL | {"model.attn_resolutions": "(3,)", "training.fsdp": 3}
    names, written = doctor(tmp_path, config="vp/ddpmpp_cont:digits", values=values)
    assert names == ["the settings cannot be trained"] and written["training"] == {}
    assert "fsdp" in written["findings"][0]["what"]


def test_a_network_that_refuses_the_images_is_a_finding(tmp_path: Path) -> None:
    values = SMALL | {"model.ch_mult": "(1, 1, 1, 1, 1, 1)"}
    names, _ = doctor(tmp_path, config="vp/ddpmpp_cont:digits", values=values)
    assert names == ["the settings cannot be trained"]


def test_the_numbers_of_capacity(monkeypatch) -> None:
    """8 devices, 2 parts: (1000 - 100 - 4 x 25) MiB / 4 MiB are 200 images a part of a device."""
    cost = {"state_bytes": 100 * 2**20, "parameters": 25 * 2**20, "activation_bytes": 2**22}
    monkeypatch.setattr(capacity.costs, "estimate", lambda *_: cost | {"step_flops": 3e9})
    monkeypatch.setattr(capacity, "_room", lambda place: 1000 * 2**20)
    monkeypatch.setattr(capacity, "_rate", lambda dtype: 1e9)
    values = SMALL | {"training.accumulate": 2, "training.steps": 100}
    told, found = capacity.capacity(load("vp/ddpmpp_cont:digits", values), (8, 8, 1))
    assert told["largest batch that fits"] == "3,200; training.batch_size is 64"
    step = told["a step, at a tenth to a third of that rate"]
    assert step == "72.0 seconds to 4.0 minutes"  # 64 images of 3 s on 8 devices, at the rate 24 s
    assert [capacity._duration(each) for each in (0.0042, 0.45)] == ["4.2 ms", "450.0 ms"]
    assert told["training.steps=100, once compiled"] == "2.0 hours to 6.7 hours" and found == []
