"""--mode likelihood and summarize: rows, shards, kills, refusals."""

import json
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from commands import entries, refused, start, table
from PIL import Image
from runs import call

from score_sde.data import digits


def test_likelihood_writes_one_row_for_each_image_and_pass(evaluated: Path) -> None:
    folder = evaluated / "eval" / "likelihood_test_step_20"
    rows = table(folder)
    np.testing.assert_array_equal(rows["index"], np.tile(np.arange(20), 2))
    np.testing.assert_array_equal(rows["pass"], np.repeat([0, 1], 20))
    np.testing.assert_array_equal(rows["label"][:20], digits("test").labels[:20])
    offset = np.log2(17) - 1  # 17 levels over the range [-1, 1]
    bits_per_dim = -rows["logp"] / (64 * np.log(2)) + offset
    np.testing.assert_allclose(rows["bits_per_dim"], bits_per_dim, rtol=1e-5)
    assert (rows["nfe"] > 6).all() and rows["success"].all()
    # Other dequantization noise in each pass.
    assert np.abs(rows["logp"][:20] - rows["logp"][20:]).min() > 1e-3
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["bits_per_dim"]["mean"] == pytest.approx(rows["bits_per_dim"].mean())
    assert summary["bound_bits_per_dim"]["images"] == 20
    assert summary["nfe"]["max"] == rows["nfe"].max()
    for name in ("histogram", "most_likely", "least_likely"):
        assert Image.open(folder / f"{name}.png").size[0] > 100


def test_a_sweep_with_shards_and_a_kill_gives_the_same_rows(
    evaluated: Path, tmp_path: Path, bits: dict[str, float], capsys: pytest.CaptureFixture
) -> None:
    """Killed in the second checkpoint; the same command computes what is missing, nothing else."""
    workdir = tmp_path / "run"
    shutil.copytree(evaluated, workdir, ignore=shutil.ignore_patterns("likelihood*"))
    first, second = (workdir / "eval" / f"likelihood_test_step_{step}" for step in (10, 20))
    sweep = ["--mode", "likelihood", "--workdir", workdir, "--checkpoints=10,20", *entries(bits)]
    process = start(*sweep, "--shard=1/2", devices=8)  # as this process has: rounding is equal
    while process.poll() is None and not list(second.glob("*.parquet")):
        time.sleep(0.02)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    before = {path: path.stat().st_mtime_ns for path in workdir.glob("eval/likelihood*/*.parquet")}
    counts = [sum(path.parent == folder for path in before) for folder in (first, second)]
    assert counts[0] == 4 and 1 <= counts[1] <= 4  # 10 images in batches of 8, two passes
    message = r"lacks \d+ of 40 rows \(first: image 0 in pass 0\)"
    refused(message, "summarize", workdir, values=bits)
    for shard in ("0/2", "1/2"):
        call("likelihood", workdir, checkpoint="10,20", shard=shard, values=bits)
        assert capsys.readouterr().out.count(f"shard {shard} done") == 2
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())
    call("summarize", workdir, values=bits)
    out = capsys.readouterr().out
    assert "step 10: bits_per_dim" in out and "step 20: bits_per_dim" in out
    assert "(20 images, 2 passes)" in out
    assert (workdir / "eval" / "bits_per_dim_test.png").exists()
    for folder in (first, second):
        found, expected = table(folder), table(evaluated / "eval" / folder.name)
        for name in ("index", "pass", "label"):
            np.testing.assert_array_equal(found[name], expected[name])
        # Other batches are other compiled programs on other shapes: equal but for rounding and
        # its effect on step sizes.
        np.testing.assert_allclose(found["bits_per_dim"], expected["bits_per_dim"], atol=1e-3)
    piece = next(second.glob("*.parquet"))
    shutil.copy(piece, piece.with_name(f"copy_{piece.name}"))
    message = "rows twice .*Remove one of the pieces"
    refused(message, "summarize", workdir, values=bits)


@pytest.mark.parametrize(
    ("mode", "values", "flags", "message"),
    [
        ("likelihood", {}, {"shard": "2/2"}, "must be i/n"),
        ("likelihood", {}, {"shard": "99/100"}, "shard 99/100 is empty"),
        ("eval", {}, {"shard": "0/2"}, "means nothing to --mode eval"),
        (
            "likelihood",
            {"eval.rtol": 0.1},
            {"checkpoint": "20"},
            "results of other settings .*rtol: 0.01 there, 0.1 here",
        ),
        ("likelihood", {"eval.solver": "euler"}, {}, "unknown name 'euler'"),
        (
            "likelihood",
            {"eval.probes": -1, "eval.bound_draws": 0},
            {},
            "leaves no likelihood to evaluate",
        ),
        ("likelihood", {"eval.split": "valid"}, {}, "must be one of train, test; got 'valid'"),
        ("likelihood", {}, {"checkpoint": "ten"}, "steps like 10,20"),
        ("summarize", {"eval.split": "train"}, {}, "no likelihoods of the train images"),
    ],
)
def test_bad_requests_are_refused(
    evaluated: Path, bits: dict[str, float], mode: str, values: dict, flags: dict, message: str
) -> None:
    refused(message, mode, evaluated, values=bits | values, **flags)
