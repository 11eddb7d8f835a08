"""Whose a working directory is, and whether it can be written to."""

import os

import pytest

from score_sde.errors import UserError
from score_sde.files import writing
from score_sde.workdir import config as configurations
from score_sde.workdir.folder import check_weights, check_writable, claim, result_folder
from score_sde.workdir.lock import released

RECIPE = "vp/ddpmpp_cont:digits"


def test_what_changes_neither_weights_nor_order_may_change_between_starts(tmp_path) -> None:
    settings = configurations.load(RECIPE)
    claim(tmp_path, settings)
    for entry, text in {
        "quality.num_samples": "7",
        "quality.extractor": "pixels",
        "training.quality_every": "7",
        "training.quality_samples": "7",
        "training.steps": "7",
        "training.keep": "7",
        "training.eval_every": "7",
        "sampling.snr": ".5",
        "eval.rtol": ".5",
        "dequantizer.filters": "8",
        "data.path": "elsewhere",
        "data.in_memory": "False",
        "model.remat": "True",
    }.items():
        claim(tmp_path, configurations.override(settings, [(entry, text)]))


@pytest.mark.parametrize(
    ("entry", "text"),
    [
        ("training.batch_size", "32"),
        ("optim.lr", "0.5"),
        ("data.source", "mnist"),
        ("data.random_flip", "True"),
        ("model.nf", "16"),
        ("model.dropout", "0.5"),
        ("sde.beta_max", "10"),
        ("seed", "7"),
        ("training.ema_rate", "0.5"),
        ("training.from", "runs/other"),
    ],
)
def test_a_directory_belongs_to_one_configuration(tmp_path, entry: str, text: str) -> None:
    settings = configurations.load(RECIPE)
    claim(tmp_path, settings)
    changed = configurations.override(settings, [(entry, text)])
    with pytest.raises(UserError, match=rf"{entry}: .* there, .* here.*training.from={tmp_path}"):
        claim(tmp_path, changed)
    assert configurations.load_json(tmp_path / "config.json") == settings


def test_weights_belong_to_a_process_a_network_and_a_range(tmp_path) -> None:
    settings = configurations.load(RECIPE)
    claim(tmp_path, settings)
    for entry, text in {"model.dtype": "bfloat16", "optim.lr": ".5", "sampling.steps": "7"}.items():
        check_weights(tmp_path, configurations.override(settings, [(entry, text)]))
    for entry, text in {
        "model.nf": "16",
        "sde.beta_max": "10.0",
        "data.centered": "False",
        "data.levels": "256",
        "data.image_size": "16",
    }.items():
        with pytest.raises(UserError, match=rf"config.{entry}={text} does not fit the weights"):
            check_weights(tmp_path, configurations.override(settings, [(entry, text)]))


def test_places_that_cannot_be_written_are_refused_and_nothing_is_made(
    tmp_path, monkeypatch
) -> None:
    check_writable(tmp_path)
    check_writable(tmp_path / "new" / "deep")
    with released():
        found = result_folder(None, tmp_path, "encode_step_3")
    assert found == tmp_path / "flow" / "encode_step_3"
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        wanted = rf"cannot write to {folder} \(.*file is a file\); .*--output"
        with pytest.raises(UserError, match=wanted):
            check_writable(folder)
        with pytest.raises(UserError, match=wanted):
            result_folder(folder, tmp_path, "encode_step_3")
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(UserError, match="no permission to write into"):
        check_writable(tmp_path / "new")


def test_errors_of_writing_say_what_to_do(tmp_path) -> None:
    wanted = rf"cannot write to {tmp_path} \(No space.*\); make room"
    with pytest.raises(UserError, match=wanted), writing(tmp_path, "make room"):
        raise OSError(28, "No space left on device")


def test_a_failure_to_write_is_a_message(tmp_path) -> None:
    (tmp_path / "latents.npz").mkdir()
    with pytest.raises(UserError, match=r"cannot write to .*Is a directory"), writing(tmp_path):
        (tmp_path / "latents.npz").write_bytes(b"")
