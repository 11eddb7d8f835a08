"""The rules of the house that can be seen in the source: nothing is imported or run.

A *part* is a module or subpackage directly under score_sde/ (`sde`, `networks`, ...) or one of the
programs on top of it (`run_lib`, `main`, `configs`). `FLOORS` is the list of parts, from the bottom
up: a part imports parts of its own row and of the rows before it.
"""

import ast
import fnmatch
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent

BASE = {"arrays", "errors", "files", "devices", "peers"}
FLOORS = (
    BASE,
    {"sde"},
    {"analytic", "curvature", "parameterize", "grids"},
    {"objectives", "estimators", "steppers", "flow", "likelihood", "inverse", "guidance"},
    {"sampling"},
    {"conditioning", "tuning"},
    {"solvers"},
    {"networks", "data", "noise_scales"},
    {"convert"},
    {"metrics", "training", "viz"},
    {"report", "parallel"},
    {"build"},
    {"recipes"},
    {"workdir"},
    {"exchange"},
    {"app"},
    {"modes"},
    {"run_lib"},
    {"program"},
    {"cli"},
    {"__main__", "main", "configs"},
)
ALONE = {"networks", "data", "noise_scales", "convert", "metrics", "viz", "report"}
"""Parts that know nothing of SDEs: they import one another and the base, no mathematics."""
PROGRAMS = ("run_lib", "main", "configs")
PUBLIC = set().union(*FLOORS[:7])
"""What `names.py` shows as `score_sde`. Only __version__ is imported from there."""
KNOW_CONFIGURATIONS = (
    "score_sde.build",
    "score_sde.recipes",
    "score_sde.workdir.config",
    "configs",
)
"""The only places where a configuration is read, and ml_collections imported."""
KNOW_PROCESSES = ("score_sde.devices", "score_sde.workdir.folder", "score_sde.data.pipeline")
"""The only places that ask for the number of this process."""
FORBIDDEN = {"torch", "tensorflow", "tensorflow_probability", "keras"}


def may_import(part: str) -> set[str]:
    """The parts that a part may import beside itself."""
    if part == "__init__":
        return {"names"}
    if part == "names":
        return PUBLIC
    row = next(i for i, parts in enumerate(FLOORS) if part in parts)
    below = set().union(*FLOORS[: row + 1])
    if part in ALONE:
        return below & (ALONE | BASE)
    upper = set().union(*FLOORS[10:])
    return below | ({"__init__"} if part in upper else set())


def sources(root: Path) -> dict[str, Path]:
    """Dotted name -> file of every module of the library and of the programs."""
    files = [
        path for part in ("score_sde", "configs") for path in sorted((root / part).rglob("*.py"))
    ]
    files += [path for path in (root / "run_lib.py", root / "main.py") if path.exists()]
    names = {path: ".".join(path.relative_to(root).with_suffix("").parts) for path in files}
    return {name.removesuffix(".__init__"): path for path, name in names.items()}


def part_of(module: str) -> str:
    """`score_sde.networks.layers` -> `networks`, `score_sde` -> `__init__`, `main` -> `main`."""
    first, *rest = module.split(".")
    return first if first != "score_sde" else (rest[0] if rest else "__init__")


def imports(name: str, path: Path, modules: dict[str, Path]) -> list[tuple[int, str]]:
    """(line, dotted name) of each import in a file; `from a import b` is a or a.b."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
                base = ".".join(
                    [*package[: len(package) - node.level + 1], *filter(None, [node.module])]
                )
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
    known, found = set().union(*FLOORS, {"__init__", "names"}), []
    for name, path in modules.items():
        part = part_of(name)
        if part not in known:
            found.append(f"{path.relative_to(root)}:1: part `{part}` has no place in FLOORS")
            continue
        for line, target in imports(name, path, modules):
            where, top = f"{path.relative_to(root)}:{line}", target.split(".")[0]
            if top in FORBIDDEN:
                found.append(f"{where}: imports {top}")
            if top == "ml_collections" and not name.startswith(KNOW_CONFIGURATIONS):
                found.append(f"{where}: only {', '.join(KNOW_CONFIGURATIONS)} know ml_collections")
            if top not in ("score_sde", *PROGRAMS):
                continue
            if part_of(target) not in may_import(part) | {part}:
                found.append(f"{where}: `{part}` may not import `{part_of(target)}` ({target})")
            table = target.removesuffix(".table") == "score_sde.modes"
            if part == part_of(target) == "modes" and target != name and not table:
                found.append(f"{where}: a mode imports a mode ({target})")
            if target in modules and target != name:
                graph[name].add(target)
    if loop := cycle(graph):
        found.append("circular import: " + " -> ".join(loop))
    return found


def misplaced(root: Path) -> list[str]:
    """Configurations and process numbers where they have no business, as `file:line: what`."""
    found = []
    for name, path in sources(root).items():
        for node in ast.walk(ast.parse(path.read_text(), str(path))):
            where = f"{path.relative_to(root)}:{getattr(node, 'lineno', 0)}"
            word = getattr(node, "id", getattr(node, "arg", getattr(node, "attr", None)))
            jax_own = isinstance(node, ast.Attribute) and ast.unparse(node.value) == "jax"
            if word == "config" and not jax_own and not name.startswith(KNOW_CONFIGURATIONS):
                found.append(f"{where}: config")
            if word == "process_index" and not name.startswith(
                (*KNOW_PROCESSES, "score_sde.build")
            ):
                found.append(f"{where}: process_index")
    return found


LONGEST_FILE, LONGEST_FUNCTION, MOST_PARAMETERS, WIDEST_LINE = 450, 50, 6, 100
EXCEPTIONS = {"run_lib.py": 150, "score_sde/run_lib.py": 150, "main.py": 40}
"""Files that must be shorter still."""


def oversized(root: Path) -> list[str]:
    """Files, functions and lines that are too long, and functions of many parameters."""
    found = []
    for path in sources(root).values():
        name, text = str(path.relative_to(root)), path.read_text()
        lines = text.splitlines()
        if len(lines) > EXCEPTIONS.get(name, LONGEST_FILE):
            found.append(f"{name}: {len(lines)} lines")
        found += [f"{name}:{i}: wide" for i, line in enumerate(lines, 1) if len(line) > WIDEST_LINE]
        for node in ast.walk(ast.parse(text, name)):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            known = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            count = len([one for one in known if one.arg not in ("self", "cls")])
            if node.name == "main" and name.startswith("score_sde/modes/"):
                count = 0  # the parameters of a mode are its flags
            if length > LONGEST_FUNCTION or count > MOST_PARAMETERS:
                where = f"{name}:{node.lineno}: {node.name}"
                found.append(f"{where} has {length} lines and {count} parameters")
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
    assert {"score_sde", "score_sde.arrays", "score_sde.sde"} <= sources(REPOSITORY).keys()
    assert violations(REPOSITORY) == []


def test_configurations_and_processes_are_known_in_few_places() -> None:
    assert misplaced(REPOSITORY) == []


def test_files_functions_and_lines_are_short() -> None:
    assert oversized(REPOSITORY) == []


def test_public_names_have_docstrings() -> None:
    assert undocumented(REPOSITORY) == []


CLEAN = {
    "score_sde/__init__.py": '"""D."""\nfrom score_sde.names import *\n',
    "score_sde/names.py": '"""D."""\nfrom score_sde.sde import VE\n',
    "score_sde/arrays.py": '"""D."""\nimport jax\n',
    "score_sde/errors.py": '"""D."""\n',
    "score_sde/devices.py": '"""D."""\nimport jax\njax.process_index()\n',
    "score_sde/sde.py": '"""D."""\nfrom score_sde.arrays import ScoreFn\n',
    "score_sde/steppers/__init__.py": '"""D."""\nfrom score_sde.steppers.reverse import Euler\n',
    "score_sde/steppers/reverse.py": '"""D."""\nfrom ..sde import VE\nfrom . import base\n',
    "score_sde/steppers/base.py": '"""D."""\n',
    "score_sde/sampling.py": '"""D."""\nfrom score_sde import grids, steppers\n',
    "score_sde/grids.py": '"""D."""\n',
    "score_sde/networks/layers.py": '"""D."""\nimport tensorflow_datasets\n',
    "score_sde/training/step.py": '"""D."""\nimport score_sde.objectives.times\n',
    "score_sde/objectives/times.py": '"""D."""\nimport score_sde.sde as sde\n',
    "score_sde/data/pixels.py": '"""D."""\n',
    "score_sde/parallel/samples.py": '"""D."""\nfrom score_sde import __version__, sampling\n',
    "score_sde/build/settings.py": '"""D."""\nimport ml_collections\nconfig = 1\n',
    "score_sde/workdir/config.py": '"""D."""\nimport ml_collections\nimport score_sde.build\n',
    "score_sde/workdir/run.py": '"""D."""\nfrom score_sde.workdir import config as known\n',
    "score_sde/modes/sample.py": '"""D."""\nfrom score_sde.workdir import run\n',
    "score_sde/modes/train.py": '"""D."""\n',
    "score_sde/modes/__init__.py": '"""D."""\n',
    "score_sde/workdir/__init__.py": '"""D."""\n',
    "score_sde/run_lib.py": '"""D."""\nfrom score_sde.modes import sample\n',
    "run_lib.py": "from score_sde.run_lib import run\n",
    "main.py": "def main():\n    import run_lib\n",
    "configs/ve/base.py": "from ml_collections import ConfigDict\nfrom score_sde import recipes\n",
    "score_sde/recipes/__init__.py": '"""D."""\n',
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
        ("sde.py", "from score_sde.steppers import Euler", "`sde` may not import `steppers`"),
        ("sde.py", "def f():\n    from score_sde import sampling", "may not import `sampling`"),
        ("arrays.py", "from . import sde", "`arrays` may not import `sde`"),
        ("grids.py", "import score_sde", "`grids` may not import `__init__`"),
        ("__init__.py", "from score_sde.sde import VE", "`__init__` may not import `sde`"),
        ("names.py", "from score_sde.networks import layers", "`names` may not import `networks`"),
        ("steppers/base.py", "from ..sampling import sample", "may not import `sampling`"),
        ("steppers/base.py", "from score_sde.networks import DDPM", "may not import `networks`"),
        ("networks/layers.py", "from score_sde.sde import VE", "`networks` may not import `sde`"),
        ("training/step.py", "import score_sde.parallel", "may not import `parallel`"),
        ("parallel/samples.py", "import ml_collections", "know ml_collections"),
        ("build/settings.py", "from score_sde import workdir", "`build` may not import `workdir`"),
        ("workdir/run.py", "import ml_collections", "know ml_collections"),
        ("workdir/run.py", "from score_sde import modes", "`workdir` may not import `modes`"),
        ("modes/sample.py", "from score_sde.modes import train", "a mode imports a mode"),
        ("run_lib.py", "import main", "`run_lib` may not import `main`"),
        ("networks/layers.py", "from torch import nn", "imports torch"),
        ("run_lib.py", "def f():\n    import tensorflow as tf", "imports tensorflow"),
        ("steppers/base.py", "from score_sde.steppers import reverse", "circular import"),
        ("misc.py", "import jax", "part `misc` has no place in FLOORS"),
    ],
)
def test_checker_finds_a_planted_violation(
    tmp_path: Path, file: str, line: str, message: str
) -> None:
    file = f"score_sde/{file}"
    plant(tmp_path, {**CLEAN, file: CLEAN.get(file, "") + line + "\n"})
    found = violations(tmp_path)
    assert any(message in problem for problem in found), found


@pytest.mark.parametrize("code", ["def f():\n    pass\n", "class A:\n    x = 1\n"])
def test_checker_finds_a_missing_docstring(tmp_path: Path, code: str) -> None:
    plant(tmp_path, {**CLEAN, "score_sde/sde.py": CLEAN["score_sde/sde.py"] + code})
    assert len(undocumented(tmp_path)) == 1


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("def f(config):\n    pass\n", "score_sde/workdir/run.py:3: config"),
        ("x = y.config.z\n", "score_sde/workdir/run.py:3: config"),
        ("import jax\njax.config.update('a', 1)\n", None),
        ("import jax\njax.process_index()\n", "score_sde/workdir/run.py:4: process_index"),
    ],
)
def test_checker_finds_what_is_misplaced(tmp_path: Path, code: str, message: str | None) -> None:
    file = "score_sde/workdir/run.py"
    plant(tmp_path, {**CLEAN, file: CLEAN[file] + code})
    assert misplaced(tmp_path) == ([] if message is None else [message])


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("x = 1\n" * 451, "lines"),
        (f"x = '{'x' * 100}'\n", "wide"),
        ("def f():\n" + "    x = 1\n" * 50, "f has 51 lines"),
        ("def f(a, b, c, d, e, /, g, *, h):\n    pass\n", "7 parameters"),
        ("class A:\n    def f(self, a, b, c, d, e, g):\n        pass\n", None),
    ],
)
def test_checker_finds_what_is_too_long(tmp_path: Path, code: str, message: str | None) -> None:
    plant(tmp_path, {**CLEAN, "score_sde/sde.py": code})
    found = oversized(tmp_path)
    assert len(found) == (message is not None) and (not found or message in found[0])


def test_every_folder_of_tests_is_collected(pytestconfig: pytest.Config) -> None:
    """pytest passes over folders named build or dist, unless it is told."""
    passed_over = pytestconfig.getini("norecursedirs")
    folders = [path.name for path in (REPOSITORY / "tests").rglob("*") if path.is_dir()]
    ours = {name for name in folders if name != "__pycache__"}
    assert "build" in ours
    assert not [name for name in ours for one in passed_over if fnmatch.fnmatch(name, one)]
