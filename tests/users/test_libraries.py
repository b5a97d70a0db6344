"""Models in libraries that programs pass them to."""

from __future__ import annotations

from typing import Annotated

import attrs
import pytest

from tests.helpers.models import BLIB, LATER, ORDER
from trooper_async.models import Blib, Order

for _library in ("fastapi", "orjson", "pandas", "pydantic"):
    pytest.importorskip(_library, reason="needs the examples extra: pip install -e '.[examples]'")

import orjson  # noqa: E402 - it may be missing
import pandas as pd  # type: ignore[import-untyped]  # noqa: E402 - its stubs are a package of their own
import pydantic  # noqa: E402
from fastapi import Body, FastAPI  # noqa: E402
from fastapi.testclient import TestClient  # noqa: E402


def test_orjson_writes_a_dict_of_a_model() -> None:
    """orjson writes what `to_dict` returns."""
    assert Order.from_dict(orjson.loads(orjson.dumps(ORDER.to_dict()))) == ORDER


def test_models_become_a_pandas_frame() -> None:
    """Dicts with money as numbers make a frame that can be summed, with a column for each field."""
    frame = pd.DataFrame([order.to_dict(money="number") for order in (ORDER, attrs.evolve(ORDER, order_id=124))])
    assert list(frame["order_id"]) == [123, 124]
    assert sum(frame["price_h"]) == pytest.approx(1.7)
    assert pd.to_datetime(frame["paid_until"], utc=True).max() == pd.Timestamp(LATER)


def test_a_model_is_a_pydantic_field() -> None:
    """A pydantic model can have a model as field, validated and written by `from_dict` and `to_dict`."""

    class Job(pydantic.BaseModel):
        order: Order
        offers: list[Blib] = []

    job = Job(order=ORDER, offers=[BLIB])
    assert Job.model_validate_json(job.model_dump_json()) == job
    assert job.model_dump(mode="json")["order"] == ORDER.to_dict()
    with pytest.raises(pydantic.ValidationError, match=r"\$\.order_id should be a whole number"):
        Job.model_validate({"order": {"order_id": "x", "current_status": "running"}})
    assert Job.model_json_schema()["properties"]["order"] == {"title": "Order", "type": "object"}


def test_fastapi_returns_and_accepts_models() -> None:
    """An endpoint returns and accepts models, and they are in its OpenAPI document."""
    app = FastAPI()

    @app.get("/orders")
    def orders() -> list[Order]:
        return [ORDER]

    @app.post("/title")
    def title(order: Annotated[Order, Body()]) -> str:
        return order.title or ""

    with TestClient(app) as client:
        assert client.get("/orders").json() == [ORDER.to_dict()]
        assert client.post("/title", json=ORDER.to_dict()).json() == ORDER.title
        assert client.post("/title", json={"order_id": 1}).status_code == 422
        assert client.get("/openapi.json").status_code == 200
