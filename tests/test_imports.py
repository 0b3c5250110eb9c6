"""The floors of the code base: who may import whom, and what every file and function has."""

import ast
import functools
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

from fer_jax.console import COMMANDS

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "fer_jax"
FILES = sorted(PACKAGE.rglob("*.py"))
FLOORS = (  # a file may import from its own floor and from those before it
    {"errors"},
    {"labels", "cache", "outputs"},
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


@functools.cache
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


def test_imports_go_down():
    for path in set(FILES) - {PACKAGE / "__init__.py"}:
        rooms = [name.split(".")[1] for name in imports(path) if name.startswith("fer_jax.")]
        above = [room for room in rooms if floor(room) > floor(room_of(path))]
        assert not above, f"{name_of(path)} imports from above: {above}"


def test_the_package_imports_nothing_at_once():
    body = tree_of(PACKAGE / "__init__.py").body
    at_once = [node for node in body if isinstance(node, ast.Import | ast.ImportFrom)]
    assert {ast.unparse(node) for node in at_once} <= LAZY


def test_data_and_models_do_not_know_each_other():
    for path in FILES:
        others = {"data": "models", "models": "data"}.get(room_of(path))
        if others:
            assert not [n for n in imports(path) if n.startswith(f"fer_jax.{others}")], path


def test_front_doors_do_not_import_each_other():
    doors = {f"fer_jax.{door}" for door in FLOORS[-1]}
    for path in FILES:
        assert not doors & {".".join(name.split(".")[:2]) for name in imports(path)}, path


def test_pure_files_know_nothing_of_files_or_flags():
    for path in [path for path in FILES if name_of(path).startswith(PURE)]:
        known = {name.split(".")[0] for name in imports(path)} & OF_FILES_AND_FLAGS
        assert not known, name_of(path)
        calls = [n.func for n in ast.walk(tree_of(path)) if isinstance(n, ast.Call)]
        called = {call.id for call in calls if isinstance(call, ast.Name)}
        assert "open" not in called, name_of(path)


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


@pytest.mark.parametrize("command", sorted({module for module, _ in COMMANDS.values()}))
def test_no_commands_help_waits_for_jax(command):
    shown = "print([name for name in ('jax', 'scipy') if name in sys.modules])"
    code = f"import sys, fer_jax.{command}; {shown}"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


def test_neither_tensorflow_nor_torch():
    for path in FILES:
        roots = {name.split(".")[0] for name in imports(path)}
        assert not roots & {"tensorflow", "torch", "torchvision", "keras", "clu"}, path


def test_the_first_line_says_what_the_file_is_for():
    for path in FILES:
        first = path.read_text(encoding="utf-8").splitlines()[0]
        assert first.startswith('"""'), name_of(path)
        assert len(first.strip('"')) > 20, name_of(path)


def test_functions_are_short():
    lengths = {f"{name_of(p)}:{node.name}": lines(node) for p in FILES for node in functions(p)}
    assert not {name: n for name, n in lengths.items() if n > LONGEST}
    assert statistics.median(lengths.values()) <= MEDIAN
