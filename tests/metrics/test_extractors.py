"""Extractors by name, and those of users."""

import hashlib
from pathlib import Path

import numpy as np
import pytest

from score_sde.errors import UserError
from score_sde.metrics import small, small_pixels
from score_sde.metrics.extractors import make_extractor

IMAGES = np.random.default_rng(0).integers(0, 256, (5, 6, 4, 3), np.uint8)


def users(folder: Path, body: str) -> str:
    path = folder / "mine.py"
    path.write_text(f"import numpy as np\n\ndef features(images):\n    {body}\n\nnumber = 3\n")
    return f"{path}:features"


def test_a_function_of_the_users(tmp_path) -> None:
    name = users(tmp_path, "assert images.dtype == np.uint8; return images.mean(axis=(1, 2))")
    extractor = make_extractor(name)
    assert extractor.name == "mine.py:features"
    assert extractor.checksum == hashlib.sha256((tmp_path / "mine.py").read_bytes()).hexdigest()
    found = extractor(IMAGES)
    assert found.logits is None
    np.testing.assert_allclose(found.pool, IMAGES.mean(axis=(1, 2)), rtol=1e-6)
    found = make_extractor(users(tmp_path, "x = images[:, 0, 0]; return x, x / 2"))(IMAGES)
    np.testing.assert_array_equal(found.logits, found.pool / 2)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (
            "return images",
            r"features must be numbers of shape \(n, d\).* they are uint8 of shape \(5, 6, "
            r"4, 3\)",
        ),
        (
            "return images[:4, 0, 0]",
            r"a row for each of the 5 images; they are uint8 of shape \(4, 3\)",
        ),
        ("return images[:, 0, 0, :0]", r"of shape \(5, 0\)"),
        ("return np.full((5, 2), 'a')", "features must be numbers"),
        ("return None", "features must be numbers"),
        ("return images[:, 0, 0], images[0]", "logits must be numbers"),
        ("return (1, 2, 3)", r"\(features, logits\); it gave 3 things"),
        (
            "return images + unknown",
            r"failed on images of shape \(5, 6, 4, 3\) \(NameError: .*unknown",
        ),
    ],
)  # fmt: skip
def test_what_a_function_must_not_do(tmp_path, body: str, message: str) -> None:
    extractor = make_extractor(users(tmp_path, body))
    with pytest.raises(UserError, match=f"mine.py:features:? ?.*{message}"):
        extractor(IMAGES)


def test_files_of_the_users(tmp_path) -> None:
    name = users(tmp_path, "return images")
    with pytest.raises(UserError, match=r"mine.py has no function 'other'; it has features"):
        make_extractor(name.replace(":features", ":other"))
    with pytest.raises(UserError, match="no function 'number'"):
        make_extractor(name.replace(":features", ":number"))
    with pytest.raises(UserError, match=r"none.py does not exist"):
        make_extractor(str(tmp_path / "none.py:f"))
    with pytest.raises(UserError, match=r"takes no weights file; leave out w.npz"):
        make_extractor(name, Path("w.npz"))
    (tmp_path / "mine.py").write_text("import nowhere_to_be_found\n")
    with pytest.raises(
        UserError, match=r"cannot be run \(ModuleNotFoundError: .*nowhere_to_be_found"
    ):
        make_extractor(name)


def test_pixels() -> None:
    extractor = make_extractor("pixels")
    np.testing.assert_allclose(extractor(IMAGES).pool, IMAGES.reshape(5, -1) / 255, rtol=1e-6)
    large = np.tile(IMAGES, (1, 8, 8, 1))
    np.testing.assert_allclose(extractor(large).pool, small_pixels(large / 255), rtol=1e-5)
    assert extractor.checksum == make_extractor("pixels").checksum != ""
    with pytest.raises(UserError, match="takes no weights"):
        make_extractor("pixels", Path("w.npz"))


def test_classifiers_are_trained_on_what_is_given(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    monkeypatch.setitem(small.STEPS, "digits", 2)
    asked = []

    def load(name):
        asked.append(name)
        return IMAGES[..., :1], np.arange(5)

    assert make_extractor("digits", load_data=load).name == "digits"
    assert asked == ["digits"]
    assert (tmp_path / ".cache" / "score_sde" / "extractors" / "digits-1.npz").exists()
    make_extractor("digits")
    with pytest.raises(UserError, match="'mnist' must be trained first"):
        make_extractor("mnist")


def test_unknown_names() -> None:
    with pytest.raises(
        UserError, match=r"'vgg'; there are inception, mnist, digits, pixels, and FILE.py:FUNCTION"
    ):
        make_extractor("vgg")
    with pytest.raises(UserError, match=r"no extractor is called 'mine.py'"):
        make_extractor("mine.py")
