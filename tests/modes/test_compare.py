"""--mode compare: solvers on the same measurements, image by image."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
from commands import refused
from runs import call

from score_sde.data import digits, take

FAST = {"sampling.batch_size": 8, "sampling.t_end": 1e-3, "inverse.task": "superresolve"}


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("given") / "given.npz"
    np.savez(path, images=take(digits("test"), np.arange(4))["image"])
    return path


def test_a_table_of_solvers_and_values(trained: Path, given: Path, tmp_path: Path, capsys) -> None:
    flags = {"input": given, "copies": 2, "solvers": "ddnm,diffpir", "vary": "inverse.scale=2,4"}
    values = FAST | {"inverse.eta": 0.5}  # of ddnm alone
    call("compare", trained, values=values, output=tmp_path / "all", **flags)
    told = capsys.readouterr().out
    found = json.loads((tmp_path / "all/compare.json").read_text())
    rows = pyarrow.parquet.read_table(tmp_path / "all/compare.parquet").to_pylist()
    assert [(row["solver"], row["value"]) for row in found["rows"]] == [
        ("ddnm", "2"),
        ("diffpir", "2"),
        ("ddnm", "4"),
        ("diffpir", "4"),
    ]
    assert len(rows) == 16 and (tmp_path / "all/comparison.png").exists()
    mean = {
        key: np.asarray([r["psnr_of_mean"] for r in rows if (r["solver"], r["value"]) == key])
        for key in {(r["solver"], r["value"]) for r in rows}
    }
    for row in found["rows"]:
        psnr = mean[row["solver"], row["value"]]
        np.testing.assert_allclose(row["psnr_of_mean"]["mean"], psnr.mean())
        assert ("difference" in row) == (row["solver"] == "diffpir")
        if row["solver"] == "diffpir":
            off = psnr - mean["ddnm", row["value"]]
            np.testing.assert_allclose(row["difference"]["mean"], off.mean())
            assert row["difference"]["low"] <= off.mean() <= row["difference"]["high"]
    assert "diffpir" in told and "PSNR of the mean [95 %]" in told
    # One of the cases is what reconstruct makes, and nothing is done twice.
    call("reconstruct", trained, values=values, input=given, copies=2, output=tmp_path / "one")
    paths = tmp_path / "one/reconstruction.npz", tmp_path / "all/ddnm_scale_2/reconstruction.npz"
    with np.load(paths[0]) as one, np.load(paths[1]) as two:
        np.testing.assert_array_equal(one["images"], two["images"])
    capsys.readouterr()
    call("compare", trained, values=values, output=tmp_path / "all", **flags)
    assert capsys.readouterr().out.count("there already") == 4


@pytest.mark.parametrize(
    ("flags", "values", "message"),
    [
        ({"solvers": "ddnm,magic"}, {}, "unknown name 'magic'; known: dps"),
        ({"solvers": "ddnm,dps"}, {"inverse.zeta": 0.3}, "zeta=0.3 means nothing to ddnm, dps"),
        ({"vary": "inverse.scale"}, {}, "--vary must name an entry and values.*'inverse.scale'"),
        (
            {"vary": "model.nf=2,4"},
            {},
            "--vary takes an entry of config.inverse or config.sampling",
        ),
        ({"vary": "inverse.size=2,4"}, {}, "config.inverse.size: .size. means nothing here"),
        ({"vary": "inverse.scale=2,x"}, {}, "inverse.scale.*x"),
    ],
)
def test_refusals(trained: Path, flags: dict, values: dict, message: str) -> None:
    refused(message, "compare", trained, values=FAST | values, **flags)
