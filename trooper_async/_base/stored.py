"""Plain data as JSON text for another process or a later release, under a mark that says what it is."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import TypeVar

from attrs import AttrsInstance

from trooper_async._base.converter import loads, names_in_api, row_of, structure
from trooper_async._base.errors import ConfigurationError, ResponseFormatError
from trooper_async._base.values import JSON

T = TypeVar("T", bound=AttrsInstance)
_FORMAT = 1


def write(model: AttrsInstance, mark: str) -> str:
    return json.dumps(_record(model, mark))


def _record(model: AttrsInstance, mark: str) -> dict[str, JSON]:
    return {mark: _FORMAT, **dict.fromkeys(names_in_api(type(model))), **row_of(model)}


def read(text: str, mark: str, kind: type[T]) -> T:
    """The model that `write` wrote.

    Raises:
        ConfigurationError: the text is none, or one of a later release.
    """
    problem = f"not a stored {kind.__name__} ({kind.__name__}.to_json writes one)"
    # raised outside `suppress`: the exceptions in it hold the text, and would be the context of ours
    with suppress(ResponseFormatError, AttributeError, UnicodeError):
        data = loads(text.encode())
        if isinstance(data, dict) and mark in data:
            if data[mark] != _FORMAT:
                problem = f"this {kind.__name__} was stored by a later release: update trooper-async"
            else:
                problem = f"this stored {kind.__name__} is damaged"
                model = structure(data, kind)
                # a text of our own holds just what we would write; as text, 1 is not 1.0 or True
                if json.dumps(data, default=repr, sort_keys=True) == json.dumps(_record(model, mark), sort_keys=True):
                    return model
    raise ConfigurationError(problem)
