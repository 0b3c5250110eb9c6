"""What the documents name is there: files, commands with their flags, keys, extras, modules."""

import ast
import functools
import re
import shlex
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import support
from support import CONFIG, ROOT

import fer_jax
from experiments import pretrained
from fer_jax import cli, console, train
from fer_jax.config import fill, load_config

PAGES = (
    "README.md",
    "CONTRIBUTING.md",
    "weights/README.md",
    "experiments/plan.md",
    *sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md")),
)
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
COMMAND = re.compile(r"(python -m|fer-jax|make|pip install) ")
PYTHON_FILE = re.compile(r"[\w/]+\.py")
FLAG = re.compile(r"--([a-z_]+(?:\.[a-z_]+)*)")
DEFINED = re.compile(r"""DEFINE_\w+\(\s*["'](\w+)["']""")
SHELL = {"$SMALL": "--set=data.image_size=64 --set=train.epochs=3"}  # plan.md's own


@functools.cache
def kept_files() -> list[str]:
    listing = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listing.returncode:
        pytest.skip("not a git repository")
    return listing.stdout.splitlines()


def with_folders(kept: list[str]) -> set[str]:
    return {*kept, *(str(parent) for name in kept for parent in Path(name).parents)}


def text_of(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def blocks(page: str, language: str) -> list[str]:
    return [body for kind, body in FENCE.findall(text_of(page)) if kind == language]


def spans(page: str) -> list[str]:
    """Code within lines, each once."""
    return sorted(set(re.findall(r"`([^`\n]+)`", FENCE.sub("", text_of(page)))))


def commands(page: str) -> Iterator[list[str]]:
    """Each command's words, of blocks without a language and of code within lines."""
    lines = [line for block in blocks(page, "") for line in block.splitlines()]
    for line in [*lines, *spans(page)]:
        if COMMAND.match(line):
            for name, value in SHELL.items():
                line = line.replace(name, value)
            yield shlex.split(line, comments=True)


ALL_COMMANDS = sorted({shlex.join(words) for page in PAGES for words in commands(page)})


def test_every_link_leads_to_a_file_of_the_repository():
    kept, lost = kept_files(), []
    known = with_folders(kept)
    for name in kept:
        if name.endswith(".md"):
            for link in re.findall(r"\]\(([^)#:\s]+)[^):\s]*\)", (ROOT / name).read_text()):
                place = (ROOT / name).parent.joinpath(link).resolve().relative_to(ROOT.resolve())
                lost += [f"{name}: {link}"] * (str(place) not in known)
    assert not lost


@pytest.mark.parametrize("page", PAGES)
def test_every_path_in_code_is_there(page):
    """Those that begin with a folder of the repository, and bare names of Python files."""
    kept = kept_files()
    known, names = with_folders(kept), {Path(name).name for name in kept}
    folders = {name.split("/")[0] for name in kept if "/" in name}
    lost = []
    for span in spans(page):
        if PYTHON_FILE.fullmatch(span) and "/" not in span:
            lost += [span] * (span not in names)
        elif re.fullmatch(r"[\w./-]+", span) and span.split("/")[0] in folders and "/" in span:
            lost += [span] * (span.rstrip("/") not in known)
    assert not lost


@pytest.mark.parametrize("command", [c for c in ALL_COMMANDS if c.startswith(("python", "fer-"))])
def test_every_command_would_be_understood(command, monkeypatch):
    """Its module is there and takes its flags with such values; files it reads are there."""
    monkeypatch.chdir(ROOT)
    words = shlex.split(command)
    if words[0] == "fer-jax":
        assert words[1] in console.COMMANDS, words[1]
        words = ["python", "-m", f"fer_jax.{console.COMMANDS[words[1]][0]}", *words[2:]]
    module, arguments = words[2], words[3:]
    with support._front_door(module) as door, support._argv(words[2:]):
        cli._parse([module, *arguments], arguments=True)
        if module == "fer_jax.main":
            fill(train.Config, cli.config_of(door.CONFIG))
    read = [word.partition("=")[2] for word in arguments if not word.startswith("--output")]
    named = [place for place in read if place.startswith(("configs/", "weights/"))]
    assert all((ROOT / place).exists() or place in written() for place in named), named


def written() -> set[str]:
    """What the documents' own commands write."""
    outputs = {w.partition("=")[2] for c in ALL_COMMANDS for w in shlex.split(c) if "output=" in w}
    return outputs | {str(pretrained.OUTPUT)}


@pytest.mark.parametrize("command", [c for c in ALL_COMMANDS if c.startswith("make")])
def test_every_target_and_variable_of_make_is_there(command):
    makefile = (ROOT / "Makefile").read_text()
    for word in shlex.split(command)[1:]:
        name, given, _ = word.partition("=")
        wanted = rf"^{name} \?=" if given else rf"^{name}:"
        assert re.search(wanted, makefile, re.MULTILINE), word


def test_every_extra_is_there():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = {e for c in ALL_COMMANDS if c.startswith("pip") for e in re.findall(r"\[(\w+)\]", c)}
    assert named
    assert named <= project["optional-dependencies"].keys()


@pytest.mark.parametrize("page", PAGES)
def test_every_flag_and_key_within_lines_is_there(page):
    config = load_config(CONFIG, CONFIG.name)
    sources = [*(ROOT / "fer_jax").glob("*.py"), *(ROOT / "experiments").rglob("*.py")]
    known = {name for path in sources for name in DEFINED.findall(path.read_text())}
    unknown = []
    for span in spans(page):
        unknown += [
            span
            for name in FLAG.findall("" if COMMAND.match(span) else span)
            if not (is_key(config, name[7:]) if name.startswith("config.") else name in known)
        ]
        key = re.fullmatch(r"([a-z_]+)\.([a-z_0-9]+)(=.*)?", span)
        if key and key[1] in config and key[2] not in ("py", "safetensors"):
            unknown += [span] * (not is_key(config, f"{key[1]}.{key[2]}"))
    assert not unknown


def is_key(config, name: str) -> bool:
    section, _, key = name.rpartition(".")
    return key in (config[section] if section else config)


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")])
def test_python_names_what_the_package_offers(page):
    for block in blocks(page, "python"):
        nodes = list(ast.walk(ast.parse(block)))
        used = [n.attr for n in nodes if isinstance(n, ast.Attribute) and is_package(n.value)]
        assert set(used) <= set(fer_jax.__all__), used


def is_package(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and node.id == "fer_jax"


def test_the_reference_has_every_module():
    pages = "\n".join(text_of(page) for page in PAGES if page.startswith("docs/reference/"))
    named = set(re.findall(r"^::: (fer_jax\.\w+)$", pages, re.MULTILINE))
    rooms = {path.stem for path in (ROOT / "fer_jax").glob("*.py")} - {"__init__"}
    rooms |= {path.parent.name for path in (ROOT / "fer_jax").glob("*/__init__.py")}
    assert {f"fer_jax.{room}" for room in rooms} <= named
