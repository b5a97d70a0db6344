"""The base of the models: plain data that converts to JSON types and back, with a docstring for each field."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal  # noqa: F401 - `JSON` is a text that names it: `get_type_hints` looks for it here
from typing import Literal, Self

from attrs import field, frozen

from trooper_async._base.converter import from_data, model_data
from trooper_async._base.docs import document
from trooper_async._base.json_text import JSON


@frozen
class Model:
    """Plain data."""

    def __init_subclass__(cls) -> None:
        document(cls)

    def to_dict(self, *, money: Literal["text", "number"] = "text") -> dict[str, JSON]:
        """Return the model as a dict of JSON types, for `json.dumps`, a web framework or a data frame.

        The keys are the field names. Times are ISO 8601 text, and models inside are dicts too.

        Args:
            money: "text" keeps every digit of an amount (`"15.50"`); "number" gives an int or float (`15.5`).

        Returns:
            The dict.
        """
        return model_data(self, money=money)

    @classmethod
    def from_dict(cls, data: Mapping[str, object]) -> Self:
        """Read what `to_dict` returned, with either form of money.

        Args:
            data: the dict, as `to_dict` returned it or as it came back from JSON.

        Returns:
            The model, equal to the original.

        Raises:
            ConfigurationError: a field is missing or has the wrong type; the message names the field, but not its
                value.
        """
        return from_data(data, cls)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: object, handler: object) -> object:
        """Let pydantic (and so FastAPI and MCP tools) read and write this as `from_dict` and `to_dict` do."""
        from pydantic_core import core_schema  # whoever calls this has it

        return core_schema.no_info_plain_validator_function(
            lambda value: value if isinstance(value, cls) else cls.from_dict(value),
            serialization=core_schema.plain_serializer_function_ser_schema(cls.to_dict),
        )

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: object, handler: object) -> dict[str, str]:
        """The schema in an OpenAPI document."""
        return {"type": "object", "title": cls.__name__}


@frozen
class APIModel(Model):
    """Plain data that the API sends."""

    extra: Mapping[str, JSON] = field(factory=dict, repr=False, eq=False, kw_only=True)
    """What else the API sent, by its own names: fields that this release does not know, and values that could not be
    read. It is not compared, and not in the repr.
    """
