"""The architecture, checked in the source: imports go one way, and each library is imported in one place."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "trooper_async"

# Each of these may import only from those above it.
LAYERS = (
    "_base",
    "models",
    "errors",
    "_api",
    "_http",
    "_waiting",
    "_buying",
    "_groups",
    "_fleet",
    "client",
    "__init__",
    "testing",
    "durable",
    "cli",
)
FILES = sorted(PACKAGE.rglob("*.py"))


def layer_of(module: str) -> str:
    """The layer of a module of the package, by its full name."""
    return module.split(".")[1] if "." in module else "__init__"


def module_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def imports_of(path: Path) -> frozenset[str]:
    """The modules that a file imports, including type-only imports."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            submodules = {f"{node.module}.{alias.name}" for alias in node.names} & MODULES
            found |= submodules or {node.module}
    return frozenset(found)


@cache
def ours() -> dict[str, frozenset[str]]:
    """The modules of the package, and those of them that each imports."""
    return {module_of(path): imports_of(path) & MODULES for path in FILES}


MODULES = {module_of(path) for path in FILES}


def test_imports_go_downwards() -> None:
    """A file imports only from its own package and from layers above it in the table."""
    imports = [(module, other) for module, others in ours().items() for other in others]
    assert len(imports) > len(FILES)
    for module, other in imports:
        above = LAYERS[: LAYERS.index(layer_of(module)) + 1]
        assert layer_of(other) in above, f"{module} imports {other}"


def test_no_modules_import_each_other_in_a_circle() -> None:
    """Within a package, too, there are no circular imports."""
    ready: set[str] = set()
    while rest := ours().keys() - ready:
        now = {module for module in rest if ours()[module] - {module} <= ready}
        assert now, f"a circle among {sorted(rest)}"
        ready |= now


@pytest.mark.parametrize(
    ("library", "users"),
    [
        ("aiohttp", {"_http", "client", "testing"}),  # client: only the type of your own session
        ("cattrs", {"_base"}),
        ("backoff", {"_http"}),
        ("click", {"cli"}),
        ("rich", {"cli"}),
        ("dbos", {"durable"}),
    ],
)
def test_each_library_has_its_place(library: str, users: set[str]) -> None:
    """Each library is imported only in the place that is responsible for it."""
    found = {layer_of(module_of(path)) for path in FILES if any(m.split(".")[0] == library for m in imports_of(path))}
    assert found == users


def test_the_architecture_can_be_seen_from_the_listing() -> None:
    """There are at most sixteen entries directly under the package."""
    entries = [path for path in PACKAGE.iterdir() if path.name != "__pycache__"]
    assert len(entries) <= 16
