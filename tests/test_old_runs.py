"""Runs of older versions open, sample and give the images they gave.

The fixtures were written by commit de54691: a VP model (noise prediction, data in [-1, 1]) and a
discrete VE model (divided by sigma, data in [0, 1]), with what `--mode sample` made of them.
"""

import json
import tarfile
from pathlib import Path

import jax
import numpy as np
import pytest
from runs import call

from score_sde.build.settings import defaults

FIXTURES = Path(__file__).resolve().parent / "fixtures"
RUNS = sorted(path.name.removesuffix(".tar.gz") for path in FIXTURES.glob("*.tar.gz"))


@pytest.fixture
def old(request, tmp_path: Path) -> tuple[Path, np.ndarray]:
    """(a run of the old version without its samples, the images that it had)."""
    with tarfile.open(FIXTURES / f"{request.param}.tar.gz") as archive:
        archive.extractall(tmp_path, filter="data")
    samples = tmp_path / "samples" / "step_600" / "samples.npz"
    images = np.load(samples)["images"]
    samples.unlink()
    return tmp_path, images


@pytest.mark.parametrize("old", RUNS, indirect=True)
def test_an_older_run_gives_the_same_images(old) -> None:
    run, images = old
    call("sample", run)
    found = np.load(run / "samples" / "step_600" / "samples.npz")["images"]
    assert len(np.unique(images)) == 17  # they are no trivial pictures
    np.testing.assert_array_equal(found, images)


@pytest.mark.parametrize("old", ["run_vp"], indirect=True)
def test_entries_that_an_older_run_lacks_can_be_set(old) -> None:
    """An entry of each section is missing; the run goes on in its directory."""
    run, _ = old
    written = json.loads((run / "config.json").read_text())
    assert "from" not in written["training"]
    assert not {"classifier", "inverse"} & written.keys()  # whole sections are missing too
    for section in defaults().keys() & written.keys():
        del written[section][next(iter(written[section]))]
    written["data"]["source"] = "digits"
    (run / "config.json").write_text(json.dumps(written))
    values = {"training.steps": 602, "training.checkpoint_every": 1, "training.keep": 2}
    with jax.numpy_dtype_promotion("standard"):  # optax's Adam mixes types
        call("train", run, values=values | {"sampling.predictor": "euler_maruyama"})
    assert json.loads((run / "config.json").read_text())["training"]["from"] == ""
    assert sorted(int(p.name) for p in (run / "checkpoints").iterdir()) == [601, 602]
