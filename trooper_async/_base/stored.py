"""A model as JSON text for another process or a later release, with a mark that says what it is."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import TypeVar

from attrs import AttrsInstance, fields

from trooper_async._base.converter import EXTRA, from_data, model_data
from trooper_async._base.errors import ConfigurationError, ResponseFormatError
from trooper_async._base.json_text import loads

T = TypeVar("T", bound=AttrsInstance)
_FORMAT = 1


def write(model: AttrsInstance, mark: str) -> str:
    return json.dumps({mark: _FORMAT, **model_data(model)})


def read(text: str, mark: str, kind: type[T]) -> T:
    """Read the model that `write` wrote.

    Raises:
        ConfigurationError: the text is no stored model of that kind, is damaged, or was written by a later release.
    """
    problem = f"not a stored {kind.__name__}"
    if hasattr(kind, "to_json"):
        problem += f" ({kind.__name__}.to_json writes one)"
    # raised outside `suppress`: the exceptions in it hold the text, and would be the context of ours
    with suppress(ResponseFormatError, ConfigurationError, AttributeError, UnicodeError):
        data = loads(text.encode())
        if isinstance(data, dict) and mark in data:
            if data[mark] != _FORMAT:
                problem = f"this {kind.__name__} was stored by a later release: update trooper-async"
            else:
                problem = f"this stored {kind.__name__} is damaged"
                # every field is written, so a missing one was lost
                if data.keys() >= {one.name for one in fields(kind)} - {EXTRA}:
                    return from_data(data, kind)
    raise ConfigurationError(problem)
