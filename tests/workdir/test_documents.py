"""Damaged and hand-edited small files: what they should say, or an error of ours."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from score_sde.errors import UserError
from score_sde.modes import tune
from score_sde.training.log import MetricsLog
from score_sde.viz.curves import read_metrics
from score_sde.workdir import companion, measurements
from score_sde.workdir import config as configurations
from score_sde.workdir.documents import read_document, write_document
from score_sde.workdir.levels import load_levels, save_levels
from score_sde.workdir.likelihoods import bits_rows
from score_sde.workdir.rows import claim_settings, keep_settings

ROWS = [
    {"metric": "fid", "value": 3.5, "low": 3.0, "high": 4.0, "how": {"samples": 10}},
    {"metric": "loss", "value": 1, "standard_error": None, "how": {}},
]
LEVELS = [{"heldout": 0.5, "train": 0.25, "gap": 0.25, "gap_error": None, "time": 0.1}] * 2
BITS = {"mean": 2.5, "images": 9, "passes": 2, "standard_error": 0.1, "low": 2.0, "high": 3.0}


def config(folder: Path) -> tuple[Path, Callable[[], Any]]:
    path = folder / "config.json"
    configurations.keep(configurations.load("vp/ddpmpp_cont:digits"), path)
    return path, lambda: configurations.load_json(path)


def measured(folder: Path) -> tuple[Path, Callable[[], Any]]:
    measurements.record(folder, 7, ROWS)

    def read() -> Any:
        for row in measurements.read(folder)[7]:
            measurements.line(row)
        measurements.record(folder, 8, ROWS)

    return folder / "eval" / "step_7.json", read


def selection(folder: Path) -> tuple[Path, Callable[[], Any]]:
    path = folder / "eval" / "selection.json"
    path.parent.mkdir()
    path.write_text('{"best": "phema:0.05:20", "metric": "fid", "how": {}}')
    return path, lambda: measurements.best_step(folder)


def levels(folder: Path) -> tuple[Path, Callable[[], Any]]:
    return save_levels(folder, 7, LEVELS, {"images": 9}), lambda: load_levels(folder, 7)


def settings(folder: Path) -> tuple[Path, Callable[[], Any]]:
    path = folder / "settings.json"
    keep_settings(folder, claim_settings(folder, {"rtol": 1e-5, "images": 9}))
    return path, lambda: claim_settings(folder, {"rtol": 1e-5, "images": 9})


def dequantizer(folder: Path) -> tuple[Path, Callable[[], Any]]:
    mine, advice = (
        {"score_checkpoint": 7, "filters": (1, 2)},
        "with --checkpoint {score_checkpoint}",
    )
    companion.claim(folder, mine, advice)
    return folder / "settings.json", lambda: companion.claim(folder, mine, advice)


def summary(folder: Path) -> tuple[Path, Callable[[], Any]]:
    path = folder / "summary.json"
    path.write_text(json.dumps({"step": 7, "bits_per_dim": BITS, "nfe": {"mean": 3.0}}))
    return path, lambda: bits_rows(folder, {})


def trials(folder: Path) -> tuple[Path, Callable[[], Any]]:
    path = folder / "trials.json"
    rows = [{"values": {"sampling.snr": 0.1}, "psnr": 20.0}, {"values": {}, "psnr": None}]
    path.write_text(json.dumps({"trials": rows}))
    return path, lambda: tune._read(folder, "psnr")


KINDS = [config, measured, selection, levels, settings, dequantizer, summary, trials]
OTHERS = [None, True, -1, 0.5, 10**400, "", "x:y", [], {}, [1], {"a": None}, float("nan")]
OTHERS += [float("inf"), "\ud800", "phema:1", "phema:x:y", [[]] * 3]


def mutated(found: Any, random: np.random.Generator) -> Any:
    """With one value of it, at a random place, replaced, removed or put into a list."""
    if not isinstance(found, dict | list) or not found or random.random() < 0.1:
        return OTHERS[random.integers(len(OTHERS))]
    key = list(found)[random.integers(len(found))] if isinstance(found, dict) else 0
    kind = random.random()
    if kind < 0.15:
        del found[key]
    elif kind < 0.25:
        found[key] = [found[key]]
    else:
        found[key] = mutated(found[key], random)
    return found


def texts(whole: str, random: np.random.Generator) -> list[bytes]:
    """Damaged files, as of older versions or edited by hand: without a digest."""
    plain = json.dumps({name: v for name, v in json.loads(whole).items() if name != "digest"})
    made = [json.dumps(mutated(json.loads(plain), random)).encode() for _ in range(40)]
    for _ in range(15):
        data = bytearray(whole.encode())
        data[random.integers(len(data))] ^= 1 << int(random.integers(8))
        made += [bytes(data), whole.encode()[: random.integers(len(whole))]]
    deep = b'{"a": ' * 10**6, b"[" * 10**6 + b"]" * 10**6, b'{"rows": ' + b"[" * 300 + b"]" * 300
    return [*made, *deep, deep[2] + b"}", b"", b"\xff", b"NaN"]


@pytest.mark.parametrize("make", KINDS, ids=lambda make: make.__name__)
def test_damaged_files_give_errors_of_ours(tmp_path: Path, make: Callable) -> None:
    path, read = make(tmp_path)
    read()
    whole, told = path.read_text(), 0
    for text in texts(whole, np.random.default_rng(0)):
        path.write_bytes(text)
        try:
            read()
        except UserError:
            told += 1
    assert told > 20
    path.write_text(whole)
    read()


def test_damaged_metrics_give_errors_of_ours(tmp_path: Path) -> None:
    row = json.dumps({"step": 3, "loss": 0.5, "eval_loss": None})
    random = np.random.default_rng(0)
    for text in texts(row, random):
        (tmp_path / "metrics.jsonl").write_bytes(b'{"step": 1, "loss": 0.5}\n' + text + b"\n")
        for read in (
            lambda: read_metrics(tmp_path / "metrics.jsonl"),
            lambda: MetricsLog(tmp_path, 1, 9, step=3).close(),
        ):
            try:
                read()
            except UserError as error:
                assert "metrics.jsonl" in str(error)


@pytest.mark.parametrize("value", ['"x"', "[1]", "{}", "true"])
def test_rows_of_metrics_hold_numbers_alone(tmp_path: Path, value: str) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(f'{{"step": 1, "loss": null}}\n{{"step": 2, "loss": {value}}}\n')
    with pytest.raises(UserError, match=r"line 2 of .* has 'loss': .* which is no number"):
        read_metrics(path)


def test_lists_of_sections_in_a_configuration_are_named(tmp_path: Path) -> None:
    path, read = config(tmp_path)
    found = json.loads(path.read_text())
    del found["digest"]
    found["model"]["ch_mult"] = [{}, 1]
    path.write_text(json.dumps(found))
    with pytest.raises(UserError, match=r"config\.model has a value that none can have"):
        read()


def test_a_changed_file_is_told_and_an_edit_can_be_meant(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_document(path, {"value": 0.25, "more": (1, float("nan"), "\udc80")})
    wanted = {"value": 0.25, "more": [1, None, "\udc80"]}
    assert read_document(path, {"value": float}, "Remove it.") == wanted
    found = json.loads(path.read_text())
    path.write_text(json.dumps(dict(reversed(found.items()))))  # blanks and order mean nothing
    assert read_document(path, {}, "Remove it.") == wanted
    path.write_text(json.dumps(found | {"value": 0.5}))
    with pytest.raises(UserError, match=r"a.json is damaged .*not as it was written.*`digest`"):
        read_document(path, {}, "Remove it.")
    del found["digest"]  # as its message says; older files have none
    path.write_text(json.dumps(found | {"value": 0.5}))
    assert read_document(path, {}, "Remove it.")["value"] == 0.5


def test_the_place_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    like: dict[str, Any] = {"rows": [{"value": float, "how?": dict}], "best?": (int, str)}
    whole = {"rows": [{"value": 1, "how": {}}, {"value": 0.5}], "best": 3, "more": [None]}
    path.write_text(json.dumps(whole))
    assert read_document(path, like, "Remove it.") == whole
    changes: list[tuple[Any, str]] = [
        (("rows", 1, "value", True), "`rows`, number 1, `value` is true, not a number"),
        (("rows", 0, "how", []), r"`rows`, number 0, `how` is \[\], not an object"),
        (("best", None), "`best` is null, not an integer or a text"),
        (("rows", {}), "`rows` is {}, not a list"),
    ]
    for (*place, value), message in changes:
        other = copy.deepcopy(whole)
        inner: Any = other
        for key in place[:-1]:
            inner = inner[key]
        inner[place[-1]] = value
        path.write_text(json.dumps(other))
        with pytest.raises(UserError, match=rf"{path} is damaged \(.*{message}\)\. Remove it"):
            read_document(path, like, "Remove it.")
