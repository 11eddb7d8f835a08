"""Figures 3.1, 3.2 and table 3.1 at a size that shows that the programs run and what they print."""

import importlib.util
import sys

import jax
import numpy as np
import pytest

from golden import REPOSITORY

pytestmark = pytest.mark.slow


def load(name, folder="examples"):
    spec = importlib.util.spec_from_file_location(name, REPOSITORY / folder / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_kernel_density(tmp_path, capsys):
    """On a Gaussian table: the Gaussian's two numbers are known, and nobody beats them by much."""
    example, rng = load("kernel_density"), np.random.default_rng(0)
    values = rng.normal(size=(600, 2)) @ np.asarray([[1.0, 0.4], [0.0, 0.7]])
    lines = ["a,b,label", *(f"{a:.6f},{b:.6f},{i % 2}" for i, (a, b) in enumerate(values))]
    path = tmp_path / "table.csv"
    path.write_text("\n".join(lines + lines[1:101]))
    flags = ["--file", str(path), "--without", "label", "--steps", "100", "--quick", "--unique"]
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        results = example.main([*flags, "--objectives", "sm,ssm_vr"])
    (loss, likelihood, _) = results["gaussian"][0]
    assert loss == pytest.approx(-1, abs=0.15)  # -tr(precision)/2 of whitened rows
    assert likelihood == pytest.approx(-np.log(2 * np.pi) - 1, abs=0.2)
    for name in ("sm", "ssm_vr"):
        (found, log_prob, seconds) = results[name][0]
        assert found == pytest.approx(loss, abs=0.2) and seconds > 0
        assert log_prob == pytest.approx(likelihood, abs=0.2)
    text = capsys.readouterr().out
    assert "reduced: 1 split(s), 600 rows of 2 columns" in text and "a figure" in text


def test_flow_score_matching(capsys):
    example = load("flow_score_matching")
    flags = ["--hidden", "8", "--depth", "3", "--epochs", "6", "--images", "40"]
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        results = example.main([*flags, "--methods", "mle,ssm_vr,approx_bp"])
    assert all(rows.shape == (1, 3) and np.isfinite(rows).all() for rows in results.values())
    assert results["mle"][0, 1] > results["ssm_vr"][0, 1]
    text = capsys.readouterr().out
    assert "not comparable" in text and "-8054, -3355" in text


def test_cost_against_dimension(capsys, monkeypatch):
    """Operations are counted, so they may be asserted: those of exact score matching grow as D."""
    monkeypatch.setattr(sys, "path", [str(REPOSITORY / "benchmarks"), *sys.path])
    benchmark = load("score_matching", "benchmarks")
    flags = ["--dims", "16,64", "--points", "10", "--repeats", "0", "--objectives", "ssm,sm,ssm_vr"]
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        found = benchmark.main(flags)
    assert 0.2 < found["slope flops"] < 1.3 and 0.6 < found["slope alone flops"] < 1.3
    assert found["ssm_vr alone 64"]["flops"] < 1.2 * found["ssm alone 64"]["flops"]
    assert "slope in log D by flops" in capsys.readouterr().out
