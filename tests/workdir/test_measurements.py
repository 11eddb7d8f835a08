"""What has been measured: kept by checkpoint, compared like with like.

The best checkpoint is the best by the right metric.
"""

from pathlib import Path

import pytest

from score_sde.errors import UserError
from score_sde.workdir import measurements
from score_sde.workdir.documents import read_document


def row(metric: str, value: float, how: dict | None = None, **more) -> dict:
    return {
        "metric": metric,
        "value": value,
        **more,
        "how": {"samples": 40} if how is None else how,
    }


def recorded(workdir: Path, found: dict[int, list[dict]]) -> Path:
    for step, rows in found.items():
        measurements.record(workdir, step, rows)
    return workdir


@pytest.fixture
def drawn(monkeypatch) -> dict:
    """{file name: (curve, label, best step)} of the pictures, which are not drawn."""
    found: dict = {}

    def intervals(curves, label, path, best=None):
        found[path.name] = (*curves.values(), label, best)

    monkeypatch.setattr(measurements.viz, "intervals", intervals)
    return found


def test_the_same_measurement_replaces_and_others_lie_beside(tmp_path):
    recorded(tmp_path, {20: [row("fid", 3.0), row("kid", 1.0)], 3: [row("fid", 9.0)]})
    recorded(tmp_path, {20: [row("fid", 2.0), row("fid", 5.0, {"samples": 80})]})
    found = measurements.read(tmp_path)
    assert list(found) == [3, 20]  # numbers, not words
    kept = [(each["metric"], each["value"], each["how"]["samples"]) for each in found[20]]
    assert kept == [("kid", 1.0, 40), ("fid", 2.0, 40), ("fid", 5.0, 80)]
    (tmp_path / "eval" / "step_20_old.json").write_text("moved away")
    assert list(measurements.read(tmp_path)) == [3, 20]
    (tmp_path / "eval" / "step_3.json").write_text('{"rows": ')
    with pytest.raises(
        UserError, match=r"step_3.json is damaged .*Remove it; --mode eval makes it again"
    ):
        measurements.read(tmp_path)


@pytest.mark.parametrize(
    ("metric", "best"),
    [
        *((name, 10) for name in ("fid", "kid", "loss", "bits_per_dim", "bound_bits_per_dim")),
        *((name, 20) for name in ("is", "precision", "recall", "density", "coverage")),
    ],
)
def test_less_is_better_or_more_is(tmp_path, drawn, metric, best):
    recorded(tmp_path, {10: [row(metric, 0.25)], 20: [row(metric, 0.5)]})
    assert measurements.compare(tmp_path, [row(metric, 0.5)], [10, 20, 30]) == {metric: best}
    assert drawn[f"{metric}.png"][-1] == best


def test_like_is_compared_with_like(tmp_path, drawn, capsys):
    few = {"samples": 8}
    recorded(tmp_path, {10: [row("fid", 3.0), row("fid", 1.0, few)], 20: [row("fid", 2.0)], 30: []})
    assert measurements.compare(tmp_path, [row("fid", 2.0)], [10, 20, 30]) == {"fid": 20}
    assert capsys.readouterr().out.splitlines() == [
        "FID:",
        "  checkpoint        10  FID 3",
        "  checkpoint        20  FID 2  <- best",
    ]
    none = {"mean": 2.0, "low": 2.0, "high": 2.0}
    assert drawn == {"fid.png": ({10: none | dict.fromkeys(none, 3.0), 20: none}, "FID", 20)}
    assert measurements.compare(tmp_path, [row("fid", 1.0, few)], [10, 20, 30]) == {
        "fid": 10
    }  # nothing to draw
    assert len(drawn) == 1 and not capsys.readouterr().out


def test_pictures_show_the_interval_or_two_standard_errors(tmp_path, drawn):
    interval = row("fid", 2.0, low=1.5, high=2.25, standard_error=0.1)
    recorded(tmp_path, {10: [interval, row("kid", 2.0, standard_error=0.1)]})
    recorded(tmp_path, {20: [row("fid", 3.0), row("kid", 3.0, standard_error=None)]})
    measurements.compare(tmp_path, [row("fid", 3.0), row("kid", 3.0)], [10, 20, 30])
    assert drawn["fid.png"][0][10] == {"mean": 2.0, "low": 1.5, "high": 2.25}
    assert drawn["kid.png"][0] == {
        10: {"mean": 2.0, "low": 1.8, "high": 2.2},
        20: {"mean": 3.0, "low": 3.0, "high": 3.0},
    }


ORDER = (
    *("fid", "kid", "is", "precision", "recall", "density", "coverage"),
    *("bits_per_dim", "bound_bits_per_dim", "loss"),
)


@pytest.mark.parametrize("first", range(len(ORDER)))
def test_samples_decide_before_likelihoods_and_those_before_losses(tmp_path, drawn, capsys, first):
    """The deciding metric says 20, each of the others 10."""
    chosen, *others = ORDER[first:]

    def value(metric: str, good: bool) -> float:
        return float(good if measurements.KNOWN[metric].higher else not good)

    found = {
        step: [row(name, value(name, step == 10)) for name in reversed(others)]
        + [row(chosen, value(chosen, step == 20))]
        for step in (10, 20)
    }
    recorded(tmp_path, found)
    measurements.choose(tmp_path, found[10] + found[20], [10, 20])
    assert measurements.best_step(tmp_path) == 20
    kept = read_document(tmp_path / "eval" / "selection.json", {}, "")
    assert kept == {"best": 20, "metric": chosen, "how": {"samples": 40}}
    said = capsys.readouterr().out
    assert f"--checkpoint best is now 20, by {measurements.label(chosen)}. Use it: " in said
    assert f"--mode sample --workdir {tmp_path} --checkpoint best" in said


def test_the_best_is_a_checkpoint_that_is_there(tmp_path, capsys):
    """The curve shows those that are gone too."""
    found = {10: [row("fid", 1.0)], 20: [row("fid", 3.0)], 30: [row("fid", 2.0)]}
    recorded(tmp_path, found)
    measurements.choose(tmp_path, found[20] + found[30], steps=[20, 30])
    assert measurements.best_step(tmp_path) == 30
    said = capsys.readouterr().out
    assert "checkpoint        10  FID 1\n" in said
    assert "checkpoint        30  FID 2  <- best" in said


def test_of_nothing_nothing_is_chosen(tmp_path):
    measurements.choose(tmp_path, [], [10, 20])
    assert not list(tmp_path.iterdir())


def test_without_a_choice_there_is_no_best(tmp_path):
    assert measurements.best_step(tmp_path) is None


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({}, "0.12346"),
        ({"standard_error": 0.0123}, "0.12346 +- 0.012 (standard error)"),
        ({"standard_error": None}, "0.12346"),
        ({"standard_deviation": 0.0123}, "0.12346 +- 0.012 (standard deviation)"),
        ({"standard_error": 0.1, "low": 0.12, "high": 0.34}, "0.12346, 95% interval 0.12 .. 0.34"),
    ],
)
def test_numbers_in_words(more, words):
    assert measurements.number(row("kid", 0.1234567, **more)) == words
    assert measurements.line(row("bits_per_dim", 0.1234567, **more)) == f"bits per dim {words}"


def test_what_a_measurement_depends_on_is_told_without_checksums():
    how = {
        "samples": 40,
        "seeds": 1,
        "seed": 42,
        "sampling": "0a1b",
        "extractor": "pixels",
        "checksum": "815c",
    }
    told = measurements.told(row("is", 2.5, how, standard_deviation=0.5))
    assert told == (
        "Inception score (samples: 40, seeds: 1, extractor: pixels)",
        "2.5 +- 0.5 (standard deviation)",
    )


@pytest.mark.parametrize("text", ["", '{"best": ', "{}", '{"best": "first"}', "[]"])
def test_a_damaged_choice_is_said(tmp_path, text):
    (tmp_path / "eval").mkdir()
    (tmp_path / "eval" / "selection.json").write_text(text)
    with pytest.raises(
        UserError, match=r"selection.json is damaged .*Remove it; --mode select makes it again"
    ):
        measurements.best_step(tmp_path)
