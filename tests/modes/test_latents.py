"""--mode encode, decode and interpolate: the probability flow there and back."""

from pathlib import Path

import numpy as np
import pytest
from commands import refused
from PIL import Image
from runs import call

from score_sde.data import digits
from score_sde.parallel.codec import Codec

FLOW = {"eval.batch_size": 8, "eval.rtol": 1e-5, "eval.atol": 1e-5}


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Three digits as 8-bit files of 17 greys."""
    (tmp_path / "pictures").mkdir()
    for i, image in enumerate(digits("test").images[:3]):
        grey = np.rint(image[..., 0] * (255 / 16)).astype(np.uint8)
        Image.fromarray(grey).save(tmp_path / "pictures" / f"{'abc'[i]}.png")
    return tmp_path / "pictures"


def read(path: Path) -> dict[str, np.ndarray]:
    with np.load(path) as file:
        return dict(file)


def test_images_encode_and_decode_to_the_same_files(
    trained: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    latents = tmp_path / "z" / "latents.npz"
    call("encode", trained, checkpoint="20", input=pictures, output=tmp_path / "z", values=FLOW)
    out = capsys.readouterr().out
    assert "image files: value v of 0 .. 255 is level round(16 v/255) of 0 .. 16" in out
    assert "3 latents of checkpoint 20" in out and "; 0 images come back with other levels" in out
    found = read(latents)
    z = found["z"]
    assert found["step"] == 20 and found["prior_std"] == 1.0 and (found["nfe"] > 6).all()
    assert (found["round_trip"] < 0.5).all()
    assert z.shape == (3, 8, 8, 1) and z.dtype == np.float32
    assert found["names"].tolist() == ["a.png", "b.png", "c.png"]
    assert Image.open(tmp_path / "z" / "round_trip.png").size[0] > 100
    call("decode", trained, checkpoint="20", input=latents, output=tmp_path / "x", values=FLOW)
    images = read(tmp_path / "x" / "samples.npz")["images"]
    np.testing.assert_array_equal(images, digits("test").images[:3])
    files = (sorted(folder.iterdir()) for folder in (tmp_path / "x" / "images", pictures))
    for written, given in zip(*files, strict=True):
        there, here = (np.asarray(Image.open(path)) for path in (written, given))
        np.testing.assert_array_equal(there, here)

    both = f"{pictures / 'a.png'},{latents}"
    flags = {"input": both, "output": tmp_path / "path", "frames": 3}
    call("interpolate", trained, checkpoint="20", values=FLOW, **flags)
    found = read(tmp_path / "path" / "frames.npz")
    assert found["images"].shape == (3, 3, 8, 8, 1)
    np.testing.assert_array_equal(found["images"][1:, 0], digits("test").images[:2])
    np.testing.assert_array_equal(found["images"][1:, -1], digits("test").images[1:3])
    same = np.broadcast_to(z[0], (3, 8, 8, 1))  # from a to a
    np.testing.assert_allclose(found["z"][0], same, atol=1e-3)
    assert Image.open(tmp_path / "path" / "interpolation.gif").n_frames >= 4
    assert (tmp_path / "path" / "grid.png").exists()


def test_encoding_a_split_does_not_depend_on_the_batch_or_a_kill(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With batches of 8 it is stopped in the second part, and goes on from there."""
    encode, parts, found = Codec.encode, [], []

    def stopped(self, params, images, names, tick):
        if len(parts) == 1:
            parts.append(names)
            raise KeyboardInterrupt
        parts.append(names)
        return encode(self, params, images, names, tick)

    monkeypatch.setattr(Codec, "encode", stopped)
    monkeypatch.setattr("score_sde.workdir.latents.PART", 8)
    for size in (8, 16):
        values = FLOW | {"eval.num_examples": 11, "eval.batch_size": size}
        if size == 8:
            with pytest.raises(KeyboardInterrupt):
                call("encode", trained, checkpoint="20", output=tmp_path / "8", values=values)
            assert [path.name[:10] for path in (tmp_path / "8").glob("[!.]*")] == ["unfinished"]
        call("encode", trained, checkpoint="20", output=tmp_path / str(size), values=values)
        latents = read(tmp_path / str(size) / "latents.npz")
        found.append(latents["z"])
        np.testing.assert_array_equal(latents["label"], digits("test").labels[:11])
        assert latents["names"][10] == "test 10"
        assert not list((tmp_path / str(size)).glob("unfinished*"))
    assert [len(names) for names in parts] == [8, 3, 3, 11]
    np.testing.assert_allclose(found[0], found[1], atol=1e-3)


def test_decoding_the_prior_and_its_temperature(trained: Path, tmp_path: Path) -> None:
    def decode(number: int, **flags: float) -> dict[str, np.ndarray]:
        values = FLOW | {"sampling.num_samples": number}
        call("decode", trained, checkpoint="20", output=tmp_path, values=values, **flags)
        return read(tmp_path / "samples.npz")

    many, few = decode(7), decode(3, temperature=0.5)
    np.testing.assert_allclose(few["z"], 0.5 * many["z"][:3])
    assert not np.array_equal(few["images"], many["images"][:3])
    assert len({image.tobytes() for image in many["images"]}) == 7
    assert len(list((tmp_path / "images").iterdir())) == 3  # none of the seven before is left over


def test_inputs_that_do_not_fit_are_refused_and_nothing_is_written(
    trained: Path, tmp_path: Path
) -> None:
    wide, nan, one = (tmp_path / name for name in ("wide.png", "nan.npz", "one.npz"))
    Image.new("L", (9, 8)).save(wide)
    np.savez(nan, z=np.full((1, 8, 8, 1), np.nan))
    np.savez(one, z=np.ones((1, 8, 8, 1)))
    before = sorted(trained.rglob("*"))
    for mode, flags, message in (
        ("encode", {"input": wide}, "wide.png: 8 x 9 pixels, not 8 x 8"),
        ("encode", {"input": tmp_path / "none"}, "does not exist"),
        ("decode", {"input": nan}, "not finite"),
        ("interpolate", {"input": one}, "name two or more"),
        ("decode", {"frames": 3}, "--frames means nothing to --mode decode"),
        ("decode", {"output": tmp_path, "checkpoint": "20,60"}, "one result.*; leave it out"),
        *((mode, {"output": wide}, "wide.png is a file") for mode in ("encode", "decode")),
        ("interpolate", {"output": wide}, "wide.png is a file"),
    ):
        refused(message, mode, trained, values=FLOW, **flags)
    refused("does not split over", "encode", trained, values=FLOW | {"eval.batch_size": 7})
    assert sorted(trained.rglob("*")) == before
