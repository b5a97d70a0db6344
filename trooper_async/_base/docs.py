"""Docstrings of fields, as `help()` shows them: Python itself keeps none of a class's attributes."""

from __future__ import annotations

import ast
import inspect
import textwrap
from itertools import pairwise


def document(cls: type) -> None:
    """Add the docstrings of the fields to the docstring of the class, the first time that it is read."""
    text = cls.__dict__.get("__doc__")
    if not isinstance(text, _WithFields):  # attrs builds a new class from the original one
        cls.__doc__ = _WithFields(text or "")  # type: ignore[assignment]  # a descriptor that gives text


def field_docs(cls: type) -> dict[str, str]:
    """The docstring of each field, inherited ones included, as found in the source; empty if there is no source."""
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__[:-1]):
        try:
            body = ast.parse(textwrap.dedent(inspect.getsource(base))).body[0]
        except (OSError, TypeError, SyntaxError):
            continue
        statements = body.body if isinstance(body, ast.ClassDef) else []
        for statement, following in pairwise(statements):
            match statement, following:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                    found[name] = inspect.cleandoc(text)
    return found


class _WithFields:
    """The `__doc__` of a class."""

    def __init__(self, text: str) -> None:
        self._text = inspect.cleandoc(text)
        self._full: str | None = None

    def __get__(self, instance: object, owner: type) -> str:
        if self._full is None:
            lines = [f"    {name}: {' '.join(doc.split())}" for name, doc in field_docs(owner).items()]
            self._full = "\n".join([self._text, "", "Attributes:", *lines]) if lines else self._text
        return self._full
