"""The public surface as tools see it: importers, `help()`, hovers, mocks, type checkers."""

from __future__ import annotations

import ast
import builtins
import importlib
import inspect
import pydoc
import re
import subprocess
import sys
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import TypeVar
from unittest.mock import AsyncMock, create_autospec

import pytest

import trooper_async
from trooper_async import Blibs, Fleet, MigrationOptions, Migrations, Orders, Templates, TrooperClient, durable, testing

SOURCE = Path(trooper_async.__file__)
GROUPS = {"blibs": Blibs, "orders": Orders, "fleet": Fleet, "migrations": Migrations, "templates": Templates}


def public_callables(package: ModuleType) -> Iterator[tuple[str, Callable[..., object]]]:
    """Each function and method that users of a package can call, by its dotted name; properties by their getters."""
    for name in package.__all__:
        value = getattr(package, name)
        if inspect.isfunction(value):
            yield name, value
        elif inspect.isclass(value):
            for member in dir(value):
                defined = inspect.getattr_static(value, member)
                function = defined.fget if isinstance(defined, property) else getattr(defined, "__func__", defined)
                if (
                    inspect.isfunction(function)
                    and function.__module__.startswith("trooper_async")
                    and member[0] != "_"
                ):
                    yield f"{name}.{member}", function


CALLABLES = dict(public_callables(trooper_async))


def test_every_name_is_the_same_for_type_checkers_and_imports() -> None:
    """What type checkers see, what `__all__` lists and what can be imported are the same names."""
    checked = {
        alias.name: node.module
        for node in ast.walk(ast.parse(SOURCE.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and node.module is not None and node.module.startswith("trooper_async")
        for alias in node.names
    }
    assert sorted(checked) == sorted(trooper_async.__all__)
    for name, module in checked.items():
        assert getattr(trooper_async, name) is getattr(importlib.import_module(module), name)
    assert set(trooper_async.__all__) <= set(dir(trooper_async))


def test_an_unknown_name_is_an_attribute_error() -> None:
    """An unknown name fails as in any module, and `hasattr` says no."""
    assert not hasattr(trooper_async, "Unknown")
    with pytest.raises(ImportError, match="cannot import name 'Unknown' from 'trooper_async'"):
        exec("from trooper_async import Unknown")


def in_new_python(code: str) -> str:
    command = [sys.executable, "-W", "error", "-c", code]
    return subprocess.run(command, capture_output=True, check=True, text=True).stdout.strip()


def test_importing_the_package_loads_none_of_its_libraries() -> None:
    """`import trooper_async`, and its pytest plugin, load neither its modules nor aiohttp."""
    code = "import sys, {}; print(*(m for m in sys.modules if m.split('.')[0] in ('trooper_async', 'aiohttp', 'attr')))"
    assert in_new_python(code.format("trooper_async")) == "trooper_async"
    plugin = "trooper_async.testing.plugin"
    assert set(in_new_python(code.format(plugin)).split()) - {"attr"} == {
        "trooper_async",
        "trooper_async.testing",
        plugin,
    }


def test_star_import_and_public_modules() -> None:
    """`from trooper_async import *` gives every public name; `errors`, `models` and `client` are attributes."""
    code = "import trooper_async as t; t.errors, t.models, t.client; from trooper_async import *; print(TrooperClient)"
    assert in_new_python(code) == "<class 'trooper_async.client.TrooperClient'>"


def test_the_help_of_a_model_lists_its_fields() -> None:
    """Each field is on one line, with its docstring."""
    *_, above, extra, blibs, order, blib = (MigrationOptions.__doc__ or "").splitlines()
    assert above == "Attributes:"
    assert extra.startswith(
        "    extra: What else the API sent, by its own names: fields that this release does not know, "
    )
    assert (blibs, order, blib) == (
        "    available_blibs: The offers that it can be migrated to.",
        "    current_order: The order as it is.",
        "    current_blib: The offer that the order has now.",
    )


@pytest.mark.parametrize("name", GROUPS)
def test_a_group_is_a_documented_member_of_the_client(name: str) -> None:
    """Each group is typed and documented on the class: `help()`, hovers and mocks made from the class show it."""
    member = inspect.getattr_static(TrooperClient, name)
    assert typing.get_type_hints(member.fget)["return"] is GROUPS[name]
    assert member.__doc__
    assert " ".join(member.__doc__.split()) in " ".join(pydoc.plain(pydoc.render_doc(TrooperClient)).split())
    assert getattr(AsyncMock(spec=TrooperClient), name)
    assert getattr(create_autospec(TrooperClient), name)


async def test_a_group_can_be_mocked_from_its_class() -> None:
    """`AsyncMock(spec=Orders)` has the methods of `client.orders`, and no others."""
    orders = AsyncMock(spec=Orders)
    assert await orders.list() is orders.list.return_value
    with pytest.raises(AttributeError):
        orders.delete  # noqa: B018 - the access is what fails


def test_type_hints_resolve() -> None:
    """`typing.get_type_hints` works on every public function and method: FastAPI, pydantic and others call it."""
    for name, function in CALLABLES.items():
        assert "return" in typing.get_type_hints(function), name


@pytest.mark.parametrize("package", [trooper_async, durable, testing], ids=lambda package: package.__name__)
def test_type_hints_of_constructors_resolve(package: ModuleType) -> None:
    """Also inherited ones, and those that attrs writes: libraries that inject dependencies read them."""
    for name in package.__all__:
        value = getattr(package, name)
        if inspect.isclass(value) and inspect.isfunction(value.__init__):
            assert typing.get_type_hints(value.__init__) is not None, name


@pytest.mark.parametrize("package", [trooper_async, durable, testing], ids=lambda package: package.__name__)
def test_the_types_of_a_signature_are_exported(package: ModuleType) -> None:
    """Every type that a function or method takes or returns has a name in its package, or in `trooper_async`."""
    for name, function in public_callables(package):
        used = {one for hint in typing.get_type_hints(function).values() for one in types_in(hint)}
        for kind in used if name != "RetryPolicy.delay" else ():
            if kind.__module__.startswith("trooper_async"):
                exported = (getattr(package, kind.__name__, None), getattr(trooper_async, kind.__name__, None))
                assert kind in exported, name


def test_the_aliases_in_a_signature_are_exported() -> None:
    """A hover shows an alias such as `OnChange` by its name, so that name can be imported."""
    places = (trooper_async, typing, builtins)
    for name, function in CALLABLES.items():
        known = inspect.unwrap(function).__globals__
        for annotation in inspect.unwrap(function).__annotations__.values():
            for used in [node.id for node in ast.walk(ast.parse(annotation)) if isinstance(node, ast.Name)]:
                value = known.get(used)
                if type(value).__module__ in ("typing", "types", "collections.abc") and not isinstance(value, TypeVar):
                    assert any(getattr(place, used, None) is value for place in places), (name, used)


def types_in(hint: object) -> Iterator[type]:
    """The classes in a type, inner ones too."""
    if isinstance(hint, type) and not typing.get_args(hint):
        yield hint
    for origin in (typing.get_origin(hint),):
        if isinstance(origin, type):
            yield origin
    for inner in typing.get_args(hint):
        if isinstance(inner, list):  # the arguments of a Callable
            for one in inner:
                yield from types_in(one)
        else:
            yield from types_in(inner)


# A method that calls the API says in its docstring which endpoint, and what it raises.
CALLS = (*GROUPS.values(), TrooperClient)
ENDPOINT = re.compile(r"(GET|POST) /api/[a-z-]+|No request is sent")


def missing_in_docstring(name: str) -> list[str]:
    """What is missing in this docstring."""
    function = CALLABLES[name]
    text = inspect.getdoc(function) or ""
    owner_name, _, member = name.rpartition(".")
    owner = getattr(trooper_async, owner_name, None)
    if owner is not None and isinstance(inspect.getattr_static(owner, member), property):
        return [] if text else ["text"]
    parts = re.split(r"^(Args|Returns|Yields|Raises):\n", text, flags=re.MULTILINE)
    sections = dict(zip(parts[1::2], parts[2::2], strict=True))
    signature = inspect.signature(function)
    missing = [] if parts[0] else ["text"]
    missing += [
        f"argument {parameter}"
        for parameter in signature.parameters.keys() - {"self", "cls"}
        if not re.search(rf"^ +{parameter}: \S", sections.get("Args", ""), re.MULTILINE)
    ]
    if signature.return_annotation not in ("None", None) and not sections.keys() & {"Returns", "Yields"}:
        missing.append("Returns")
    if owner in CALLS and member != "close":
        missing += [] if "Raises" in sections else ["Raises"]
        missing += [] if ENDPOINT.search(text) or member == "call" else ["the endpoint"]  # `call` is told one
    return missing


def test_a_docstring_is_complete() -> None:
    """It names each argument, the result, and for calls the exceptions and the endpoint: hovers show nothing else."""
    assert {name: missing for name in CALLABLES if (missing := missing_in_docstring(name))} == {}


def test_a_public_class_or_function_has_a_docstring() -> None:
    """`help()` of each says what it is."""
    exported = {name: getattr(trooper_async, name) for name in trooper_async.__all__}
    for name, value in exported.items():
        assert value.__doc__ or not (inspect.isclass(value) or inspect.isfunction(value)), name
