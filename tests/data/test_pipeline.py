"""The pipeline: every example once an epoch, any number of processes, exact resumption."""

import json

import numpy as np
import pytest

from score_sde.data import ArraySource, Batch, FolderSource, Mapped, digits
from score_sde.data.pipeline import Batches, read
from score_sde.data.pixels import PixelRange
from score_sde.errors import UserError

RNG = np.random.default_rng(0)
PIXELS = PixelRange()
COUNT = 23
SOURCE = ArraySource(RNG.integers(0, 256, (COUNT, 4, 6, 3), np.uint8), np.arange(COUNT) % 5)


def batches(*arguments, threads=None, prefetch=4, **options):
    return read(Batches(*arguments, **options), threads, prefetch)


def pull(iterator, count):
    return [next(iterator) for _ in range(count)]


def joined(parts, key):
    return np.concatenate([getattr(part, key) for part in parts])


def assert_same(a, b):
    assert len(a) == len(b)
    for x, y in zip(a, b, strict=True):
        assert isinstance(x, Batch) and x.given == y.given == ()
        for one, other in zip(x[:3], y[:3], strict=True):
            assert one.dtype == other.dtype
            np.testing.assert_array_equal(one, other)


def test_batches_hold_the_encoded_images():
    pixels = PixelRange(low=-1.0)
    for train in (True, False):
        batch = next(batches(SOURCE, pixels, 8, seed=0, train=train, flip=False))
        assert tuple(array.dtype for array in batch[:3]) == ("f4", "i4", "i4")
        assert batch.image.shape == (8, 4, 6, 3)
        np.testing.assert_array_equal(batch.image, pixels.encode(SOURCE.images[batch.index]))
        np.testing.assert_array_equal(batch.label, SOURCE.labels[batch.index])


@pytest.mark.parametrize("train", [False, True])
def test_a_batch_is_a_function_of_its_number(train):
    plan = Batches(SOURCE, PIXELS, 4, 7, train, dequantize=True)
    assert_same([plan[k] for k in (3, 0, 2)], [pull(read(plan), 4)[k] for k in (3, 0, 2)])
    assert train or len(plan) == 6


@pytest.mark.parametrize("batch_size", [1, 7, 23, 50])
def test_each_epoch_sees_every_example_once_in_a_new_order(batch_size):
    stream = joined(
        pull(batches(SOURCE, PIXELS, batch_size, 3, train=True), 1 + 92 // batch_size), "index"
    )
    epochs = stream[: 4 * COUNT].reshape(4, COUNT)
    for epoch in epochs:
        assert sorted(epoch) == list(range(COUNT))
    assert len({tuple(epoch) for epoch in epochs}) == 4
    assert tuple(epochs[0]) != tuple(range(COUNT))


def test_evaluation_is_one_pass_in_order_and_keeps_the_last_partial_batch():
    parts = list(batches(SOURCE, PIXELS, 8, 0, train=False))
    assert [len(part.index) for part in parts] == [8, 8, 7]
    np.testing.assert_array_equal(joined(parts, "index"), np.arange(COUNT))
    np.testing.assert_array_equal(
        joined(parts, "image"), PIXELS.encode(SOURCE.images)
    )  # never flipped


@pytest.mark.parametrize("dequantize", [False, True])
@pytest.mark.parametrize("train", [False, True])
def test_batches_do_not_depend_on_the_number_of_processes(train, dequantize):
    def run(index, count):
        process = {"process_index": index, "process_count": count}
        iterator = batches(SOURCE, PIXELS, 12, 5, train, dequantize=dequantize, **process)
        return pull(iterator, 5) if train else list(iterator)

    whole = run(0, 1)
    for count in (2, 3, 4, 12):
        parts = [run(index, count) for index in range(count)]
        assert {len(part) for part in parts} == {len(whole)}
        assert parts[0][0].index.shape == (12 // count,)
        names = ("image", "label", "index")
        steps = [Batch(*(joined(step, n) for n in names)) for step in zip(*parts, strict=True)]
        assert_same(steps, whole)


def test_a_process_may_get_an_empty_last_part():
    source = ArraySource(SOURCE.images[:9])
    parts = [
        list(batches(source, PIXELS, 4, 0, False, process_index=i, process_count=4))
        for i in range(4)
    ]
    assert [[len(batch.index) for batch in part] for part in parts] == [
        [1, 1, 0],
        [1, 1, 0],
        [1, 1, 0],
        [1, 1, 1],
    ]
    assert parts[0][2].image.shape == (0, 4, 6, 3)


@pytest.mark.parametrize("threads", [0, 1, 3])
@pytest.mark.parametrize("train", [False, True])
def test_restored_state_continues_bit_for_bit(train, threads):
    def fresh():
        return batches(SOURCE, PIXELS, 4, 7, train, dequantize=True, threads=threads)

    whole = pull(fresh(), 6)
    for k in range(5):
        first = fresh()
        pull(first, k)
        state = json.loads(json.dumps(first.get_state()))
        second = fresh()
        pull(second, 2)  # wherever it stands
        second.set_state(state)
        assert_same(pull(second, 6 - k), whole[k:])
        assert_same(pull(first, 6 - k), whole[k:])


def test_the_number_of_threads_does_not_matter():
    runs = [
        pull(batches(SOURCE, PIXELS, 4, 7, True, dequantize=True, threads=n, prefetch=2), 8)
        for n in (0, 1, 4)
    ]
    assert_same(runs[0], runs[1])
    assert_same(runs[0], runs[2])


def test_seeds_differ_in_order_flips_and_noise():
    def run(seed, count=6, **options):
        return pull(batches(SOURCE, PIXELS, COUNT, seed, True, **options), count)

    orders = {tuple(batch.index) for seed in range(5) for batch in run(seed)}
    assert len(orders) == 30  # no seed repeats another's epochs
    images = [
        Batches(SOURCE, PIXELS, COUNT, s, False, dequantize=True)[0].image * 256 % 1 for s in (0, 1)
    ]
    assert abs(np.corrcoef(images[0].ravel(), images[1].ravel())[0, 1]) < 0.1
    assert_same(run(2), run(2))


def test_half_of_the_images_are_mirrored_left_to_right():
    flips = []
    for batch in pull(batches(SOURCE, PIXELS, 50, 0, train=True), 40):
        plain = PIXELS.encode(SOURCE.images[batch.index])
        mirrored = plain[:, :, ::-1]
        is_plain = (batch.image == plain).all((1, 2, 3))
        is_mirrored = (batch.image == mirrored).all((1, 2, 3))
        assert (is_plain ^ is_mirrored).all()
        flips.append(is_mirrored)
    rate = np.mean(flips)
    assert abs(rate - 0.5) < 4 * 0.5 / np.sqrt(2000)
    assert len({tuple(flip) for flip in flips}) == 40


def test_flipping_leaves_the_source_alone():
    class Views(ArraySource):
        def take(self, indices):
            return {
                "image": self.images,
                "label": self.labels,
                "index": np.arange(len(self), dtype=np.int32),
            }

    before = SOURCE.images.copy()
    pull(batches(Views(SOURCE.images), PIXELS, COUNT, 0, train=True), 3)
    np.testing.assert_array_equal(SOURCE.images, before)


@pytest.mark.parametrize("train", [False, True])
def test_dequantization_is_uniform_in_the_cell(train):
    source = digits("test")
    pixels = PixelRange(17, -1.0, 1.0)
    noise = []
    for batch in pull(batches(source, pixels, 60, 0, train, flip=False, dequantize=True), 6):
        assert batch.image.dtype == np.float32
        cell = (batch.image.astype(np.float64) + 1) / 2 * 17
        noise.append(cell - source.images[batch.index])
    noise = np.stack(noise)
    tolerance = 1e-5  # float32
    assert noise.min() > -tolerance
    assert noise.max() < 1 + tolerance
    assert noise.mean() == pytest.approx(0.5, abs=4 / np.sqrt(12 * noise.size))
    assert noise.var() == pytest.approx(1 / 12, rel=0.02)
    rows = noise.reshape(360, 64)
    assert (
        abs(np.corrcoef(rows)[~np.eye(360, dtype=bool)]).max() < 0.8
    )  # every image has its own noise
    assert len(np.unique(rows[:, 0].round(6))) > 350


def test_evaluation_noise_is_the_same_in_every_batching():
    a = joined(list(batches(SOURCE, PIXELS, 5, 0, False, dequantize=True)), "image")
    b = joined(list(batches(SOURCE, PIXELS, 23, 0, False, dequantize=True)), "image")
    np.testing.assert_array_equal(a, b)


def test_a_source_needs_only_length_and_items(tmp_path):
    class Ramp:
        shape = (2, 2, 1)
        levels = 256
        name = "ramp"

        def __len__(self):
            return 10

        def __getitem__(self, i):
            return {
                "image": np.full((2, 2, 1), i, np.uint8),
                "label": np.int32(0),
                "index": np.int32(i),
            }

    for batch in pull(batches(Ramp(), PIXELS, 4, 0, train=True), 5):
        np.testing.assert_array_equal(PIXELS.decode(batch.image)[:, 0, 0, 0], batch.index)


def test_images_of_a_folder_arrive(tmp_path):
    from PIL import Image

    for i in range(4):
        Image.fromarray(np.full((5, 5), 10 * i, np.uint8)).save(tmp_path / f"{i}.png")
    source = FolderSource(tmp_path, split="all")
    (batch,) = batches(source, PIXELS, 4, 0, train=False)
    np.testing.assert_array_equal(PIXELS.decode(batch.image)[:, 2, 2, 0], [0, 10, 20, 30])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"source": ArraySource(np.zeros((0, 2, 2), np.uint8), name="void")}, "'void' is empty"),
        (
            {"pixel_range": PixelRange(17)},
            r"has 256 levels, but the pixel range has 17; .*levels=256",
        ),
        ({"batch_size": 10, "process_count": 4}, r"got batch_size=10 with 4 process"),
        ({"batch_size": 0}, "got batch_size=0"),
        ({"process_index": 2, "process_count": 2}, "process_index=2, process_count=2"),
        ({"seed": -1}, "must not be negative; got seed=-1"),
    ],
)
def test_impossible_requests_are_refused(arguments, message):
    defaults = {"source": SOURCE, "pixel_range": PIXELS, "batch_size": 4, "seed": 0, "train": True}
    with pytest.raises(UserError, match=message):
        Batches(**{**defaults, **arguments})


def test_images_of_different_sizes_are_refused():
    source = Mapped(SOURCE, lambda image: image, (4, 6, 3))
    source.shape = None
    with pytest.raises(UserError, match="different sizes and cannot share a batch"):
        Batches(source, PIXELS, 4, 0, train=True)
