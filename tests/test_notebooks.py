"""The notebooks of docs/notebooks run as plain Python, and what they say is true."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from golden import REPOSITORY

FOLDER = REPOSITORY / "docs" / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.py"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_short_and_on_the_first_page(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= 120
    assert text.startswith("# ---\n# jupyter:") and "format_name: percent" in text
    cells = re.findall(r"^# %%(.*)$", text, re.MULTILINE)
    assert {cell.strip() for cell in cells} == {"", "[markdown]"}
    for link in re.findall(r"\]\(([^)]+)\)", text):
        assert (FOLDER / link).exists(), link
    assert f"(notebooks/{path.name})" in (REPOSITORY / "docs" / "index.md").read_text()


def printed(name: str, folder: Path) -> str:
    """What a notebook prints. Its picture goes into the folder."""
    environment = os.environ | {"MPLBACKEND": "agg", "PYTHONPATH": str(REPOSITORY)}
    environment.pop("XLA_FLAGS", None)
    command = [sys.executable, str(FOLDER / name)]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (folder / name).with_suffix(".png").stat().st_size > 10_000
    return done.stdout


@pytest.mark.slow
def test_training_and_sampling(tmp_path: Path) -> None:
    text = printed("train.py", tmp_path)
    loss = re.search(r"loss at step 50: ([\d.]+), at the end ([\d.]+)", text)
    assert loss and float(loss[2]) < 0.8 * float(loss[1])
    assert float(re.search(r"correlate: ([\d.]+)", text)[1]) > 0.9  # type: ignore[index]


@pytest.mark.slow
def test_a_phantom_with_its_uncertainty(tmp_path: Path) -> None:
    text = printed("reconstruct.py", tmp_path)
    numbers = {
        name: float(value) for name, value in re.findall(r"^([\w -]+): ([\d.]+)", text, re.M)
    }
    assert numbers["back-projection"] + 8 < numbers["mean of samples"] < numbers["exact mean"]
    assert numbers["exact mean"] - numbers["mean of samples"] < 1.0
    assert numbers["spread and error correlate"] > 0.4
    assert 75 < numbers["inside intervals of 90 percent"] < 95


@pytest.mark.slow
def test_the_tour_of_processes(tmp_path: Path) -> None:
    shares = re.findall(r"share of the right mode ([\d.]+)", printed("tour.py", tmp_path))
    assert len(shares) == 6
    for share in map(float, shares):  # standard error 0.01
        assert abs(share - 0.7) < 0.04


@pytest.mark.slow
def test_likelihoods_and_latents(tmp_path: Path) -> None:
    text = printed("likelihoods.py", tmp_path)
    pairs = re.findall(r"(\w+ \w+) (-?\d[\d.]*(?:e-?\d+)?)", text)
    numbers = {name: float(value) for name, value in pairs}
    assert numbers["largest error"] < 1e-2
    assert numbers["median error"] < 1e-2
    assert abs(numbers["mean error"]) < 0.25  # standard error 0.06
    straight, latents = (int(share) for share in re.findall(r"(\d+)%", text))
    assert straight < 75 and latents > 90
