"""--mode fid: any two sets, without a model."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import runs
from PIL import Image
from processes import run_two

from golden import REPOSITORY
from score_sde.data import digits
from score_sde.data.image_sets import to_bytes
from score_sde.errors import UserError
from score_sde.files import read_npz
from score_sde.metrics import Moments, frechet_distance, small, small_pixels
from score_sde.metrics.statistics import load_statistics
from score_sde.modes import fid as mode

TRAIN, TEST = (to_bytes(digits(split).images, 17) for split in ("train", "test"))


@pytest.fixture(scope="module")
def sets(tmp_path_factory) -> Path:
    """The digits in every form.

    As a folder, in a file as samples are written, as an array without a name, and as statistics.
    """
    folder = tmp_path_factory.mktemp("sets")
    (folder / "test").mkdir()
    for i, image in enumerate(TEST):
        Image.fromarray(image[..., 0]).save(folder / "test" / f"{i:03d}.png")
    np.savez_compressed(folder / "samples.npz", images=digits("train").images, levels=17)
    np.savez(folder / "train.npz", TRAIN)
    moments = Moments.of(small_pixels(TRAIN.astype(np.float32) / 255))
    np.savez(folder / "foreign.npz", mu=moments.mean, sigma=moments.covariance)
    return folder


def call(a: Path, b: Path | None = None, **flags):
    runs.call("fid", a=a, b=b, **{"extractor": "pixels"} | flags)


def value(out: str) -> float:
    return float(next(line for line in out.splitlines() if line.startswith("fid ")).split()[1])


def test_every_kind_of_set(sets: Path, tmp_path: Path, capsys) -> None:
    moments = [Moments.of(small_pixels(x.astype(np.float32) / 255)) for x in (TEST, TRAIN)]
    expected = frechet_distance(*moments)
    kept = tmp_path / "kept.npz"
    call(sets / "train.npz", output=kept)
    assert f"statistics of {sets / 'train.npz'}: {kept}" in capsys.readouterr().out
    for b in (sets / "samples.npz", sets / "train.npz", sets / "foreign.npz", kept):
        call(sets / "test", b)
        out = capsys.readouterr().out
        assert value(out) == pytest.approx(expected, rel=1e-4)
        assert "not comparable with published numbers: 360 samples" in out
        assert ("does not say its extractor" in out) == (b.stem == "foreign")
    call(kept, sets / "train.npz")
    assert abs(value(capsys.readouterr().out)) < 1e-5


def test_every_measure_and_statistics_with_features(
    sets: Path, tmp_path: Path, capsys, monkeypatch
) -> None:
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    monkeypatch.setitem(small.STEPS, "digits", 30)
    kept = tmp_path / "kept.npz"
    every = {"metrics": "fid,kid,is,pr,dc", "extractor": "digits"}
    call(sets / "train.npz", output=kept, **every)
    assert "is " in capsys.readouterr().out
    assert load_statistics(kept).features.shape == (1437, 128)
    call(sets / "test", kept, **every)
    out = capsys.readouterr().out
    lines = [line.split()[0] for line in out.splitlines()[1:]]
    assert lines == ["is", "fid", "kid", "precision", "recall", "density", "coverage"]
    assert "(standard error)" in out and "(standard deviation over splits)" in out
    call(sets / "test", metrics="is", extractor="digits")
    assert "is  " in capsys.readouterr().out
    call(sets / "train.npz", output=kept, extractor="digits")
    with pytest.raises(
        UserError, match=r"pr: needs the features of every image, and .*kept.npz \(of .*train.npz\)"
    ):
        call(sets / "test", kept, extractor="digits", metrics="pr")


def test_a_function_of_the_users(sets: Path, tmp_path: Path, capsys) -> None:
    (tmp_path / "mine.py").write_text(
        "def mean(images):\n    return images.mean(axis=(2, 3)) / 255\n"
    )
    call(sets / "test", sets / "train.npz", extractor=tmp_path / "mine.py:mean")
    expected = frechet_distance(*(Moments.of(x.mean(axis=(2, 3)) / 255) for x in (TEST, TRAIN)))
    out = capsys.readouterr().out
    assert value(out) == pytest.approx(expected, rel=1e-4)
    assert "features of 'mine.py:mean', published ones are Inception's" in out


def test_reference_batches_hold_images_and_statistics(sets: Path, tmp_path: Path) -> None:
    """For the Inception distance their sums over more images count, for all else their images."""
    path = tmp_path / "both.npz"
    np.savez(path, arr_0=TEST, mu=np.zeros(2048), sigma=np.eye(2048))
    assert mode.open_set(path, ("fid",), "inception").moments.n == 2
    for metrics, extractor in ((("fid", "pr"), "inception"), (("fid",), "digits")):
        assert mode.open_set(path, metrics, extractor).count == 360


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            {"b": None},
            "compares two sets: name the second with --b, or a file for the statistics of --a "
            "with --output",
        ),
        ({"a": None}, "needs the images to measure: --a FOLDER"),
        ({"metrics": "fid,fod"}, "no measure is called 'fod'; there are fid, is, kid, pr, dc"),
        ({"metrics": "fid,"}, "no measure is called ''; there are fid, is, kid, pr, dc"),
        ({"extractor": "vgg"}, "no extractor is called 'vgg'"),
        ({"weights": "w.npz"}, "extractor 'pixels' takes no weights file"),
        ({"output": "kept.json"}, r"--output must be an \.npz file; got kept.json"),
        (
            {"a": "foreign.npz", "output": "kept.npz"},
            "foreign.npz holds statistics already; leave out --output",
        ),
        (
            {"b": "colour.npz"},
            r"test and .*colour.npz have different shapes .*: \[8, 8, 1\] and \[8, 8, 3\]",
        ),
        ({"b": "inception.npz"}, r"features of 64 dimensions and .*inception.npz of 2048"),
        (
            {"b": "other.npz"},
            r"test and .*other.npz \(of x\) have different extractors: pixels and digits",
        ),
        ({"b": "one.npz"}, "at least 2 images; .*one.npz has 1"),
        (
            {"b": "strange.npz"},
            r"neither images \(an entry images or arr_0\) nor statistics \(mu, .*entries are x",
        ),
        ({"a": "float.npz"}, "2 of 3 images are not finite; it must be integer levels"),
        ({"a": "nan.npz"}, "1 of 3 samples in .*nan.npz are not finite"),
        ({"a": "none"}, "none does not exist"),
        ({"a": "empty"}, "image folder .*empty holds no images"),
        ({"a": "mixed"}, "1 of 3 images in .*mixed cannot be used:\n  2.png: 9 x 8 pixels"),
        ({"a": "torn.npz"}, "torn.npz is no readable npz file: empty, damaged or cut off"),
        ({"metrics": "is", "b": None}, "extractor 'pixels' has no classes"),
        (
            {"metrics": "kid", "b": "foreign.npz"},
            "kid: needs the features of every image, and .*foreign.npz holds only",
        ),
    ],
)
def test_refusals(sets: Path, tmp_path: Path, flags: dict, message: str, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    np.savez("colour.npz", np.tile(TEST, 3))
    np.savez("inception.npz", mu=np.zeros(2048), sigma=np.eye(2048))
    known = '{"extractor": "digits", "data": "x"}'
    np.savez("other.npz", mu=np.zeros(64), sigma=np.eye(64), n=9, provenance=known)
    np.savez("one.npz", TEST[:1])
    np.savez("strange.npz", x=TEST)
    np.savez(
        "float.npz", images=np.where(np.arange(3)[:, None, None, None] < 2, np.nan, TEST[:3] / 255)
    )
    np.savez("nan.npz", images=TEST[:3], finite=np.arange(3) > 0)
    np.savez("foreign.npz", **read_npz(sets / "foreign.npz"))
    Path("torn.npz").write_bytes((sets / "train.npz").read_bytes()[:2000])
    Path("empty").mkdir()
    Path("mixed").mkdir()
    for i in range(3):
        Image.fromarray(np.zeros((8 + i // 2, 8), np.uint8)).save(f"mixed/{i}.png")
    before = {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}
    given = {"a": sets / "test", "b": sets / "train.npz", "extractor": "pixels"} | flags
    with pytest.raises(UserError, match=message):
        runs.call("fid", **given)
    assert {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ({"config": "c.py"}, "config"),
        ({"values": {"seed": 1}}, "config.seed"),
        ({"workdir": "runs/x"}, "workdir"),
        ({"checkpoint": "10"}, "checkpoint"),
    ],
)
def test_it_has_no_run(sets: Path, given: dict, name: str) -> None:
    with pytest.raises(UserError, match=f"^--{name} means nothing to --mode fid"):
        runs.call("fid", a=sets / "test", b=sets / "train.npz", **given)


def test_other_weights_are_refused_before_the_work(sets: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def f(images):\n    raise SystemExit('called')\n")
    known = '{"extractor": "mine.py:f", "checksum": "12"}'
    np.savez(tmp_path / "other.npz", mu=np.zeros(64), sigma=np.eye(64), n=9, provenance=known)
    with pytest.raises(
        UserError, match=r"different weights of the extractor \(SHA-256\): \w{64} and 12"
    ):
        call(sets / "test", tmp_path / "other.npz", extractor=tmp_path / "mine.py:f")


def test_what_was_computed_is_kept_when_the_rest_fails(sets: Path, tmp_path: Path) -> None:
    """Features of --b that are not finite: the statistics of --a are written already."""
    (tmp_path / "mine.py").write_text(
        "seen = []\n\ndef f(images):\n    seen.append(len(images))\n"
        "    return images[:, 0, :, 0] + (0.0 if sum(seen) <= 388 else float('nan'))\n"
    )
    kept = tmp_path / "kept.npz"
    with pytest.raises(
        UserError, match=r"the features of 1437 of 1437 images of .*train.npz are not finite"
    ):
        call(sets / "test", sets / "train.npz", extractor=tmp_path / "mine.py:f", output=kept)
    assert load_statistics(kept).moments.n == 360


def test_from_the_command_line(sets: Path, tmp_path: Path) -> None:
    command = [
        sys.executable,
        str(REPOSITORY / "main.py"),
        "--mode",
        "fid",
        "--extractor",
        "pixels",
    ]
    done = subprocess.run(
        [*command, "--a", "test", "--b", "train.npz", "--metrics=fid,pr"],
        cwd=sets,
        text=True,
        capture_output=True,
    )
    assert done.returncode == 0, done
    assert [line.split()[0] for line in done.stdout.splitlines()] == [
        "images",
        "not",
        "fid",
        "precision",
        "recall",
    ]
    done = subprocess.run(
        [*command, "--a", "test", "--b", "none"], cwd=sets, text=True, capture_output=True
    )
    assert done.returncode == 1
    assert done.stderr == "error: none does not exist; name a folder of images or an npz file\n"


def test_two_processes(sets: Path, tmp_path: Path) -> None:
    kept = tmp_path / "kept.npz"
    command = [
        "main.py",
        "--distributed",
        "--mode",
        "fid",
        "--extractor",
        "pixels",
        "--a",
        sets / "test",
    ]
    first, second = run_two([*command, "--b", sets / "train.npz", "--output", kept])
    moments = [Moments.of(small_pixels(x.astype(np.float32) / 255)) for x in (TEST, TRAIN)]
    assert value(first) == pytest.approx(frechet_distance(*moments), rel=1e-4)
    assert "fid" not in second and load_statistics(kept).moments.n == 360


def test_what_cannot_be_measured_is_refused_before_features_are_computed(
    sets, tmp_path, monkeypatch
):
    monkeypatch.setattr(mode, "collect", lambda *_, **__: pytest.fail("features were computed"))
    with pytest.raises(UserError, match="is: extractor 'pixels' has no classes"):
        call(sets / "test", sets / "train.npz", metrics="fid,is", extractor="pixels")
    np.savez(tmp_path / "long.npz", mu=np.zeros(65), sigma=np.eye(65))
    with pytest.raises(UserError, match=r"has features of 64 dimensions and .*long.npz.* of 65"):
        call(sets / "test", tmp_path / "long.npz", extractor="pixels")
