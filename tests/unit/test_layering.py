# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The engine's arrows point down, it needs nothing but Python, and nothing runs a shell or swallows an error."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import sysconfig
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Iterator, List, Set, Tuple

import pytest

PLUGINS = Path(__file__).resolve().parents[2] / "plugins"
ENGINE = PLUGINS / "module_utils" / "_engine"

#: The engine's files and packages, from the bottom up. Each may import what stands in a lower row and nothing else, its
#: neighbours neither. The files of one package may import each other.
LAYERS: Tuple[Tuple[str, ...], ...] = (
    ("messages", "text"),
    ("errors", "model"),
    ("audit", "command", "interrupts", "leftovers", "names", "primitives", "timespan"),
    ("host", "shapes"),
    ("crypto",),
    ("sealed",),
    ("generations", "hpke", "manifest", "pem", "process", "proofs", "retention", "scratch", "slots", "state"),
    ("binding", "databases", "keys", "repositories", "stream"),
    ("apiece", "clock", "listing_cache", "memory", "nesting"),
    ("small_files",),
    ("scanning",),
    ("catalogue", "cipher", "keyfile", "publication"),
    ("choosing", "loading", "survey"),
    ("backup", "info", "rekey", "rotate", "verify"),
    ("safety",),
    ("restore",),
    ("documents",),
    ("agent",),
)
RANK = {unit: rank for rank, units in enumerate(LAYERS) for unit in units}

#: The same within the agent.
AGENT_LAYERS: Tuple[Tuple[str, ...], ...] = (
    ("start",),
    ("archive", "config"),
    ("notifications", "timers"),
    ("work",),
    ("console", "parser"),
    ("commands", "ledger"),
    ("cli",),
)
AGENT_RANK = {unit: rank for rank, units in enumerate(AGENT_LAYERS) for unit in units}

#: What a feature may import when it is used, and not before.
LAZY = {"backports", "boto3", "botocore", "cryptography", "psycopg2", "zoneinfo"}

ENGINE_FILES = sorted(ENGINE.rglob("*.py"))
PLUGIN_FILES = sorted(PLUGINS.rglob("*.py"))


def name_of(path: Path) -> str:
    return path.relative_to(PLUGINS).as_posix()


def module_of(path: Path) -> str:
    """The module's name below the engine: ``stream.pipe``; a package is named as its directory, the engine is empty."""
    parts = path.relative_to(ENGINE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def imports(tree: ast.AST, lazy: bool = False) -> Iterator[Tuple[ast.stmt, bool]]:
    """All import statements, each with whether it stands where importing the file does not run it.

    That is inside a function, or where only a type checker looks.
    """
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            yield node, lazy
        for_types = isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        inside = lazy or for_types or isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        yield from imports(node, inside)


def absolute(statement: ast.stmt) -> List[str]:
    """The top-level packages that an import statement names absolutely."""
    if isinstance(statement, ast.Import):
        return [alias.name.split(".")[0] for alias in statement.names]
    if isinstance(statement, ast.ImportFrom) and statement.level == 0:
        return [(statement.module or "").split(".")[0]]
    return []


def relative(statement: ast.stmt, path: Path) -> Set[str]:
    """The engine's modules that an import statement names relatively. Above the engine they begin with two dots."""
    if not isinstance(statement, ast.ImportFrom) or statement.level == 0:
        return set()
    package = path.parent.relative_to(ENGINE).parts
    if statement.level - 1 > len(package):
        return {".." + (statement.module or "")}
    base = package[: len(package) - (statement.level - 1)] + tuple((statement.module or "").split("."))
    prefix = [part for part in base if part]
    names = set()
    for alias in statement.names:
        whole = ENGINE.joinpath(*prefix, alias.name)
        is_module = whole.with_suffix(".py").exists() or whole.is_dir()
        names.add(".".join([*prefix, alias.name] if is_module else prefix))
    return names


def is_standard(package: str) -> bool:
    directories = [sysconfig.get_path("stdlib"), sysconfig.get_config_var("DESTSHARED") or ""]
    return package in sys.builtin_module_names or PathFinder.find_spec(package, directories) is not None


def interpreters() -> List[str]:
    """This Python, and Python 3.8 where the machine has one: the oldest that a host may have."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHON"}
    finder = [str(PLUGINS.parent / "tools" / "python"), "--quiet", "3.8"]
    oldest = subprocess.run(finder, env=environment, stdout=subprocess.PIPE, text=True, check=False).stdout.split()
    return [sys.executable, *oldest]


@pytest.mark.parametrize("path", ENGINE_FILES, ids=name_of)
def test_the_engine_imports_nothing_but_python_until_a_feature_needs_it(path: Path) -> None:
    for statement, lazy in imports(parse(path)):
        for package in absolute(statement):
            allowed = is_standard(package) or (lazy and package in LAZY)
            assert allowed, f"{name_of(path)}:{statement.lineno} imports {package}"


@pytest.mark.once
@pytest.mark.parametrize("path", ENGINE_FILES, ids=name_of)
def test_the_engine_names_itself_only_relatively_and_never_what_is_around_it(path: Path) -> None:
    for statement, _lazy in imports(parse(path)):
        for package in absolute(statement):
            assert package not in ("_engine", "ansible", "ansible_collections"), f"{name_of(path)}:{statement.lineno}"
        for module in relative(statement, path):
            assert not module.startswith(".."), f"{name_of(path)}:{statement.lineno} reaches above the engine"


@pytest.mark.once
@pytest.mark.parametrize("path", [path for path in ENGINE_FILES if module_of(path)], ids=name_of)
def test_every_arrow_points_down(path: Path) -> None:
    unit = module_of(path).split(".", maxsplit=1)[0]
    assert unit in RANK, f"{name_of(path)} stands in no layer. Say in LAYERS where it belongs."
    for statement, _lazy in imports(parse(path)):
        for module in relative(statement, path):
            below = module.split(".")[0]
            where = f"{name_of(path)}:{statement.lineno} imports {module or 'the engine itself'}"
            assert below == unit or not below or RANK.get(below, len(LAYERS)) < RANK[unit], where


AGENT_FILES = [path for path in ENGINE_FILES if module_of(path).startswith("agent.")]


@pytest.mark.once
@pytest.mark.parametrize("path", AGENT_FILES, ids=name_of)
def test_every_arrow_within_the_agent_points_down(path: Path) -> None:
    unit = module_of(path).split(".")[1]
    assert unit in AGENT_RANK, f"{name_of(path)} stands in no layer. Say in AGENT_LAYERS where it belongs."
    for statement, _lazy in imports(parse(path)):
        for module in relative(statement, path):
            below = module.partition("agent.")[2].split(".")[0]
            where = f"{name_of(path)}:{statement.lineno} imports {module}"
            assert below == unit or not below or AGENT_RANK.get(below, len(AGENT_LAYERS)) < AGENT_RANK[unit], where


@pytest.mark.once
def test_no_two_files_need_each_other() -> None:
    needs = {
        module_of(path): {module for statement, _lazy in imports(parse(path)) for module in relative(statement, path)}
        for path in ENGINE_FILES
    }
    # Every pass takes away what needs nothing that is left; a circle is what no pass can take away.
    while needs:
        free = {name for name, wanted in needs.items() if not wanted & (set(needs) - {name})}
        assert free, f"these import each other in a circle: {', '.join(sorted(needs))}"
        needs = {name: wanted for name, wanted in needs.items() if name not in free}


@pytest.mark.once
@pytest.mark.parametrize("interpreter", interpreters())
def test_every_engine_file_imports_with_no_third_party_package_present(interpreter: str) -> None:
    names = [".".join(filter(None, ["_engine", module_of(path)])) for path in ENGINE_FILES]
    program = (
        "import importlib, sys\n"
        "sys.dont_write_bytecode = True\n"
        "sys.path.insert(0, sys.argv[1])\n"
        "for name in sys.argv[2:]:\n"
        "    importlib.import_module(name)\n"
        "print(sys.version_info[:2], len(sys.argv[2:]))\n"
    )
    done = subprocess.run(
        [interpreter, "-I", "-S", "-W", "error", "-c", program, str(ENGINE.parent), *names],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert done.stdout.endswith(f" {len(ENGINE_FILES)}\n")


@pytest.mark.once
@pytest.mark.parametrize("path", PLUGIN_FILES, ids=name_of)
def test_nothing_runs_a_shell(path: Path) -> None:
    shells = {("os", "system"), ("os", "popen"), ("subprocess", "getoutput"), ("subprocess", "getstatusoutput")}
    for node in ast.walk(parse(path)):
        where = f"{name_of(path)}:{getattr(node, 'lineno', 0)}"
        if isinstance(node, ast.keyword) and node.arg in ("shell", "use_unsafe_shell"):
            assert isinstance(node.value, ast.Constant), f"{where} decides at run time whether to use a shell"
            assert node.value.value is False, f"{where} uses a shell"
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            assert (node.value.id, node.attr) not in shells, f"{where} uses a shell"


@pytest.mark.once
@pytest.mark.parametrize("path", PLUGIN_FILES, ids=name_of)
def test_nothing_swallows_whatever_went_wrong(path: Path) -> None:
    for node in ast.walk(parse(path)):
        if not isinstance(node, ast.ExceptHandler):
            continue
        where = f"{name_of(path)}:{node.lineno}"
        assert node.type is not None, f"{where} catches everything, without saying so"
        caught = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
        broad = {"Exception", "BaseException"} & {one.id for one in caught if isinstance(one, ast.Name)}
        silent = all(
            isinstance(statement, (ast.Pass, ast.Continue))
            or (isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant))
            for statement in node.body
        )
        assert not (broad and silent), f"{where} swallows whatever went wrong"
