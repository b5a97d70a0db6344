"""JSON ↔ models. The only user of cattrs, and the one place where the API's field names and loose types are known.

What is not as documented is a `ResponseFormatError`: where, and what should be there, never the value itself.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from functools import cache, reduce
from operator import or_
from traceback import clear_frames
from types import NoneType
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar, get_args, get_origin

from attrs import AttrsInstance, fields, has

from trooper_async._base import values
from trooper_async._base.errors import ConfigurationError, ResponseFormatError
from trooper_async._base.values import JSON

if TYPE_CHECKING:
    from cattrs import Converter

T = TypeVar("T")
Hook: TypeAlias = Callable[[Any, Any], Any]  # cattrs' own type of a structure hook

_MAX_DIGITS = 4300  # of an int, Python itself reads no more

_API_NAMES = "names in the API"


def api_names(*names: str) -> dict[str, tuple[str, ...]]:
    """The metadata of a field that the API calls otherwise: the first name that is there and not null counts."""
    return {_API_NAMES: names}


def names_in_api(model: type[AttrsInstance]) -> dict[str, tuple[str, ...]]:
    """The names that each field of a model may have in a response, the first of them that of the API's document."""
    return {one.name: one.metadata.get(_API_NAMES, (one.name,)) for one in fields(model)}


def _not_json(constant: str) -> JSON:
    raise ValueError(constant)


def _decimal(text: str) -> Decimal:
    if len(text) > _MAX_DIGITS:
        raise ValueError
    return Decimal(text)


def _object(pairs: list[tuple[str, JSON]]) -> dict[str, JSON]:
    data = dict(pairs)
    if len(data) < len(pairs):  # which of the two counts, each reader decides otherwise (RFC 8259, part 4)
        raise ResponseFormatError("$", "JSON whose objects have each name once")
    return data


_DECODER = json.JSONDecoder(parse_float=_decimal, parse_constant=_not_json, object_pairs_hook=_object)
NO_JSON = (ValueError, RecursionError, ArithmeticError)
"""What reading a text as JSON raises where it is none."""


def loads(body: bytes) -> JSON:
    """The body's JSON, every number with a point or exponent as `Decimal` of its own text.

    Raises:
        ResponseFormatError: not JSON (also NaN, which JSON has not), nested too deep, with a number of 4300 digits, or
            an object has a name twice.
    """
    try:
        # strictly: json itself lets surrogates pass
        data: JSON = _DECODER.decode(body.decode(json.detect_encoding(body)))
    except NO_JSON:
        pass  # raised below, where the exception at hand (it holds the body) is no context of ours
    else:
        return data
    raise ResponseFormatError("$", "JSON")


def decode_at(text: str, index: int) -> tuple[JSON, int]:
    """The JSON value that begins at `index`, as in `loads`, and where it ends.

    Raises:
        NO_JSON: there is none, or not the whole of it.
        ResponseFormatError: an object has a name twice.
    """
    return _DECODER.raw_decode(text, index)


def dumps(data: dict[str, JSON]) -> bytes:
    """JSON for a request body; a `Decimal` is sent as the same number.

    Raises:
        ConfigurationError: a value that has no such JSON number (NaN, or more digits than a JSON reader keeps).
    """
    try:
        return _ENCODER.encode(data).encode()
    except (TypeError, ValueError, RecursionError) as error:
        if isinstance(error, ConfigurationError):
            raise
    raise ConfigurationError("an argument can't be sent as JSON")


def json_number(value: object) -> int | float:
    """The JSON number that a reader takes back as the same value."""
    if isinstance(value, Decimal) and value.is_finite() and abs(value.adjusted()) < 300:
        number = int(value) if value == value.to_integral_value() else float(value)
        if Decimal(repr(number)) == value:
            return number
    raise ConfigurationError(f"{value!s:.40} is no number that can be sent as JSON")


_ENCODER = json.JSONEncoder(default=json_number, allow_nan=False)


def structure(data: JSON, kind: type[T]) -> T:
    """`data` as a `kind` (a model, or `list[model]`).

    Raises:
        ResponseFormatError: a field that is required is not there, or one has a value of the wrong kind.
    """
    try:
        return _converter(False).structure(data, kind)
    except Exception:  # noqa: BLE001, S110 - whatever a hook raised on this data, the detailed pass names its place
        pass
    raise _locate(data, kind)  # in no variable: its traceback would hold this frame, and with it the whole answer


def row_of(model: AttrsInstance) -> dict[str, JSON]:
    """A model as a row of the API's; `structure` takes it back as an equal one."""
    given = {names[0]: getattr(model, name) for name, names in names_in_api(type(model)).items()}
    return {name: _plain(value) for name, value in given.items() if value is not None}


def _plain(value: object) -> JSON:
    match value:
        case Decimal():
            try:
                return json_number(value)
            except ConfigurationError:
                return str(value)
        case datetime():
            return value.isoformat()
        case list() | tuple():
            return [_plain(item) for item in value]
        case dict():
            return {str(key): _plain(item) for key, item in value.items()}
        case str() | bool() | int() | float() | None:
            return value
    assert has(type(value))  # noqa: S101 - the models hold nothing else
    return row_of(value)  # type: ignore[arg-type]  # a model


def ids_of(row: JSON) -> tuple[int, int | None] | None:
    """The order's id and the server's of a row of `/api/orders`, where that much can be read: no id is guessed."""
    if not isinstance(row, dict):
        return None
    try:
        order_id = values.to_int(row.get("order_id"), int)
    except values.Unexpected:
        return None
    server_id = row.get("serverId")
    try:
        return order_id, order_id if server_id is None else values.to_int(server_id, int)
    except values.Unexpected:
        return order_id, None


def _locate(data: JSON, kind: type[T]) -> ResponseFormatError:
    from cattrs import transform_error

    try:
        _converter(True).structure(data, kind)
    except Exception as error:  # noqa: BLE001 - cattrs raises groups of whatever its hooks raised
        # "<what is expected> @ <path>"; the path is made of list indexes and the models' names.
        expected, _, path = transform_error(error, format_exception=_expectation)[0].partition(" @ ")
        _let_go(error)
        return ResponseFormatError(path, expected)
    raise AssertionError("the two converters differ")  # pragma: no cover - they are made of the same hooks


def _let_go(error: BaseException) -> None:
    """Clear the frames that hold an error which holds them: by their callers' frames they would hold a whole answer."""
    clear_frames(error.__traceback__)
    for inner in error.exceptions if isinstance(error, BaseExceptionGroup) else ():
        _let_go(inner)


def _expectation(error: BaseException, kind: type | None) -> str:
    if isinstance(error, KeyError):
        return "there"
    if isinstance(error, values.Unexpected):
        return error.expected
    return getattr(kind, "__name__", None) or "an object or a list"


def _name_unexpected(items: list[JSON], kind: Any) -> None:
    """Raise for the first item that is no `kind` what cattrs would raise for all: it may be a million."""
    from cattrs.errors import IterableValidationError, IterableValidationNote

    fits = _converter(False).get_structure_hook(kind)
    for index, item in enumerate(items):
        try:
            fits(item, kind)
        except Exception:  # noqa: BLE001 - as in `structure`
            try:
                _converter(True).structure(item, kind)
            except Exception as error:  # noqa: BLE001 - as in `_locate`
                error.add_note(IterableValidationNote("", index, kind))
                # pyright knows ExceptionGroup's __new__ only
                raise IterableValidationError("", [error], kind) from None  # pyright: ignore[reportCallIssue]


def _is_word(kind: Any) -> bool:
    args = get_args(kind)
    return len(args) == 2 and args[1] is str and isinstance(args[0], type) and issubclass(args[0], StrEnum)


def _to_word(words: type[StrEnum]) -> Hook:
    known = {word.value: word for word in words}

    def to_word(value: object, _: Any) -> object:
        if isinstance(value, str):
            return known.get(value.casefold(), value)
        raise values.Unexpected("a status word")

    return to_word


def _is(generic: type) -> Callable[[Any], bool]:
    return lambda kind: get_origin(kind) is generic


def _is_optional(kind: Any) -> bool:
    return NoneType in get_args(kind)


def _sure(kind: Any) -> Any:
    """The kind without None."""
    return reduce(or_, [one for one in get_args(kind) if one is not NoneType])


@cache
def _converter(detailed: bool) -> Converter:
    """The converter, made on first use (importing cattrs costs more than importing all the rest)."""
    from cattrs import Converter
    from cattrs.cols import homogenous_tuple_structure_factory, list_structure_factory
    from cattrs.gen import make_dict_structure_fn

    converter = Converter(detailed_validation=detailed)
    # cattrs' own hooks turn 1.5 into 1 and "false" into True
    converter.register_structure_hook(int, values.to_int)
    converter.register_structure_hook(bool, values.to_bool)
    converter.register_structure_hook(str, values.to_str)
    converter.register_structure_hook(Decimal, values.to_decimal)
    converter.register_structure_hook(datetime, values.to_time)
    converter.register_structure_hook_factory(_is_word, lambda kind: _to_word(get_args(kind)[0]))
    # None never comes here: `structure_model` leaves it out
    converter.register_structure_hook_factory(_is_optional, lambda kind: converter.get_structure_hook(_sure(kind)))
    converter.register_structure_hook_func(_is(dict), values.to_config)

    def strict_list(factory: Callable[[type, Converter], Hook]) -> Callable[[type], Hook]:
        def hook(kind: type) -> Hook:
            items = factory(kind, converter)

            def structure_list(data: object, _: type) -> object:
                if not isinstance(data, list):
                    raise values.Unexpected("a list")
                if detailed:
                    _name_unexpected(data, get_args(kind)[0])
                return items(data, kind)

            return structure_list

        return hook

    # any iterable is a list to cattrs, an object's keys too
    converter.register_structure_hook_factory(_is(list), strict_list(list_structure_factory))
    converter.register_structure_hook_factory(_is(tuple), strict_list(homogenous_tuple_structure_factory))

    def model_hook(model: type[AttrsInstance]) -> Hook:
        plain = make_dict_structure_fn(model, converter)
        renamed = [(name, names) for name, names in names_in_api(model).items() if names != (name,)]

        def structure_model(data: object, kind: type) -> object:
            if not isinstance(data, dict):
                raise values.Unexpected("an object")
            row = {name: value for name, value in data.items() if value is not None}
            for name, candidates in renamed:
                for candidate in candidates:
                    if candidate in row:
                        row[name] = row[candidate]
                        break
                else:
                    row.pop(name, None)
            return plain(row, kind)

        return structure_model

    converter.register_structure_hook_factory(has, model_hook)
    return converter
