"""Classifiers are good, the same each time, and kept once made.

They are made anew where the kept ones are damaged.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from golden import data_root
from score_sde.data import TFDSSource, digits, in_memory
from score_sde.data.image_sets import labelled_images, to_bytes
from score_sde.errors import UserError
from score_sde.files import read_npz
from score_sde.metrics import small
from score_sde.metrics.small import STEPS, Labelled, small_extractor, train_classifier


@pytest.fixture(autouse=True)
def few_steps(request, monkeypatch) -> None:
    if "slow" not in request.keywords:
        monkeypatch.setitem(small.STEPS, "digits", 30)


def load() -> Labelled:
    return labelled_images("digits")


def never() -> Labelled:
    raise AssertionError("trained again")


def test_trained_once_and_kept(tmp_path, capsys) -> None:
    first = small_extractor("digits", load, tmp_path)
    images = load()[0]
    found = first(images[:50])
    assert (
        found.pool.shape == (50, 128)
        and found.logits is not None
        and found.logits.shape == (50, 10)
    )
    assert found.pool.min() == 0 and found.pool.max() > 0.1
    assert (found.logits.argmax(axis=1) == load()[1][:50]).mean() > 0.5
    second = small_extractor("digits", never, tmp_path)
    assert second.identity == first.identity
    assert first.name == "digits" and len(first.checksum) == 64
    np.testing.assert_array_equal(second(images[:50]).pool, found.pool)
    assert [path.name for path in tmp_path.iterdir()] == ["digits-1.npz"]


def test_training_is_deterministic() -> None:
    one, again, other = (train_classifier(*load(), steps=3, seed=seed) for seed in (0, 0, 1))
    jax.tree.map(np.testing.assert_array_equal, one, again)
    assert small._checksum(one) == small._checksum(again) != small._checksum(other)


def test_it_computes_in_float32_of_levels_divided_by_255(tmp_path) -> None:
    images, labels = load()
    params = train_classifier(images, labels, steps=2)
    found = small._extractor("digits", params, (8, 8, 1))(images[:4])
    expected, logits = small.SmallClassifier().apply(
        {"params": params}, jnp.asarray(images[:4], jnp.float32) / 255
    )
    np.testing.assert_allclose(found.pool, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found.logits, logits, rtol=1e-5, atol=1e-6)


def test_damaged_files_are_made_anew(tmp_path, capsys) -> None:
    first = small_extractor("digits", load, tmp_path)
    path = tmp_path / "digits-1.npz"
    good = path.read_bytes()
    flipped = bytearray(good)
    flipped[len(good) // 2] ^= 1
    changed = read_npz(path) | {"Dense_1/bias": np.ones(10, np.float32)}
    for number, data in enumerate((good[:1000], b"", bytes(flipped), None)):
        if data is None:
            np.savez(path, **changed)
        else:
            path.write_bytes(data)
        again = small_extractor("digits", load, tmp_path)
        assert again.checksum == first.checksum
        said = capsys.readouterr().err
        assert "It is trained again." in said
        assert ("other than when" in said or "another checksum" in said) == (number == 3), said
        assert small_extractor("digits", never, tmp_path).checksum == first.checksum


def test_weights_files_of_other_machines(tmp_path) -> None:
    first = small_extractor("digits", load, tmp_path)
    path = tmp_path / "digits-1.npz"
    assert (
        small_extractor("digits", never, tmp_path / "none", weights=path).checksum == first.checksum
    )
    with pytest.raises(UserError, match=r"holds the classifier digits \(recipe 1\), not mnist"):
        small_extractor("mnist", never, weights=path)
    np.savez(tmp_path / "other.npz", a=np.zeros(3))
    with pytest.raises(UserError, match="no weights file of a small classifier"):
        small_extractor("digits", never, weights=tmp_path / "other.npz")
    with pytest.raises(UserError, match="does not exist"):
        small_extractor("digits", never, weights=tmp_path / "none.npz")


def test_refusals(tmp_path) -> None:
    images, labels = load()
    with pytest.raises(UserError, match=r"takes images of shape \(8, 8, 1\) .*; got \(9, 8, 1\)"):
        small_extractor("digits", load, tmp_path)(np.zeros((2, 9, 8, 1), np.uint8))
    with pytest.raises(UserError, match=r"labels must lie in 0 \.\. 9; got 1 \.\. 10"):
        train_classifier(images, labels + 1)
    with pytest.raises(UserError, match="at least 4 x 4"):
        train_classifier(images[:, :3], labels)


@pytest.mark.slow
def test_digits_are_recognized(tmp_path) -> None:
    assert STEPS["digits"] >= 1000
    test = digits("test")
    found = small_extractor("digits", load, tmp_path)(to_bytes(test.images, 17))
    assert (found.logits.argmax(axis=1) == test.labels).mean() >= 0.95


@pytest.mark.slow
def test_mnist_is_recognized(tmp_path) -> None:
    folder = data_root() / "tfds"
    test = in_memory(TFDSSource("mnist", "test", folder))
    found = small_extractor("mnist", lambda: labelled_images("mnist", folder), tmp_path)(
        test.images
    )
    assert (found.logits.argmax(axis=1) == test.labels).mean() >= 0.985
