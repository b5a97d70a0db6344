"""Plain data ↔ models. The only user of cattrs, which finds the hook for each type; the hooks are written here.

There are two ways to read a model:

- `structure` reads a response of the API, by the API's names and tolerantly. A field whose type allows None becomes
  None if it is missing, null, `""` or unreadable; an unreadable one is logged once. What is unreadable, or unknown to
  the model, is kept in `extra`. Only ids and status words (the fields whose type does not allow None) are required.
- `from_data` reads what `to_data` wrote, by the model's own names and strictly: any value of the wrong kind is an
  error.

An error names the path of a value that cannot be read and what was expected, never the value itself.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from functools import cache, reduce
from operator import or_
from types import NoneType
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar, get_args, get_origin, get_type_hints

from attrs import NOTHING, AttrsInstance, fields, frozen, has

from trooper_async._base import values
from trooper_async._base.errors import ConfigurationError, ResponseFormatError
from trooper_async._base.json_text import JSON, json_number
from trooper_async._base.values import Unexpected

if TYPE_CHECKING:
    from cattrs import Converter

T = TypeVar("T")
Hook: TypeAlias = Callable[[Any, Any], Any]  # cattrs' own type of a structure hook; no hook here needs the type
Money: TypeAlias = Literal["text", "number"]

LOG = logging.getLogger("trooper_async.responses")

EXTRA = "extra"
"""The model field that holds what the model does not know or could not read."""

_API_NAMES = "names in the API"
_REQUIRED = "required in stored data"
REQUIRED = {_REQUIRED: True}
"""The metadata of a field that `from_data` needs although it has a default."""
_NOT_GIVEN = (None, "")
_logged: set[tuple[type, str]] = set()


def api_names(*names: str) -> dict[str, tuple[str, ...]]:
    """The metadata of a field that has other names in the API; if several are given, the first one counts."""
    return {_API_NAMES: names}


def names_in_api(model: type[AttrsInstance]) -> dict[str, tuple[str, ...]]:
    """The names that each field of a model may have in a response; the one in the API's document comes first."""
    return {one.name: one.metadata.get(_API_NAMES, (one.name,)) for one in fields(model) if one.name != EXTRA}


def prepare() -> None:
    """Import cattrs now, which takes about 40 ms: call this before an event loop depends on quick responses."""
    _api_converter()
    _own_converter()


def structure(data: JSON, kind: type[T]) -> T:
    """Read a part of a response as `kind` (a model, `list[model]`, `int` or `str`), tolerantly.

    Raises:
        ResponseFormatError: a required field is missing, or a required value is of the wrong kind.
    """
    try:
        return _api_converter().structure(data, kind)
    except Unexpected as error:
        path, expected = error.path, error.expected
    # raised here, where the exception caught above, whose traceback holds the response, is no longer its context
    raise ResponseFormatError(f"${path}", expected)


def from_data(data: object, kind: type[T]) -> T:
    """Read what `to_data` wrote, strictly.

    Raises:
        ConfigurationError: a field is missing or of the wrong kind, or the fields contradict each other.
    """
    try:
        return _own_converter().structure(data, kind)
    except Unexpected as error:
        problem = f"${error.path} should be {error.expected}"
    except ConfigurationError as error:  # of the model itself
        problem = error.message
    except RecursionError:
        problem = "it is nested too deeply"
    raise ConfigurationError(f"this is not {kind.__name__} data: {problem}")


def to_data(value: object, *, money: Money) -> JSON:
    """The JSON types of a model, or of a value in one: snake_case names, ISO 8601 times, money as text or number."""
    match value:
        case Decimal():
            return _number(value) if money == "number" else str(value)
        case datetime():
            return value.isoformat()
        case StrEnum():
            return value.value
        case list() | tuple():
            return [to_data(item, money=money) for item in value]
        case Mapping():
            # the API's own JSON, in which a Decimal is any number with a point
            return {str(key): to_data(item, money="number") for key, item in value.items()}
        case str() | bool() | int() | float() | None:
            return value
    model: Any = value
    if not has(type(model)):
        raise ConfigurationError(f"{type(model).__name__} has no JSON form")
    return model_data(model, money=money)


def model_data(model: AttrsInstance, *, money: Money = "text") -> dict[str, JSON]:
    """The fields of a model in JSON types, as `to_data` gives them; `extra` only if it holds something."""
    names = [one.name for one in fields(type(model)) if one.name != EXTRA]
    if getattr(model, EXTRA, None):
        names.append(EXTRA)
    return {name: to_data(getattr(model, name), money=money) for name in names}


def _number(value: Decimal) -> JSON:
    try:
        return json_number(value)
    except ConfigurationError:
        return str(value)


def ids_of(row: JSON) -> tuple[int, int | None] | None:
    """The order id and the server id in a row of `/api/orders`, as far as they can be read. Nothing is guessed."""
    if not isinstance(row, dict):
        return None
    try:
        order_id = values.to_int(row.get("order_id"))
    except Unexpected:
        return None
    server_id = row.get("serverId")
    try:
        return order_id, order_id if server_id in _NOT_GIVEN else values.to_int(server_id)
    except Unexpected:
        return order_id, None


# Hooks for both ways -------------------------------------------------------------------------------------------------


def _origin(kind: Any) -> Any:
    return get_origin(kind)


def _is_optional(kind: Any) -> bool:
    return NoneType in get_args(kind)


def _without_none(kind: Any) -> Any:
    return reduce(or_, [one for one in get_args(kind) if one is not NoneType])


def _is_word(kind: Any) -> bool:
    """Whether it is a union of a `StrEnum` and str, the only type here whose second part is str."""
    return get_args(kind)[1:] == (str,)


def _word_hook(kind: Any) -> Hook:
    words: type[StrEnum] = get_args(kind)[0]
    known = {word.value: word for word in words}

    def to_word(value: object, _: Any) -> object:
        if isinstance(value, str):
            return known.get(value.casefold(), value)
        raise Unexpected("a status word")

    return to_word


def _new_converter(hooks: Mapping[Any, Hook], model_hook: Callable[[type, Converter], Hook]) -> Converter:
    from cattrs import Converter  # slow to import: see `prepare`

    converter = Converter()
    # cattrs' own hooks turn 1.5 into 1, "false" into True, and take the keys of an object for a list
    for kind, hook in hooks.items():
        converter.register_structure_hook(kind, hook)
    converter.register_structure_hook_factory(_is_word, _word_hook)
    converter.register_structure_hook_func(lambda kind: _origin(kind) in (dict, Mapping), hooks[dict])

    def list_hook(kind: Any) -> Hook:
        to_item = converter.get_structure_hook(get_args(kind)[0])
        collect: type = get_origin(kind)

        def to_list(data: object, _: Any) -> object:
            if not isinstance(data, list):
                raise Unexpected("a list")
            items = []
            try:
                for value in data:
                    items.append(to_item(value, None))  # noqa: PERF401 - its length is the index in the path
            except Unexpected as error:
                error.inside(f"[{len(items)}]")
                raise
            return collect(items)

        return to_list

    converter.register_structure_hook_factory(lambda kind: _origin(kind) in (list, tuple), list_hook)
    converter.register_structure_hook_factory(has, lambda model: model_hook(model, converter))
    return converter


# Responses of the API ------------------------------------------------------------------------------------------------

_LOOSE: dict[Any, Hook] = {
    int: values.to_int,
    bool: values.to_bool,
    str: values.to_str,
    Decimal: values.to_decimal,
    datetime: values.to_time,
    dict: values.to_object,
}


@cache
def _api_converter() -> Converter:
    converter = _new_converter(_LOOSE, _api_model_hook)
    # a model's hook never passes None on
    converter.register_structure_hook_factory(
        _is_optional, lambda kind: converter.get_structure_hook(_without_none(kind))
    )
    return converter


@frozen
class _Field:
    """How a field of a model is read from a row of the API."""

    model: type
    attribute: str
    name: str
    others: tuple[str, ...]
    """The names that are looked up if the first one is not given."""
    hook: Hook
    is_optional: bool

    def read(self, value: JSON, row: dict[str, JSON], extra: dict[str, JSON]) -> object:
        """The field's value; `value` is what `row` has under the first name."""
        name = self.name
        for other in self.others:
            if value is None or value == "":
                name, value = other, row.get(other)
        if value is None or value == "":
            if self.is_optional:
                return None
            raise Unexpected("there", f".{self.attribute}")
        try:
            return self.hook(value, None)
        except Unexpected as error:
            error.inside(f".{self.attribute}")
            if not self.is_optional:
                raise
            extra[name] = value
            self._log_once(error)
        return None

    def _log_once(self, error: Unexpected) -> None:
        if (self.model, self.attribute) not in _logged:
            _logged.add((self.model, self.attribute))
            text = "%s.%s is read as None, and `extra` has what the API sent: $%s should be %s (logged once)"
            LOG.warning(text, self.model.__name__, self.attribute, error.path, error.expected)


def _api_model_hook(model: Any, converter: Converter) -> Hook:
    hints = get_type_hints(model)
    known: set[str] = set()
    table: list[tuple[_Field, str, Any]] = []
    for attribute, (name, *others) in names_in_api(model).items():
        known.update((name, *others))
        kind = hints[attribute]
        required_kind = _without_none(kind) if _is_optional(kind) else kind
        hook = converter.get_structure_hook(kind)
        one = _Field(model, attribute, name, tuple(others), hook, _is_optional(kind))
        table.append((one, name, required_kind))

    def to_model(data: object, _: Any) -> object:
        if not isinstance(data, dict):
            raise Unexpected("an object")
        given: list[object] = []
        extra: dict[str, JSON] = {}
        for one, name, kind in table:
            value = data.get(name)
            given.append(value if type(value) is kind else one.read(value, data, extra))
        if not known.issuperset(data):
            extra.update((name, value) for name, value in data.items() if name not in known)
        return model(*given, extra=extra)

    return to_model


# Data of our own -----------------------------------------------------------------------------------------------------


def _exactly(kind: type, expected: str) -> Hook:
    def check(value: object, _: Any) -> object:
        if type(value) is not kind:
            raise Unexpected(expected)
        return value

    return check


def _to_decimal(value: object, _: Any) -> Decimal:
    return values.to_decimal(repr(value) if type(value) is float else value)


def _to_float(value: object, _: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal) or not math.isfinite(value):
        raise Unexpected("a number")
    return float(value)


_STRICT: dict[Any, Hook] = {
    int: _exactly(int, "a whole number"),
    bool: _exactly(bool, "true or false"),
    str: _exactly(str, "text"),
    float: _to_float,
    Decimal: _to_decimal,
    datetime: values.to_time,
}


def _to_object(value: object, _: object = None) -> dict[str, JSON]:
    return {name: _with_decimals(item) for name, item in values.to_object(value).items()}


def _with_decimals(value: JSON) -> JSON:
    """The JSON value as `loads` would read it: other parsers read a number with a point as a float."""
    if isinstance(value, float):
        return Decimal(repr(value))
    if isinstance(value, list):
        return [_with_decimals(item) for item in value]
    return _to_object(value) if isinstance(value, dict) else value


def _literal_hook(kind: Any) -> Hook:
    words = get_args(kind)

    def to_literal(value: object, _: Any) -> object:
        if value not in words:
            raise Unexpected(" or ".join(map(repr, words)))
        return value

    return to_literal


def add_hook(kind: type, read: Hook) -> None:
    """Let `from_data` read another class with `read`, which raises `Unexpected` for what it cannot read."""
    _STRICT[kind] = read
    _own_converter.cache_clear()


@cache
def _own_converter() -> Converter:
    converter = _new_converter({**_STRICT, dict: _to_object}, _own_model_hook)
    converter.register_structure_hook_factory(lambda kind: _origin(kind) is Literal, _literal_hook)

    def optional_hook(kind: Any) -> Hook:
        read = converter.get_structure_hook(_without_none(kind))
        return lambda value, _: None if value is None else read(value, None)

    converter.register_structure_hook_factory(_is_optional, optional_hook)
    return converter


def _own_model_hook(model: type[AttrsInstance], converter: Converter) -> Hook:
    hints = get_type_hints(model)
    table = [(one, converter.get_structure_hook(hints[one.name])) for one in fields(model)]

    def to_model(data: object, _: Any) -> object:
        if not isinstance(data, Mapping):
            raise Unexpected("an object")
        given: dict[str, Any] = {}
        for one, read in table:
            if one.name in data:
                try:
                    given[one.name] = read(data[one.name], None)
                except Unexpected as error:
                    error.inside(f".{one.name}")
                    raise
            elif one.default is NOTHING or _REQUIRED in one.metadata:
                raise Unexpected("there", f".{one.name}")
        return model(**given)

    return to_model
