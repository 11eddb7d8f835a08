"""What a release says of itself and holds."""

import re
import tomllib

import yaml

import score_sde
from golden import REPOSITORY

WRITTEN = {"build", "dist", "runs"}
"""Folders that commands of this repository write."""
BUILT_IN = {"LICENSE", "MANIFEST.in", "README.md", "pyproject.toml", "score_sde", "setup.py"}
BUILT_IN |= {"PKG-INFO", "setup.cfg"}
"""What setuptools takes into a source archive by itself."""


def test_the_citation_has_the_version_and_the_licence() -> None:
    citation = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text())
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    assert citation["cff-version"] == "1.2.0"
    assert citation["title"] == project["name"]
    assert citation["version"] == score_sde.__version__
    assert citation["license"] == project["license"]
    assert all(work["title"] and work["authors"] for work in citation["references"])


def test_the_source_archive_has_what_a_checkout_has() -> None:
    lines = (REPOSITORY / "MANIFEST.in").read_text().splitlines()
    listed = {name for line in lines for name in re.sub(r"^(include|graft) ", "", line).split()}
    here = {
        path.name
        for path in REPOSITORY.iterdir()
        if not path.name.startswith((".", "__")) and not path.name.endswith(".egg-info")
    }
    assert here - WRITTEN <= listed | BUILT_IN
    taken = [line.split()[1:] for line in lines if line.startswith(("include ", "graft "))]
    assert not [name for names in taken for name in names if not (REPOSITORY / name).exists()]


def test_the_extras_are_there_and_have_lower_bounds() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    assert extras.keys() >= {"app", "ct", "cuda", "dev", "docs", "medical", "tpu", "tune"}
    wanted = [*project["dependencies"], *(one for names in extras.values() for one in names)]
    assert not [one for one in wanted if not re.fullmatch(r"[\w.-]+(\[\w+\])?>=[\d.]+", one)]
