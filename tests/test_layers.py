"""The architecture, read from the source: imports go one way, and each library has its one room."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "trooper_async"

# Each room may import only from rows above its own.
LEVELS = [
    ["_version", "_slices", "models"],
    ["errors", "_values"],
    ["transition", "selection"],
    ["_converter", "_retry", "_convergence", "_schedule"],
    ["fleet_report", "_rows", "_status_error", "_arguments", "_gate", "_sessions", "_ssh", "_ledger"],
    ["_snapshot", "_journal"],
    ["_protocol", "_ticket"],
    ["_wire"],
    ["_transport"],
    ["_poller", "_purchases"],
    ["_feed", "_wait"],
    ["waiters"],
    ["resources._lookup"],
    ["resources._switches"],
    ["resources._order_reads", "resources.blibs", "resources.migrations", "resources.templates"],
    ["resources._order_waits", "resources._order_purchases"],
    ["resources.orders"],
    ["_fleet_run"],
    ["fleet"],
    ["client"],
    ["__init__"],
    ["testing"],
    ["cli", "durable"],
]
LEVEL = {room: level for level, rooms in enumerate(LEVELS) for room in rooms}


# Packages that are one room each.
FOLDED = ("testing", "cli", "durable")


def folded(name: str) -> str:
    return next((room for room in FOLDED if name.split(".")[0] == room), name)


FILES = sorted(path for path in PACKAGE.rglob("*.py") if path.parent.name != "resources" or path.stem != "__init__")


def room(path: Path) -> str:
    return folded(".".join(path.relative_to(PACKAGE).with_suffix("").parts))


@cache
def imports_of(path: Path) -> set[str]:
    return imports(ast.parse(path.read_text(encoding="utf-8")))


def imports(tree: ast.AST) -> set[str]:
    """The modules that are imported at run time, anywhere in the file."""
    found: set[str] = set()
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            if node.module in ("trooper_async", "trooper_async.resources"):
                names = {f"{node.module}.{alias.name}" for alias in node.names}
                modules = {name for name in names if name.removeprefix("trooper_async.") in LEVEL}
                found |= modules or {"trooper_async"}
            else:
                found.add(node.module)
        else:
            found |= imports(node)
    return found


@pytest.mark.parametrize("path", FILES, ids=room)
def test_imports_go_downwards(path: Path) -> None:
    """A room imports only from lower levels; rooms of one level do not know each other."""
    importer = room(path)
    for module in imports_of(path):
        if module.split(".")[0] != "trooper_async":
            continue
        other = module.removeprefix("trooper_async").lstrip(".") or "__init__"
        other = folded(other)
        if importer == other and importer in FOLDED:
            continue
        assert LEVEL[other] < LEVEL[importer], f"{importer} imports {other}"


@pytest.mark.parametrize(
    ("library", "users"),
    [
        ("aiohttp", {"_wire", "_sessions", "client", "testing"}),  # client: only the type of a session of yours
        ("cattrs", {"_converter"}),
        ("backoff", {"_retry"}),
        ("click", {"cli"}),
        ("rich", {"cli"}),
        ("dbos", {"durable"}),
    ],
)
def test_each_library_has_its_room(library: str, users: set[str]) -> None:
    """Each library is imported where their one duty is, and nowhere else."""
    found = {room(path) for path in FILES if any(module.split(".")[0] == library for module in imports_of(path))}
    assert found == users


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: path.name)
def test_files_stay_short(path: Path) -> None:
    """No file grows past some 300 lines: then a room is missing."""
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 340
