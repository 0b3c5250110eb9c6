"""The floors of the code base: who may import whom, and what every file and function has."""

import ast
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "fer_jax"
FILES = sorted(PACKAGE.rglob("*.py"))
FLOORS = (  # a file may import from its own floor and from those before it
    {"errors"},
    {"labels", "cache"},
    {"config", "sections"},
    {"data", "models"},
    {"model_file"},
    {"conversion"},
    {"training"},
    {"evaluation", "auditing"},
    {"workdir", "cli", "reading"},
    {"train", "trained", "leakage"},
    {"recognition"},
    {
        *("main", "evaluate", "compare", "prepare", "audit", "convert", "targets", "recognise"),
        *("console", "web"),
    },
)
PURE = (  # know nothing of files or flags
    "labels.py",
    "errors.py",
    "data/augment.py",
    "models/",
    "training/losses.py",
    "training/mixing.py",
    "training/optimizers.py",
    "training/state.py",
    "training/step.py",
    "evaluation/metrics.py",
    "evaluation/calibration.py",
    "evaluation/comparison.py",
    "evaluation/inference.py",
)
OF_FILES_AND_FLAGS = {
    "absl",
    "pathlib",
    "os",
    "io",
    "shutil",
    "ml_collections",
    "orbax",
    "argparse",
}
LAZY = {"import importlib", "from typing import TYPE_CHECKING, Any"}  # what `import fer_jax` loads
LONGEST, MEDIAN = 50, 12  # lines of a function


def name_of(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imports(path: Path) -> set[str]:
    """Dotted names of all that a file imports, also within functions."""
    found = set()
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name_of(path)}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def floor(room: str) -> int:
    return next(number for number, rooms in enumerate(FLOORS) if room in rooms)


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def functions(path: Path) -> list[ast.FunctionDef]:
    kinds = ast.FunctionDef | ast.AsyncFunctionDef
    return [node for node in ast.walk(tree_of(path)) if isinstance(node, kinds)]


def lines(node: ast.FunctionDef) -> int:
    """Lines of a function, from its name to its end."""
    assert node.end_lineno is not None
    return node.end_lineno - node.lineno + 1


def test_every_room_has_its_floor():
    rooms = {room_of(path) for path in FILES} - {"__init__"}
    assert rooms == set().union(*FLOORS)


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_imports_go_down(path):
    if room_of(path) == "__init__":
        at_once = [n for n in tree_of(path).body if isinstance(n, ast.Import | ast.ImportFrom)]
        assert {ast.unparse(node) for node in at_once} <= LAZY
        return
    above = []
    for name in imports(path):
        parts = name.split(".")
        if parts[0] == "fer_jax" and floor(parts[1]) > floor(room_of(path)):
            above.append(name)
    assert not above, f"{name_of(path)} imports from above: {above}"


def test_data_and_models_do_not_know_each_other():
    for path in FILES:
        others = {"data": "models", "models": "data"}.get(room_of(path))
        if others:
            assert not [n for n in imports(path) if n.startswith(f"fer_jax.{others}")], path


def test_front_doors_do_not_import_each_other():
    doors = {f"fer_jax.{door}" for door in FLOORS[-1]}
    for path in FILES:
        assert not doors & {".".join(name.split(".")[:2]) for name in imports(path)}, path


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_pure_files_know_nothing_of_files_or_flags(path):
    if name_of(path).startswith(PURE):
        assert not {name.split(".")[0] for name in imports(path)} & OF_FILES_AND_FLAGS
        calls = [n.func for n in ast.walk(tree_of(path)) if isinstance(n, ast.Call)]
        assert "open" not in {call.id for call in calls if isinstance(call, ast.Name)}


def test_the_pure_files_exist():
    for pattern in PURE:
        assert (PACKAGE / pattern).exists(), pattern


def test_only_one_file_knows_the_checkpoint_library():
    users = {name_of(p) for p in FILES if any(n.split(".")[0] == "orbax" for n in imports(p))}
    assert users == {"training/checkpoints.py"}


def test_what_is_not_needed_at_start_is_not_imported():
    """Pictures, the audit, TFDS: they come when they are asked for."""
    later = ["matplotlib", "fer_jax.auditing", "fer_jax.evaluation.plots", "tensorflow_datasets"]
    code = (
        "import sys, fer_jax.main, fer_jax.train, fer_jax.trained, fer_jax.leakage; "
        f"print([name for name in {later} if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


def test_neither_tensorflow_nor_torch():
    for path in FILES:
        roots = {name.split(".")[0] for name in imports(path)}
        assert not roots & {"tensorflow", "torch", "torchvision", "keras", "clu"}, path


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_the_first_line_says_what_the_file_is_for(path):
    first = path.read_text(encoding="utf-8").splitlines()[0]
    assert first.startswith('"""')
    assert len(first.strip('"')) > 20


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_what_is_public_has_a_docstring_and_types(path):
    silent, untyped = [], []
    tree = tree_of(path)
    scopes = [tree, *(node for node in ast.walk(tree) if isinstance(node, ast.ClassDef))]
    for scope in scopes:
        for node in scope.body:
            if not isinstance(node, ast.FunctionDef | ast.ClassDef):
                continue
            if node.name.startswith("_") or getattr(scope, "name", "").startswith("_"):
                continue
            if not ast.get_docstring(node):
                silent.append(node.name)
            if isinstance(node, ast.FunctionDef) and not typed(node):
                untyped.append(node.name)
    assert not silent, f"{name_of(path)}: no docstring: {silent}"
    assert not untyped, f"{name_of(path)}: no types: {untyped}"


def typed(node: ast.FunctionDef) -> bool:
    arguments = [
        a for a in [*node.args.args, *node.args.kwonlyargs] if a.arg not in ("self", "cls")
    ]
    return node.returns is not None and all(a.annotation is not None for a in arguments)


def test_functions_are_short():
    lengths = {f"{name_of(p)}:{node.name}": lines(node) for p in FILES for node in functions(p)}
    assert not {name: n for name, n in lengths.items() if n > LONGEST}
    assert statistics.median(lengths.values()) <= MEDIAN
