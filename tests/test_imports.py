"""The one-way rule of imports, checked by parsing them: nothing is imported or run.

A *part* is a module or subpackage directly under score_sde/ (`sde`, `networks`, ...) or one of the programs
on top of the library (`run_lib`, `main`, `configs`). `MAY_IMPORT` says which other parts a part may import.
"""

import ast
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent

# The theory, from the bottom up: a part may import its own layer and the layers before it.
LAYERS = (
    {"types", "errors", "files"},
    {"sde"},
    {"analytic", "parameterize", "grids"},
    {"objectives", "steppers", "flow", "likelihood", "guidance", "inverse"},
    {"sampling"},
)
BASE = LAYERS[0]
THEORY = set().union(*LAYERS)
# These know nothing of SDEs.
OTHERS = {
    "networks": BASE,
    "data": BASE,
    "metrics": BASE | {"convert"},
    "viz": BASE | {"metrics"},
    "noise_scales": BASE,
    "convert": BASE | {"networks"},
}
TRAINING = BASE | {"sde", "parameterize", "objectives", "data", "likelihood"}
DRIVERS = {"generate", "evaluate", "codec"}
LIBRARY = THEORY | OTHERS.keys() | {"training"} | DRIVERS

MAY_IMPORT: dict[str, set[str]] = {
    **{part: set().union(*LAYERS[: i + 1]) for i, layer in enumerate(LAYERS) for part in layer},
    **OTHERS,
    "training": TRAINING,
    "generate": TRAINING | {"grids", "sampling", "steppers", "training"},
    "evaluate": TRAINING | {"likelihood", "training"},
    "codec": TRAINING | {"flow", "training"},
    "results": BASE | {"codec", "data", "likelihood", "viz", "workdir"},
    "exchange": BASE | {"sde", "convert", "networks", "training", "config", "workdir", "build"},
    "arguments": {"errors"},
    "config": {"errors", "files"},
    "workdir": {"errors", "config", "viz"},
    "__init__": LIBRARY,  # the public names, score_sde/__init__.py
    "build": LIBRARY,
    "session": LIBRARY | {"config", "workdir", "build", "results"},
    "measurements": BASE | {"viz", "workdir"},
    "quality": LIBRARY | {"config", "workdir", "build", "session", "__init__"},
    "run_lib": LIBRARY
    | {
        "measurements",
        "quality",
        "config",
        "workdir",
        "build",
        "results",
        "arguments",
        "session",
        "exchange",
        "__init__",
    },
    "main": BASE | {"run_lib", "__init__"},
    "configs": set(),
}
PROGRAMS = ("run_lib", "main", "configs")
READ_CONFIGS = {"config", "workdir", "exchange", "build", "session", "quality", "run_lib", "configs"}
FORBIDDEN = {"torch", "tensorflow", "tensorflow_probability", "keras"}


def sources(root: Path) -> dict[str, Path]:
    """Dotted name -> file of every module of the library and the programs; packages without `__init__`."""
    files = [path for part in ("score_sde", "configs") for path in sorted((root / part).rglob("*.py"))]
    files += [path for path in (root / "run_lib.py", root / "main.py") if path.exists()]
    names = {path: ".".join(path.relative_to(root).with_suffix("").parts) for path in files}
    return {name.removesuffix(".__init__"): path for path, name in names.items()}


def part_of(module: str) -> str:
    """`score_sde.networks.layers` -> `networks`, `score_sde` -> `__init__`, `configs.a` -> `configs`."""
    first, *rest = module.split(".")
    return first if first != "score_sde" else (rest[0] if rest else "__init__")


def imports(name: str, path: Path, modules: dict[str, Path]) -> list[tuple[int, str]]:
    """(line, dotted name) of each import in a file, also inside functions; `from a import b` is a or a.b."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
                base = ".".join([*package[: len(package) - node.level + 1], *filter(None, [node.module])])
            for alias in node.names:
                submodule = f"{base}.{alias.name}"
                found.append((node.lineno, submodule if submodule in modules else base))
    return found


def cycle(graph: dict[str, set[str]]) -> list[str]:
    """One circular chain of imports, or an empty list."""
    done: set[str] = set()

    def visit(node: str, chain: list[str]) -> list[str]:
        if node in chain:
            return [*chain[chain.index(node) :], node]
        if node in done:
            return []
        for successor in sorted(graph.get(node, ())):
            if loop := visit(successor, [*chain, node]):
                return loop
        done.add(node)
        return []

    return next((loop for node in sorted(graph) if (loop := visit(node, []))), [])


def violations(root: Path) -> list[str]:
    """Every import that breaks the rules, as `file:line: why`."""
    modules = sources(root)
    graph: dict[str, set[str]] = {name: set() for name in modules}
    found = []
    for name, path in modules.items():
        part = part_of(name)
        if part not in MAY_IMPORT:
            found.append(
                f"{path.relative_to(root)}:1: part `{part}` is not in MAY_IMPORT; give it its place there"
            )
            continue
        for line, target in imports(name, path, modules):
            where = f"{path.relative_to(root)}:{line}"
            top = target.split(".")[0]
            if top in FORBIDDEN:
                found.append(f"{where}: imports {top}")
            if top == "ml_collections" and part not in READ_CONFIGS:
                found.append(
                    f"{where}: only config.py, build.py, run_lib.py and the configs know ml_collections"
                )
            if top not in ("score_sde", *PROGRAMS):
                continue
            if part_of(target) not in MAY_IMPORT[part] | {part}:
                found.append(f"{where}: `{part}` may not import `{part_of(target)}` ({target})")
            if target in modules and target != name:
                graph[name].add(target)
    if loop := cycle(graph):
        found.append("circular import: " + " -> ".join(loop))
    return found


def undocumented(root: Path) -> list[str]:
    """Public modules, functions and classes under score_sde/ that have no docstring."""
    found = []
    for path in sorted((root / "score_sde").rglob("*.py")):
        tree = ast.parse(path.read_text(), str(path))
        where = path.relative_to(root)
        if ast.get_docstring(tree) is None and tree.body:
            found.append(f"{where}:1: module")
        for node in tree.body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                overloads = [d for d in node.decorator_list if "overload" in ast.unparse(d)]
                if ast.get_docstring(node) is None and not overloads:
                    found.append(f"{where}:{node.lineno}: {node.name}")
    return found


def test_imports_point_one_way() -> None:
    assert {"score_sde", "score_sde.types", "score_sde.sde"} <= sources(REPOSITORY).keys()
    assert violations(REPOSITORY) == []


def test_public_names_have_docstrings() -> None:
    assert undocumented(REPOSITORY) == []


CLEAN = {
    "score_sde/__init__.py": '"""D."""\nfrom score_sde.sde import VE\n',
    "score_sde/types.py": '"""D."""\nimport jax\n',
    "score_sde/errors.py": '"""D."""\n',
    "score_sde/sde.py": '"""D."""\nfrom score_sde.types import ScoreFn\n',
    "score_sde/steppers/__init__.py": '"""D."""\nfrom score_sde.steppers.reverse import Euler\n',
    "score_sde/steppers/reverse.py": '"""D."""\nfrom ..sde import VE\nfrom . import base\n',
    "score_sde/steppers/base.py": '"""D."""\n',
    "score_sde/sampling.py": '"""D."""\nfrom score_sde import grids, steppers\n',
    "score_sde/grids.py": '"""D."""\n',
    "score_sde/networks/layers.py": '"""D."""\nimport tensorflow_datasets\n',
    "score_sde/training/step.py": '"""D."""\nimport score_sde.objectives.times\n',
    "score_sde/objectives/times.py": '"""D."""\nimport score_sde.sde as sde\n',
    "score_sde/config.py": '"""D."""\nimport ml_collections\nfrom score_sde.errors import UserError\n',
    "score_sde/data/pixels.py": '"""D."""\n',
    "score_sde/training/heldout.py": '"""D."""\nfrom score_sde.data import pixels\n',
    "score_sde/generate.py": '"""D."""\nfrom score_sde import sampling\nfrom score_sde.training import step\n',
    "score_sde/build.py": '"""D."""\nimport ml_collections\nfrom score_sde import sampling\n',
    "run_lib.py": "from score_sde import build, viz\nfrom score_sde.data import sources\n",
    "main.py": "def main():\n    import run_lib\n",
    "configs/ve/base.py": "from ml_collections import ConfigDict\n",
}


def plant(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_checker_accepts_a_clean_tree(tmp_path: Path) -> None:
    plant(tmp_path, CLEAN)
    assert violations(tmp_path) == []
    assert undocumented(tmp_path) == []


@pytest.mark.parametrize(
    ("file", "line", "message"),
    [
        ("score_sde/sde.py", "from score_sde.steppers import Euler", "`sde` may not import `steppers`"),
        (
            "score_sde/sde.py",
            "def f():\n    from score_sde import sampling",
            "`sde` may not import `sampling`",
        ),
        ("score_sde/types.py", "from . import sde", "`types` may not import `sde`"),
        ("score_sde/grids.py", "import score_sde", "`grids` may not import `__init__`"),
        (
            "score_sde/steppers/base.py",
            "from ..sampling import sample",
            "`steppers` may not import `sampling`",
        ),
        ("score_sde/steppers/base.py", "from score_sde.networks import DDPM", "may not import `networks`"),
        ("score_sde/networks/layers.py", "from score_sde.sde import VE", "`networks` may not import `sde`"),
        ("score_sde/training/step.py", "import score_sde.sampling", "`training` may not import `sampling`"),
        ("score_sde/training/heldout.py", "from score_sde import generate", "may not import `generate`"),
        ("score_sde/generate.py", "import ml_collections", "know ml_collections"),
        ("score_sde/config.py", "from score_sde import build", "`config` may not import `build`"),
        (
            "score_sde/config.py",
            "from score_sde.networks import layers",
            "`config` may not import `networks`",
        ),
        ("score_sde/sampling.py", "import score_sde.build", "`sampling` may not import `build`"),
        ("score_sde/build.py", "import run_lib", "`build` may not import `run_lib`"),
        ("configs/ve/base.py", "import score_sde.sde", "`configs` may not import `sde`"),
        ("score_sde/networks/layers.py", "import ml_collections", "know ml_collections"),
        ("score_sde/networks/layers.py", "from torch import nn", "imports torch"),
        ("run_lib.py", "def f():\n    import tensorflow as tf", "imports tensorflow"),
        ("score_sde/steppers/base.py", "from score_sde.steppers import reverse", "circular import"),
        ("score_sde/misc.py", "import jax", "part `misc` is not in MAY_IMPORT"),
    ],
)
def test_checker_finds_a_planted_violation(tmp_path: Path, file: str, line: str, message: str) -> None:
    plant(tmp_path, {**CLEAN, file: CLEAN.get(file, "") + line + "\n"})
    found = violations(tmp_path)
    assert any(message in problem for problem in found), found


@pytest.mark.parametrize("code", ["def f():\n    pass\n", "class A:\n    x = 1\n"])
def test_checker_finds_a_missing_docstring(tmp_path: Path, code: str) -> None:
    plant(tmp_path, {**CLEAN, "score_sde/sde.py": CLEAN["score_sde/sde.py"] + code})
    assert len(undocumented(tmp_path)) == 1
