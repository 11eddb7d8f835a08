"""The names of the package, which are imported when they are asked for."""

import subprocess
import sys

import pytest

import score_sde
from score_sde import names


def test_names_are_those_of_the_table() -> None:
    assert set(names.__all__) <= set(dir(score_sde))
    for name in names.__all__:
        assert getattr(score_sde, name) is getattr(names, name)
    space: dict = {}
    exec("from score_sde import *", space)
    assert set(names.__all__) <= space.keys()


def test_modules_are_imported_when_asked_for() -> None:
    code = "import sys, score_sde; before = 'score_sde.viz' in sys.modules; score_sde.viz.save_png"
    done = subprocess.run([sys.executable, "-c", f"{code}; print(before)"], capture_output=True)
    assert done.stdout == b"False\n", done.stderr
    with pytest.raises(AttributeError, match="module 'score_sde' has no attribute 'VPP'"):
        score_sde.VPP  # noqa: B018
    with pytest.raises(ImportError, match="cannot import name 'nothing'"):
        exec("from score_sde import nothing")
