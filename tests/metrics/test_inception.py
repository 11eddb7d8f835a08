"""InceptionV3 against what torch-fidelity's network makes of the same random weights and images."""

import hashlib
from pathlib import Path

import jax
import numpy as np
import pytest
from metrics import inception_reference as reference

from score_sde.convert import write_torch
from score_sde.errors import UserError
from score_sde.metrics import inception as module
from score_sde.metrics.features import Extractor
from score_sde.metrics.inception import InceptionV3, fold, inception, prepare, read_weights


@pytest.fixture(scope="module")
def state() -> dict[str, np.ndarray]:
    return reference.weights(reference.layout())


@pytest.fixture(scope="module")
def path(state: dict[str, np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "inception.pth"
    write_torch(path, state)
    return path


@pytest.fixture(scope="module")
def extractor(path: Path) -> Extractor:
    return inception(path)


def apply(params, x: np.ndarray) -> list[np.ndarray]:
    """Pool, logits without bias and logits; one compilation for images of all sizes."""
    return [np.asarray(found) for found in jax.jit(InceptionV3().apply)({"params": params}, x)]


def test_reference(path: Path) -> None:
    """All shapes, 64 entries, mean and mean square of each vector; rounding is 1e-6 and 1e-5."""
    with np.load(reference.PATH) as file:
        values = file["values"]
    x = np.concatenate([prepare(image) for image in reference.images()])
    found = apply(read_weights(path), x)
    for i, shape in enumerate(reference.IMAGES):
        for vectors, expected, name in zip(found, values[i], ("pool", "unbiased", "logits")):
            error = np.abs(reference.summary(vectors[i]) - expected).max()
            assert error < 5e-5, f"{name} of {shape}: {error}"


def test_extractor(extractor: Extractor, path: Path) -> None:
    """An image's features do not depend on those beside it.

    The logits are those of the Inception score.
    """
    with np.load(reference.PATH) as file:
        values = file["values"][1]
    image = reference.images()[1]
    found = extractor(np.concatenate([reference.image((28, 28, 1), seed=1), image]))
    assert (
        found.pool.shape == (2, 2048)
        and found.logits is not None
        and found.logits.shape == (2, 1008)
    )
    np.testing.assert_allclose(reference.summary(found.pool[1]), values[0], atol=5e-5)
    np.testing.assert_allclose(reference.summary(found.logits[1]), values[1], atol=5e-5)
    assert np.abs(found.pool[0] - found.pool[1]).max() > 0.01
    assert extractor.identity["extractor"] == "inception"
    assert extractor.checksum == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("shape", reference.IMAGES, ids=str)
def test_torch_fidelity(extractor: Extractor, path: Path, shape: tuple[int, int, int]) -> None:
    """All features and logits, where torch-fidelity is installed."""
    pytest.importorskip("torch_fidelity")
    images = np.concatenate([reference.image(shape, seed) for seed in (1, 2)])
    published = reference.published(["2048", "logits_unbiased"], path)
    found, expected = extractor(images), reference.published_outputs(published, images)
    errors = [float(np.abs(a - b).max()) for a, b in zip(found, expected)]
    print(f"{shape}: largest differences {errors[0]:.1e} (pool), {errors[1]:.1e} (logits)")
    assert max(errors) < 1e-4


def test_prepare_leaves_299_as_it_is() -> None:
    image = reference.image((299, 299, 3))
    np.testing.assert_array_equal(prepare(image), (image.astype(np.float32) - 128) / 128)


def test_prepare_takes_every_second_pixel_of_598() -> None:
    image = reference.image((598, 598, 1))
    expected = np.repeat((image[:, ::2, ::2].astype(np.float32) - 128) / 128, 3, axis=-1)
    np.testing.assert_array_equal(prepare(image), expected)


def test_prepare_interpolates_between_pixels_and_not_beyond_the_last() -> None:
    """3 rows, 2 columns: row i lies at 3 i/299, column j at 2 j/299.

    Behind the last pixel nothing changes.
    """
    image = np.array([[0, 128], [64, 192], [128, 255]], np.uint8)[None, :, :, None]
    rows, columns = np.arange(299) * 3 / 299, np.minimum(np.arange(299) * 2 / 299, 1)
    by_row = [np.interp(rows, range(3), image[0, :, j, 0].astype(float)) for j in range(2)]
    expected = np.outer(by_row[0], 1 - columns) + np.outer(by_row[1], columns)
    found = np.asarray(prepare(image))
    for channel in range(3):
        np.testing.assert_allclose(128 * found[0, :, :, channel] + 128, expected, atol=1e-4)


def test_prepare_single_pixels() -> None:
    assert np.all(np.asarray(prepare(np.full((2, 1, 1, 3), 192, np.uint8))) == 0.5)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((1, 8, 8, 3), np.float32), "8-bit images.*got float32"),
        (np.zeros((1, 8, 8, 3), np.int64), "got int64"),
        (np.zeros((8, 8, 3), np.uint8), r"height, width, 1 or 3\); got shape \(8, 8, 3\)"),
        (np.zeros((1, 8, 8, 4), np.uint8), r"got shape \(1, 8, 8, 4\)"),
        (np.zeros((1, 0, 8, 3), np.uint8), r"got shape \(1, 0, 8, 3\)"),
    ],
)
def test_other_images_are_refused(extractor: Extractor, images: np.ndarray, message: str) -> None:
    with pytest.raises(UserError, match=message):
        extractor.fn(images)


def test_the_number_of_batches_may_be_left_out(state: dict[str, np.ndarray]) -> None:
    without = {
        name: value for name, value in state.items() if not name.endswith("num_batches_tracked")
    }
    assert len(without) < len(state)
    jax.tree.map(np.testing.assert_array_equal, fold(without), fold(state))


NORM = "Mixed_5b.branch1x1.bn.running_var"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({NORM: None}, f"{NORM} is missing"),
        ({"fc.bias": None}, "fc.bias is missing"),
        ({"AuxLogits.fc.bias": np.zeros(1000, np.float32)}, "AuxLogits.fc.bias has no place"),
        ({"fc.weight": np.zeros((1000, 2048), np.float32)}, r"fc.weight has shape \(2048, 1000\)"),
        ({"fc.weight": None, "fc.bias": None, NORM: None}, "missing.*missing.*missing"),
        (
            {NORM: np.full(64, -1, np.float32)},
            "Mixed_5b.branch1x1 are not finite, or a variance is negative",
        ),
        ({"fc.bias": np.full(1008, np.nan, np.float32)}, "fc.bias are not finite"),
        ({"fc.bias": "text"}, "no dictionary of arrays"),
    ],
    ids=["norm", "bias", "auxiliary", "classes", "several", "negative", "nan", "text"],
)
def test_other_weights_are_refused(
    state: dict[str, np.ndarray], tmp_path: Path, change: dict, message: str
) -> None:
    path = tmp_path / "mine.pth"
    write_torch(
        path, {name: value for name, value in (state | change).items() if value is not None}
    )
    with pytest.raises(UserError, match=rf"mine.pth.*{message}(?s:.*)6726825d"):
        inception(path)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none.pth cannot be read: No such file.*--weights"):
        inception(tmp_path / "none.pth")


def test_a_list_is_no_state_dict(tmp_path: Path) -> None:
    write_torch(tmp_path / "list.pth", [1, 2])
    with pytest.raises(UserError, match="no dictionary of arrays"):
        inception(tmp_path / "list.pth")


def test_without_a_file_the_published_one_is_used(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    monkeypatch.setattr(
        module.weight_files, "published", lambda cache: seen.append(cache) or (path, "6726825d00")
    )
    assert inception(cache=path.parent).checksum == "6726825d00" and seen == [path.parent]
