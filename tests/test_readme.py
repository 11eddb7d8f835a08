"""The README's Python runs as written and gives what it says."""

import re
from pathlib import Path

import jax

README = Path(__file__).resolve().parent.parent / "README.md"


def test_python_of_the_readme_runs(capsys):
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL)
    assert len(blocks) == 4
    with jax.numpy_dtype_promotion("standard"):  # optax's Adam raises a float to an integer power
        exec(compile("\n".join(blocks), "README.md", "exec"), {"__name__": "readme"})
    weights = [float(line) for line in capsys.readouterr().out.split()]
    assert len(weights) == 2
    # Of 2000 samples: standard error 0.009.
    assert all(abs(weight - 0.8) < 0.04 for weight in weights), weights


def test_files_the_readme_names_exist():
    text = README.read_text()
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        assert (README.parent / target).exists(), target
    for config in re.findall(r"configs/\w+/\w+\.py", text):
        assert (README.parent / config).is_file(), config
