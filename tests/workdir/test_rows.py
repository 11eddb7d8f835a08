"""Pieces of an evaluation and their summary."""

import numpy as np
import pytest

from score_sde.errors import UserError
from score_sde.likelihood.summary import summarize
from score_sde.workdir.rows import Pieces


def rows(indices, number_of_pass=0, bits=None):
    indices = np.asarray(indices)
    bits = indices * 0.1 if bits is None else np.asarray(bits)
    return {
        "index": indices,
        "pass": np.full(len(indices), number_of_pass),
        "bits_per_dim": bits,
        "standard_error": np.full(len(indices), 0.02),
    }


def test_pieces_make_one_table_in_order(tmp_path):
    pieces = Pieces(tmp_path / "rows", {"rtol": 1e-5})
    pieces.write(rows([4, 5, 6]))
    pieces.write(rows([0, 1, 2, 3]))
    np.testing.assert_array_equal(pieces.missing(np.arange(9), 0), [7, 8])
    np.testing.assert_array_equal(pieces.missing(np.arange(9), 1), np.arange(9))
    np.testing.assert_array_equal(pieces.complete(7, 1)["index"], np.arange(7))
    np.testing.assert_allclose(pieces.read()["bits_per_dim"], np.arange(7) * 0.1)


def test_gaps_and_doubles_are_refused(tmp_path):
    pieces = Pieces(tmp_path / "rows", {})
    pieces.write(rows([0, 1, 3]))
    with pytest.raises(UserError, match=r"lacks 1 of 4 rows \(first: image 2 in pass 0\)"):
        pieces.complete(4, 1)
    pieces.write(rows([3, 4]))
    with pytest.raises(UserError, match=r"1 rows twice \(images \[3\]"):
        pieces.read()


def test_every_pass_begun_counts(tmp_path):
    pieces = Pieces(tmp_path / "rows", {})
    pieces.write(rows([0, 1]))
    pieces.write(rows([0], number_of_pass=1))
    with pytest.raises(UserError, match=r"lacks 1 of 4 rows \(first: image 1 in pass 1\)"):
        pieces.complete(2, 1)
    pieces.write(rows([1], number_of_pass=1))
    assert len(pieces.complete(2, 1)["index"]) == 4


def test_other_settings_are_refused_and_damage_is_named(tmp_path):
    folder = tmp_path / "rows"
    Pieces(folder, {"rtol": 1e-5}).write(rows([0, 1]))
    with pytest.raises(UserError, match=r"rtol: 1e-05 there, 0\.001 here"):
        Pieces(folder, {"rtol": 1e-3})
    (folder / "pass0_broken.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(UserError, match=r"pass0_broken.parquet is damaged"):
        Pieces(folder, {"rtol": 1e-5}).read()
    (folder / "pass0_broken.parquet").unlink()
    (folder / "pass0_broken.parquet").mkdir()
    with pytest.raises(UserError, match=r"parquet is damaged \(it is a folder"):
        Pieces(folder, {"rtol": 1e-5}).read()


def test_rows_of_unknown_settings_are_refused(tmp_path):
    Pieces(tmp_path, {"rtol": 1e-5}).write(rows([0, 1]))
    (tmp_path / "settings.json").unlink()
    with pytest.raises(UserError, match=r"like pass0_.*parquet, but no settings\.json"):
        Pieces(tmp_path, {"rtol": 1e-5})


def test_a_killed_write_leaves_no_piece(tmp_path):
    pieces = Pieces(tmp_path / "rows", {})
    pieces.write(rows([0, 1]))
    (tmp_path / "rows" / ".pass0_0000002_0000003_2.parquet.123").write_bytes(b"half")
    np.testing.assert_array_equal(pieces.read()["index"], [0, 1])


def test_summary_of_known_variances():
    """Between images 0.3, between passes 0.1 of which probes 0.02.

    The parts come out, and so does Student's interval.
    """
    rng = np.random.default_rng(0)
    images, passes = 4000, 3
    level = 2.5 + 0.3 * rng.normal(size=images)
    parts = [
        rows(np.arange(images), p, level + 0.1 * rng.normal(size=images)) for p in range(passes)
    ]
    found = summarize({name: np.concatenate([part[name] for part in parts]) for name in parts[0]})
    assert found["images"] == images and found["passes"] == passes
    assert abs(found["mean"] - 2.5) < 4 * found["standard_error"]
    # variances 0.09, 0.01 - 0.0004 and 0.0004 within their sampling errors
    assert abs(found["variance_data"] - 0.09) < 4 * 0.09 * np.sqrt(2 / images)
    assert abs(found["variance_dequantization"] - 0.0096) < 4 * 0.01 * np.sqrt(1 / images)
    assert found["variance_probe"] == pytest.approx(0.0004)
    expected = np.sqrt((0.09 + 0.01 / 3) / images)
    assert found["standard_error"] == pytest.approx(expected, rel=0.05)
    assert found["high"] - found["low"] == pytest.approx(
        2 * 1.9606 * found["standard_error"], rel=1e-4
    )


def test_interval_of_few_images_is_students():
    found = summarize(rows(np.arange(5), bits=[1.0, 2.0, 3.0, 4.0, 5.0]))
    assert found["mean"] == pytest.approx(3.0)
    assert found["standard_error"] == pytest.approx(np.sqrt(2.5 / 5))
    assert found["high"] == pytest.approx(
        3.0 + 2.776445 * np.sqrt(0.5)
    )  # t quantile, 4 degrees of freedom


def test_the_probes_of_the_ode_say_nothing_of_a_bound():
    parts = [rows(np.arange(6), p) for p in range(2)]
    found = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    found["bound_bits_per_dim"] = found["bits_per_dim"] + np.repeat([0.0, 0.5], 6)
    assert summarize(found)["variance_probe"] == pytest.approx(0.0004)
    of_bound = summarize(found, "bound_bits_per_dim")
    assert np.isnan(of_bound["variance_probe"]) and np.isnan(of_bound["variance_dequantization"])
    assert of_bound["variance_data"] == pytest.approx(
        0.035 - 0.125 / 2
    )  # means 0 .. 0.5, passes 0.5 apart
