"""What the page does, without the page: samples, masks, uploads, images, checkpoints."""

import json
import shutil
import threading
from pathlib import Path

import jax
import numpy as np
import pytest
from app.conftest import ENTRIES
from PIL import Image
from runs import call, random_run

from score_sde.app import choices, history, markup, tasks
from score_sde.app.device import Device, Ticket
from score_sde.app.history import Entry
from score_sde.app.runs import Runs
from score_sde.data import digits, take
from score_sde.errors import UserError


def read(path: Path) -> dict[str, np.ndarray]:
    with np.load(path) as file:
        return dict(file)


@pytest.fixture(scope="module")
def runs(folder: Path) -> Runs:
    return Runs(folder)


def done(work) -> Entry:
    """The result of a piece of work, done in this thread."""
    ticket = Ticket("test", work)
    ticket.do()
    assert ticket.state == "done", ticket.error
    return ticket.result


SAMPLES = tasks.Sampling("first", 20, "ddim", 5, number=32, seed=3)


def test_runs_are_known_by_names_below_their_folder(runs: Runs, folder: Path) -> None:
    assert set(runs.names()) == {"first", "group/chain"}
    about = runs.about("first")
    assert about.shape == (8, 8, 1) and about.levels == 17 and about.continuous
    assert not runs.about("group/chain").continuous
    for name in ("..", "../runs/first", str(folder / "first"), "group", "first/checkpoints"):
        with pytest.raises(UserError, match="there is no run"):
            runs.folder(name)
    assert Runs(folder / "first").names() == ["."]


def test_samples_are_those_of_the_mode(runs: Runs, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    ticket = Ticket("t", lambda ticket: tasks.sample(runs, ticket, SAMPLES))
    told = ticket.watch
    ticket.watch = lambda progress: (seen.append(progress[:2]), told(progress))[1]
    ticket.do()
    entry = ticket.result
    assert ticket.look() is not None
    assert seen[0] == (0, 8) and seen[-1] == (8, 8)  # 4 steps of 2 batches
    found, how = (read(entry.folder / "samples.npz"), entry.folder / "sampling.json")
    values = {"sampling.predictor": "ddim", "sampling.grid": "log_snr", "sampling.frames": 4}
    values |= {"seed": 3, "sampling.num_samples": 32, "sampling.batch_size": 16}
    call("sample", runs.folder("first"), values=values, checkpoint="20")
    again = read(runs.folder("first") / "samples" / "step_20" / "samples.npz")
    np.testing.assert_array_equal(found["images"], again["images"])
    assert json.loads(how.read_text())["evaluations"] == 5 and (found["evaluations"] == 5).all()


def test_programs_stay_warm_and_seeds_count(runs: Runs) -> None:
    first = done(lambda ticket: tasks.sample(runs, ticket, SAMPLES))
    run = runs.get("first", choices.with_sampler(*_with(runs)))
    compiled = run.kept[("draw", True)]._advance._cache_size()
    assert compiled == 1
    other = done(lambda ticket: tasks.sample(runs, ticket, SAMPLES._replace(seed=4, step=10)))
    same = done(lambda ticket: tasks.sample(runs, ticket, SAMPLES))
    assert run.kept[("draw", True)]._advance._cache_size() == compiled
    images = [read(entry.folder / "samples.npz")["images"] for entry in (first, other, same)]
    np.testing.assert_array_equal(images[0], images[2])
    assert (images[0] != images[1]).any()


def test_weights_are_shared_by_settings_and_follow_their_files(
    runs: Runs, folder: Path, tmp_path: Path
) -> None:
    own, other = runs.get("first"), runs.get("first", choices.with_sampler(*_with(runs)))
    assert own is not other and own.kept is not other.kept
    assert own.weights(20)[0] is other.weights(20)[0] is own.weights()[0]
    assert own.weights(10)[0] is not own.weights(20)[0]
    shutil.copytree(folder / "first", tmp_path / "first")
    copied = Runs(tmp_path)
    before = jax.tree.leaves(copied.get("first").weights(20)[0])
    shutil.rmtree(tmp_path / "first" / "checkpoints")
    random_run(tmp_path / "first", "vp/ddpmpp_cont:digits", ENTRIES, steps=(20,), scale=0.05)
    after = jax.tree.leaves(copied.get("first").weights(20)[0])
    np.testing.assert_allclose(np.asarray(after[0]), 2.5 * np.asarray(before[0]), rtol=1e-6)


def _with(runs: Runs):
    return runs.settings("first"), runs.get("first").experiment, "ddim", 5


def test_a_stopped_piece_of_work_ends_and_leaves_nothing(runs: Runs) -> None:
    device, begun, asked = Device(), threading.Event(), SAMPLES._replace(number=1024)

    def work(ticket: Ticket) -> Entry:
        watch = ticket.watch
        ticket.watch = lambda progress: (progress.done and begun.set(), watch(progress))[1]
        return tasks.sample(runs, ticket, asked)

    before = len(history.entries(runs.folder("first"), "sample", 1000))
    # the queue watches the ticket as it is when the work begins
    ticket = device.submit("many", lambda ticket: _watched(ticket, work))
    waiting = device.submit("other", lambda ticket: tasks.sample(runs, ticket, SAMPLES))
    assert begun.wait(120)
    assert device.ahead(waiting) == 1 and device.busy() == ["many", "other"]
    waiting.cancel()
    ticket.cancel()
    assert ticket.ended.wait(60) and waiting.ended.wait(60)
    assert (ticket.state, waiting.state) == ("stopped", "stopped")
    assert 0 < ticket.progress.done < ticket.progress.total
    assert len(history.entries(runs.folder("first"), "sample", 1000)) == before


def _watched(ticket: Ticket, work):
    """As `Device` does it, with the watcher that the work itself puts there."""
    from score_sde.parallel.loop import watching

    with watching(lambda progress: ticket.watch(progress)):
        return work(ticket)


def test_errors_become_sentences(runs: Runs, capsys) -> None:
    device = Device()
    wrong = SAMPLES._replace(evaluations=0)
    ticket = device.submit("x", lambda ticket: tasks.sample(runs, ticket, wrong))
    assert ticket.ended.wait(60) and ticket.state == "failed"
    assert "Evaluations must be a whole number from 1" in ticket.error
    ticket = device.submit("x", lambda ticket: 1 / 0)
    assert ticket.ended.wait(60) and "error of the program" in ticket.error
    assert "ZeroDivisionError" in capsys.readouterr().err and "Zero" not in ticket.error
    for changed in ({"sampler": "none"}, {"seed": -1}, {"number": 1.5}, {"run": "../x"}):
        ticket = Ticket("x", lambda t, c=changed: tasks.sample(runs, t, SAMPLES._replace(**c)))
        ticket.do()
        assert ticket.state == "failed" and "error of the program" not in ticket.error


def test_a_painted_mask_is_filled_in(runs: Runs) -> None:
    image = tasks.heldout_image(runs.get("first"), 5)
    known = np.ones((8, 8), bool)
    known[2:5, 3:7] = False
    text = "".join("01"[int(pixel)] for pixel in known.ravel())
    np.testing.assert_array_equal(markup.read_mask(text, (8, 8, 1)), known)
    asked = tasks.Filling("first", None, image, known, evaluations=4, copies=2)
    entry = done(lambda ticket: tasks.fill(runs, ticket, asked))
    found = read(entry.folder / "reconstruction.npz")
    np.testing.assert_array_equal(found["known"][..., 0], known)
    original = take(digits("test"), np.asarray([5]))["image"][0] / 16
    np.testing.assert_allclose(
        found["images"][0][:, known], np.stack([original[known]] * 2), 0, 1e-5
    )
    assert entry.pictures[0].file == "grid.png" and dict(entry.told)["evaluations for a sample"]


@pytest.mark.parametrize("text", ["", "1" * 64, "0" * 64, "1" * 63, "2" * 64])
def test_masks_that_say_nothing(text: str) -> None:
    with pytest.raises(UserError, match=r"painted|size of the image"):
        markup.read_mask(text, (8, 8, 1))


def test_a_chain_fills_in_by_its_own_sampler(runs: Runs) -> None:
    image = tasks.heldout_image(runs.get("group/chain"), 5)
    asked = tasks.Filling("group/chain", None, image, "top", copies=2)
    entry = done(lambda ticket: tasks.fill(runs, ticket, asked))
    found = read(entry.folder / "inpaint.npz")
    assert found["images"].shape == (1, 2, 8, 8, 1)
    assert (found["images"][0, :, :4] == found["originals"][:, :4]).all()


def test_uploads_go_through_the_reader_of_the_library(runs: Runs, tmp_path: Path) -> None:
    run = runs.get("first")
    good = take(digits("test"), np.arange(2))["image"]
    Image.fromarray(np.rint(good[0, ..., 0] * (255 / 16)).astype(np.uint8)).save(tmp_path / "a.png")
    found = tasks.choose_image(run, tmp_path / "a.png")
    np.testing.assert_array_equal(found.values, good[:1])
    np.savez(tmp_path / "b.npz", images=good)
    assert len(tasks.choose_image(run, tmp_path / "b.npz").values) == 1
    (tmp_path / "c.png").write_bytes(b"<html>no image</html>")
    Image.new("L", (9, 8)).save(tmp_path / "d.png")
    (tmp_path / "e.png").write_bytes(b"")
    Image.new("RGB", (8, 8), "red").save(tmp_path / "f.png")
    said = {"c": "not a readable image", "d": "8 x 9 pixels", "e": "empty", "f": "in colour"}
    for name, words in said.items():
        with pytest.raises(UserError, match=words) as refused:
            tasks.choose_image(run, tmp_path / f"{name}.png")
        assert str(tmp_path) not in str(refused.value)
    with pytest.raises(UserError, match=r"Number of the image must be .* 0 to 359"):
        tasks.heldout_image(run, 360)


def test_an_image_is_examined(runs: Runs) -> None:
    run = runs.get("first")
    copy = tasks.heldout_image(run, 0)._replace(values=take(digits("train"), [7])["image"])
    asked = tasks.Examining("first", 20, copy)
    entry = done(lambda ticket: tasks.examine(runs, ticket, asked))
    told = dict(entry.told)
    assert "bits/dim" in told["likelihood"] and "±" in told["likelihood"]
    assert told["nearest training images"].startswith("0, ") and "1,437" in entry.told[-1][1]
    assert "all levels come back" in told["round trip"] or "other levels" in told["round trip"]
    assert [picture.file for picture in entry.pictures] == ["round_trip.png", "nearest.png"]
    chain = tasks.Examining("group/chain", None, copy)
    assert "has neither" in done(lambda ticket: tasks.examine(runs, ticket, chain)).told[0][1]


def test_reconstruction_and_comparison(runs: Runs) -> None:
    image = tasks.heldout_image(runs.get("first"), 5)
    asked = tasks.Reconstructing("first", 20, image, "superresolve", "ddnm", 4, 0.0, 4, 2)
    entry = done(lambda ticket: tasks.restore(runs, ticket, asked))
    found = read(entry.folder / "reconstruction.npz")
    assert found["y"].size == 4 and "dB" in dict(entry.told)["PSNR of the mean"]
    asked = tasks.Comparing((("first", 10), ("first", 20)), "ddim", 5, 16, 3)
    entry = done(lambda ticket: tasks.compare(runs, ticket, asked))
    assert [picture.caption for picture in entry.pictures] == ["first, step 10", "first, step 20"]
    assert all(entry.path(picture).exists() for picture in entry.pictures)
    alone = Ticket("x", lambda ticket: tasks.compare(runs, ticket, asked._replace(checkpoints=())))
    alone.do()
    assert "choose 2 to 6" in alone.error
