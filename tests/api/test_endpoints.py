"""The protocol: the table of endpoints against the API document, and what every kind of response means."""

from __future__ import annotations

import copy
import gc
import json
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from email.utils import format_datetime
from typing import Any
from urllib.parse import urlencode

import pytest
from hypothesis import event, given
from hypothesis import strategies as st
from multidict import CIMultiDict

from tests.helpers.responses import interpreted
from tests.helpers.texts import case_id
from tests.tools.api_document import SAMPLES
from trooper_async._api import endpoints
from trooper_async._api.endpoints import Call, Endpoint, Repeatability
from trooper_async._api.responses import FailedAttempt, Failure, Response
from trooper_async._api.status_errors import retry_after
from trooper_async._base.json_text import loads
from trooper_async._http.keys import keys_of
from trooper_async._waiting.store import Snapshot
from trooper_async._waiting.waits import ORDER_LIST
from trooper_async.errors import (
    APIStatusError,
    AuthenticationError,
    BadRequestError,
    ConfigurationError,
    NotFoundError,
    PermissionDeniedError,
    RateLimitError,
    RefusedError,
    ResponseFormatError,
    ServerError,
    ServerLockedError,
    TrooperError,
)
from trooper_async.models import (
    Blib,
    Credentials,
    MigrationOptions,
    MigrationQuote,
    Order,
    OrderStatus,
    StatusChange,
    Template,
    TemplateInstall,
    Transition,
)

KEY = "tr-0123456789abcdef"
REDACT = keys_of(KEY)[1]
NOW = datetime(2015, 10, 21, 7, 27, 0, tzinfo=UTC).timestamp()

# For each endpoint: what repeating it would do, and whether it works without a key.
TABLE: dict[str, tuple[str, Repeatability, bool]] = {
    "/api/test": ("GET", Repeatability.READ, True),
    "/api/blibs": ("GET", Repeatability.READ, True),
    "/api/blibs-private": ("GET", Repeatability.READ, False),
    "/api/order": ("POST", Repeatability.PURCHASE, False),
    "/api/orders": ("GET", Repeatability.READ, False),
    "/api/order-status": ("POST", Repeatability.SETTING, False),
    "/api/order-title": ("POST", Repeatability.SETTING, False),
    "/api/order-lock": ("POST", Repeatability.SETTING, False),
    "/api/credentials": ("POST", Repeatability.READ, False),
    "/api/order-status-history": ("GET", Repeatability.READ, False),
    "/api/migration-options": ("GET", Repeatability.READ, False),
    "/api/migration-cost": ("POST", Repeatability.READ, False),
    "/api/buy-migration": ("POST", Repeatability.PURCHASE, False),
    "/api/templates": ("GET", Repeatability.READ, True),
    "/api/template-config": ("GET", Repeatability.READ, False),
    "/api/template-install-add": ("POST", Repeatability.ONCE, False),
    "/api/template-install-delete": ("POST", Repeatability.SETTING, False),
    "/api/template-install-retry": ("POST", Repeatability.ONCE, False),
}

ENDPOINTS: list[Endpoint[Any]] = [value for value in vars(endpoints).values() if isinstance(value, Endpoint)]
BY_PATH = {
    endpoint.path: endpoint for endpoint in reversed(ENDPOINTS)
}  # the strict one of the two calls that list orders

every_path = pytest.mark.parametrize("path", SAMPLES)


def _sent(path: str) -> Mapping[str, Any]:
    """The fields of the document's sample request, with numbers as the package represents them."""
    sample = SAMPLES[path]
    if sample.request_text is not None:
        data = loads(sample.request_text.encode())
        assert isinstance(data, dict)
        return data
    return {"order_id": 123} if sample.query else {}


def _call(path: str) -> Call[Any]:
    return Call(BY_PATH[path], "group.verb", "order 123", _sent(path))


def _response(
    path: str, status: int, body: object, headers: Mapping[str, str] | None = None, *, now: float = NOW
) -> Any:
    text = body if isinstance(body, bytes | None) else json.dumps(body).encode()
    return interpreted(_call(path), Response(status, CIMultiDict(headers or {}), text), redact=REDACT, now=now)


def _fault(
    status: int, body: object, headers: Mapping[str, str] | None = None, *, path: str = "/api/orders"
) -> FailedAttempt:
    fault = _response(path, status, body, headers)
    assert isinstance(fault, FailedAttempt)
    assert fault.error.__traceback__ is None
    return fault


def _status_error(status: int, body: object, headers: Mapping[str, str] | None = None) -> APIStatusError:
    error = _fault(status, body, headers).error
    assert isinstance(error, APIStatusError)
    assert error.status == status
    return error


# The table ----------------------------------------------------------------------------------------------------------


def test_the_table_has_every_endpoint_of_the_document_once() -> None:
    """The package knows the document's 18 endpoints, each once, and no others."""
    paths = [endpoint.path for endpoint in ENDPOINTS]
    assert sorted(paths) == sorted(SAMPLES)
    assert len(SAMPLES) == len(TABLE) == 18


@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=lambda endpoint: endpoint.path)
def test_an_endpoint_has_the_documented_method_and_access(endpoint: Endpoint[Any]) -> None:
    """Each endpoint has the document's method, its repeatability, and is public where the document says so."""
    assert (endpoint.method, endpoint.kind, endpoint.public) == TABLE[endpoint.path]
    assert endpoint.method == SAMPLES[endpoint.path].method


@every_path
def test_a_request_equals_the_documents_sample(path: str) -> None:
    """A call carries exactly what the document's sample does: a POST in its body, a GET in its query."""
    sample, made = SAMPLES[path], _call(path)
    assert urlencode(made.query) == sample.query
    if sample.request_text is None:
        assert made.body is None
    else:
        assert made.body is not None
        as_text = json.loads(made.body, parse_float=str, parse_int=str)
        assert as_text == json.loads(sample.request_text, parse_float=str, parse_int=str)
        assert list(as_text) == list(sample.request)


def test_a_post_without_fields_has_a_body() -> None:
    """A POST always carries a JSON object, a GET never a body."""
    assert Call(endpoints.ORDER_LOCK, "x").body == b"{}"
    assert Call(endpoints.TEST, "x").body is None
    assert Call(endpoints.TEST, "x").query == {}


def test_a_body_that_is_not_json_is_refused() -> None:
    """A body that JSON cannot express is refused when the call is made, before anything is sent."""
    with pytest.raises(ConfigurationError):
        _ = Call(endpoints.ORDER, "x", sent={"price_h": Decimal("NaN")}).body


def test_a_call_may_have_another_repeatability_than_its_endpoint() -> None:
    """A restart uses the order-status endpoint but must not be repeated: the call says so, the table stays as it is."""
    transition = Transition(123, "restart", OrderStatus.running)
    made = Call(
        endpoints.ORDER_STATUS, "orders.restart", "order 123", {}, kind=Repeatability.ONCE, transition=transition
    )
    assert (made.kind, made.endpoint.kind, made.transition) == (Repeatability.ONCE, Repeatability.SETTING, transition)
    assert Call(endpoints.ORDER_STATUS, "orders.stop").kind is Repeatability.SETTING


def test_a_repr_shows_no_message_content() -> None:
    """No repr shows what is sent or received: it may contain a password."""
    made = Call(endpoints.CREDENTIALS, "orders.credentials", "order 1", {"serverId": "SECRET"})
    assert "SECRET" not in repr(made)
    assert "SECRET" not in repr(Response(200, {"Set-Cookie": "SECRET"}, b"SECRET"))


# Success ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "kind", "first"),
    [
        ("/api/test", str, "meinstring5"),
        ("/api/blibs", list, Blib),
        ("/api/blibs-private", list, Blib),
        ("/api/order", int, 123),
        ("/api/orders", list, Order),
        ("/api/order-status", type(None), None),
        ("/api/order-title", type(None), None),
        ("/api/order-lock", type(None), None),
        ("/api/credentials", Credentials, None),
        ("/api/order-status-history", list, StatusChange),
        ("/api/migration-options", MigrationOptions, None),
        ("/api/migration-cost", MigrationQuote, None),
        ("/api/buy-migration", int, 124),
        ("/api/templates", list, Template),
        ("/api/template-config", list, TemplateInstall),
        ("/api/template-install-add", int, 5),
        ("/api/template-install-delete", type(None), None),
        ("/api/template-install-retry", type(None), None),
    ],
)
@pytest.mark.parametrize("status", [200, 201, 202])
def test_a_sample_response_gives_its_result(path: str, kind: type, first: Any, status: int) -> None:
    """Every sample response gives what its endpoint returns, under any 2xx."""
    data = _response(path, status, SAMPLES[path].response_text.encode())
    assert type(data) is kind
    if isinstance(data, list):
        assert {type(item) for item in data} == {first}
    elif first is not None:
        assert data == first
    assert "success" not in getattr(data, "extra", {})


def test_an_unreadable_row_fails_a_strict_list() -> None:
    """A row that can't be read is an error of the whole list, unless the call says how to handle rows."""
    body = b'[{"order_id": 1, "status": "running"}, {"order_id": 2}]'
    strict = _fault(200, body).error
    assert isinstance(strict, ResponseFormatError)
    assert strict.path == "$[1].current_status"


def test_a_quote_has_its_order_and_offer_from_the_request() -> None:
    """The response does not say which order and blib it is for, so the quote takes them from the request."""
    quote = _response("/api/migration-cost", 200, {"order_id": 1, "totalDue": 3.2, "target_blib_id": 1})
    assert (quote.order_id, quote.target_blib_id, quote.total_due) == (123, 2, Decimal("3.2"))


@pytest.mark.parametrize("success", [True, 1, "true", "1", None, "yes"])
def test_a_response_without_success_false_is_a_success(success: object) -> None:
    """A response that does not say false is a success, even with an error text in it."""
    assert _response("/api/order", 200, {"success": success, "orderId": "123"}) == 123
    if success is not None:
        assert _response("/api/order", 200, {"success": success, "orderId": 123, "error": "a warning"}) == 123


PAGES = [
    b"<html><body>Welcome</body></html>",
    b"\xef\xbb\xbf\r\n  <!DOCTYPE html><title>Hotel Wi-Fi</title>",
    b'<?xml version="1.0"?><html/>',
]
DOWN = "there (the API sent an error: database is down)"


@pytest.mark.parametrize("status", [200, 202, 204, 205])
@pytest.mark.parametrize("path", ["/api/order-status", "/api/order-title", "/api/template-install-delete"])
def test_a_setting_is_accepted_by_any_2xx(path: str, status: int) -> None:
    """Any complete 2xx response to a setting counts as accepted, whatever its body."""
    for body in (b"", b" \n", b"OK", b"null", b"[]", b'"done"', b"true", b"{}", b"\xff"):
        assert _response(path, status, body) is None, body


@pytest.mark.parametrize("body", [b"", b"null", b"[]", b"{}"])
def test_a_retry_of_an_install_is_accepted_by_an_empty_2xx(body: bytes) -> None:
    """A once-only call that returns nothing is accepted by an empty 2xx, or by one with any JSON."""
    assert _response("/api/template-install-retry", 204, body) is None


def test_an_html_page_gets_a_hint_about_the_network() -> None:
    """A proxy's or login page under 200 is named as such, and the hint is to check the network, not the release."""
    assert str(_fault(200, PAGES[0]).error) == (
        "the response is not as documented: $ should be JSON, and is an HTML page. Something other than the API "
        "responded (a proxy, or a login page of the network): check the base URL"
    )


# Responses that can't be read -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "body", "place", "expected"),
    [
        ("/api/orders", b"", "$", "JSON"),
        *(("/api/orders", page, "$", "JSON, and is an HTML page") for page in PAGES),
        ("/api/test", PAGES[0], "$", "JSON, and is an HTML page"),
        ("/api/order", PAGES[0], "$", "JSON, and is an HTML page"),
        ("/api/order-status", PAGES[0], "$", "JSON, and is an HTML page"),
        ("/api/orders", b'[{"order_id": 1,', "$", "JSON"),
        ("/api/orders", b"\xff\xfe\xfd", "$", "JSON"),
        ("/api/orders", None, "$", "smaller than max_body_bytes"),
        ("/api/orders", {"orders": []}, "$", "a list"),
        ("/api/orders", {"error": "database is down"}, "$.success", DOWN),
        ("/api/order-status", {"error": "database is down"}, "$.success", DOWN),
        ("/api/order-status", {"error": "database is down", "success": None}, "$.success", DOWN),
        ("/api/order-status", b"x" * (2**18 + 1), "$", "at most 256 KiB"),
        ("/api/order-status", None, "$", "smaller than max_body_bytes"),
        ("/api/order-status", b'{"success": fal', "$", "JSON"),
        ("/api/template-install-retry", b"OK", "$", "JSON"),
        ("/api/test", {}, "$.test", "there"),
        ("/api/test", {"test": [5]}, "$.test", "text"),
        ("/api/order", {"success": True}, "$.orderId", "there"),
        ("/api/order", {"success": True, "orderId": None}, "$.orderId", "there"),
        ("/api/order", {"success": True, "orderId": "x"}, "$.orderId", "a whole number"),
        ("/api/buy-migration", {"success": True, "new_order_id": 1.5}, "$.new_order_id", "a whole number"),
        ("/api/template-install-add", {"success": True}, "$.install_id", "there"),
        ("/api/order-status-history", {"success": True}, "$.history", "there"),
        ("/api/order-status-history", {"history": {}}, "$.history", "a list"),
        ("/api/order-status-history", {"history": [{"id": 1}]}, "$.history[0].status_user", "there"),
        ("/api/template-config", {"templates": [{"install_id": 1}, 5]}, "$.templates[1]", "an object"),
        ("/api/migration-cost", [], "$", "an object"),
        ("/api/migration-cost", {"success": True}, "$.total_due", "there"),
        ("/api/migration-options", {"availableBlibs": {}}, "$.available_blibs", "a list"),
    ],
)
def test_an_unreadable_2xx_names_the_place_and_the_expected_value(
    path: str, body: Any, place: str, expected: str
) -> None:
    """A 2xx that is not as documented is no success and no refusal; the error says where and what was expected."""
    fault = _fault(200, body, path=path)
    assert (fault.failure, fault.retry_after) == (Failure.UNREADABLE, None)
    assert isinstance(fault.error, ResponseFormatError)
    assert (fault.error.path, fault.error.expected) == (place, expected)


# Refusals and failures ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "status", "kind", "message", "next_step"),
    [
        ("/api/blibs", 500, ServerError, "Error fetching Blibs", None),
        ("/api/blibs-private", 401, AuthenticationError, "Missing or invalid Authorization header", None),
        ("/api/order", 400, BadRequestError, "You must accept the terms and conditions.", None),
        ("/api/order", 400, BadRequestError, "Invalid or missing contract interval.", None),
        ("/api/orders", 401, AuthenticationError, "Missing or invalid Authorization header", "login"),
        ("/api/order-status", 403, ServerLockedError, "Server is locked and cannot be modified", None),
        ("/api/credentials", 403, PermissionDeniedError, "Access denied or server not found", None),
        ("/api/buy-migration", 400, BadRequestError, "Insufficient budget for migration", None),
    ],
)
def test_a_documented_error_has_its_class_text_and_hint(
    path: str, status: int, kind: type[APIStatusError], message: str, next_step: str | None
) -> None:
    """Every error response of the document has the class of its status, its own text and its hint."""
    bodies = [text for code, text in SAMPLES[path].errors if code == status and json.loads(text)["error"] == message]
    assert len(bodies) == 1
    fault = _fault(status, bodies[0].encode(), path=path)
    assert type(fault.error) is kind
    assert isinstance(fault.error, APIStatusError)
    assert (fault.error.message, fault.error.next_step, fault.error.status) == (message, next_step, status)
    assert fault.failure is (Failure.SERVER_ERROR if status == 500 else Failure.REFUSED)


def test_the_documented_errors_are_complete() -> None:
    """The document has eight error responses, and the table above has them all."""
    assert sum(len(sample.errors) for sample in SAMPLES.values()) == 8


@pytest.mark.parametrize(
    ("status", "happened", "kind", "message"),
    [
        (300, Failure.REDIRECTED, APIStatusError, "Multiple Choices"),
        (301, Failure.REDIRECTED, APIStatusError, "Moved Permanently"),
        (302, Failure.REDIRECTED, APIStatusError, "Found"),
        (304, Failure.REDIRECTED, APIStatusError, "Not Modified"),
        (307, Failure.REDIRECTED, APIStatusError, "Temporary Redirect"),
        (399, Failure.REDIRECTED, APIStatusError, "no text"),
        (400, Failure.REFUSED, BadRequestError, "Bad Request"),
        (401, Failure.REFUSED, AuthenticationError, "Unauthorized"),
        (402, Failure.REFUSED, APIStatusError, "Payment Required"),
        (403, Failure.REFUSED, PermissionDeniedError, "Forbidden"),
        (404, Failure.REFUSED, NotFoundError, "Not Found"),
        (405, Failure.REFUSED, APIStatusError, "Method Not Allowed"),
        (408, Failure.SERVER_ERROR, APIStatusError, "Request Timeout"),
        (409, Failure.REFUSED, APIStatusError, "Conflict"),
        (418, Failure.REFUSED, APIStatusError, "I'm a Teapot"),
        (410, Failure.REFUSED, APIStatusError, "Gone"),
        (423, Failure.REFUSED, APIStatusError, "Locked"),
        (429, Failure.RATE_LIMITED, RateLimitError, "Too Many Requests"),
        (499, Failure.REFUSED, APIStatusError, "no text"),
        (500, Failure.SERVER_ERROR, ServerError, "Internal Server Error"),
        (501, Failure.SERVER_ERROR, ServerError, "Not Implemented"),
        (502, Failure.SERVER_ERROR, ServerError, "Bad Gateway"),
        (503, Failure.SERVER_ERROR, ServerError, "Service Unavailable"),
        (504, Failure.SERVER_ERROR, ServerError, "Gateway Timeout"),
        (520, Failure.SERVER_ERROR, ServerError, "no text"),
        (599, Failure.SERVER_ERROR, ServerError, "no text"),
    ],
)
def test_the_status_decides_whatever_the_body(
    status: int, happened: Failure, kind: type[APIStatusError], message: str
) -> None:
    """The status alone says what happened, whatever the body: HTML, nothing, too large, or `success: true`."""
    for body in (
        b"",
        b"<html><head><title>502 Bad Gateway</title></head></html>",
        b"[]",
        b'{"success": true, "orderId": 123}',
        b'{"error": {"nested": 5}, "message": [true], "next": 5}',
        b'{"error": " \\n ", "errors": [[[[[[["too deep"]]]]]]]}',
        b" \r\n ",
        None,
    ):
        fault = _fault(status, body)
        assert (fault.failure, type(fault.error)) == (happened, kind), body
        assert isinstance(fault.error, APIStatusError)
        assert (fault.error.status, fault.error.message, fault.error.next_step) == (status, message, None)


@pytest.mark.parametrize("status", [500, 502, 408])
def test_success_false_under_5xx_is_no_refusal(status: int) -> None:
    """`success: false` under a 5xx is no refusal: a catch-all handler may send it after the work was done."""
    fault = _fault(status, {"success": False, "error": "Unexpected error"}, path="/api/order")
    assert fault.failure is Failure.SERVER_ERROR
    assert "Unexpected error" in str(fault.error)


@pytest.mark.parametrize("path", ["/api/order-status", "/api/order", "/api/orders", "/api/credentials", "/api/test"])
@pytest.mark.parametrize("status", [200, 202])
def test_success_false_under_2xx_is_a_refusal(path: str, status: int) -> None:
    """`success: false` under a 2xx, in all its forms, is a refusal with the API's text, for every endpoint."""
    for success in (False, 0, 0.0, "0", "false", "False", "FALSE"):
        fault = _fault(status, {"success": success, "error": "No budget", "next": "top-up"}, path=path)
        assert (fault.failure, type(fault.error)) == (Failure.REFUSED, RefusedError), success
        assert isinstance(fault.error, RefusedError)
        assert (fault.error.status, fault.error.message, fault.error.next_step) == (status, "No budget", "top-up")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"success": False}, "no reason given"),
        ({"success": False, "message": "Try later"}, "Try later"),
        ({"success": False, "error": "", "message": "Try later"}, "Try later"),
        ({"success": False, "error": " \n ", "message": None}, "no reason given"),
        ({"success": False, "error": 5}, "no reason given"),
    ],
)
def test_the_text_of_a_refusal_is_error_then_message(body: object, message: str) -> None:
    """The text is `error`, else `message`, else a sentence that there is none."""
    assert _status_error(200, body).message == message


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"error": {"message": "No budget"}}, "No budget"),
        ({"error": {"code": 17, "message": "No budget"}}, "No budget"),
        ({"error": {"code": "E17"}}, "code: E17"),
        ({"error": ["No budget", "Try later"]}, "No budget; Try later"),
        ({"errors": ["No budget", {"message": "Try later"}]}, "No budget; Try later"),
        ({"errors": {"blib_id": ["is unknown"], "price_h": "is too low"}}, "blib_id: is unknown; price_h: is too low"),
        ({"detail": "No budget"}, "No budget"),
        ({"detail": [{"loc": ["body", "blib_id"], "msg": "missing"}]}, "loc: body; loc: blib_id; msg: missing"),
        ({"error": {"a": {"b": {"c": {"d": "deep"}}}}}, "a: b: c: d: deep"),
        ({"error": {"a": {"b": {"c": {"d": {"e": "too deep"}}}}}}, "Bad Request"),
        ([[[[["deep"]]]]], "deep"),
        ([[[[[["too deep"]]]]]], "Bad Request"),
        ({"title": "No budget", "status": 400}, "No budget"),
        ({"message": "No budget", "detail": "not shown"}, "No budget"),
        (["No budget"], "No budget"),
        ("No budget", "No budget"),
        (b"No budget", "No budget"),
        (b"no \xff\x1b[31m budget\n", "no \ufffd [31m budget"),
        ({"errors": [f"error {number}" for number in range(9)]}, "error 0; error 1; error 2; error 3; error 4"),
        (b"x" * 2000, "x" * 500),
        (b"<html><h1>Bad</h1></html>", "Bad Request"),
        ({"success": True, "orderId": "5", "note": "of no error"}, "Bad Request"),
    ],
    ids=case_id,
)
def test_an_error_text_is_found_in_any_shape(body: object, message: str) -> None:
    """The API's text is found whatever its shape: nested, a list, one text per field, or plain text."""
    assert _status_error(400, body).message == message


@pytest.mark.parametrize(
    ("location", "message"),
    [
        ("https://login.example/sign-in", "Found, to https://login.example/sign-in"),
        ("/login?token=SECRET#SECRET", "Found, to /login"),
        ("https://SECRET:SECRET@login.example/x", "Found, to https://login.example/x"),
        (f"/{KEY}/login", "Found, to /…/login"),
        ("/a\r\nb", "Found, to /ab"),
        ("http://[", "Found"),
        ("", "Found"),
    ],
)
def test_a_redirect_names_its_location(location: str, message: str) -> None:
    """Redirects are not followed: the error says where one leads, and to check the base URL."""
    assert _status_error(300, b"", {"Location": "/login"}).message == "Multiple Choices, to /login"
    error = _status_error(302, b"", {"Location": location})
    assert error.message.replace(REDACT(KEY), "…") == message
    assert str(error) == f"the API returned 302: {error.message}. Redirects are not followed: check the base URL"


@pytest.mark.parametrize(("status", "success"), [(400, None), (402, None), (200, False)])
def test_an_insufficient_budget_gets_the_hint_to_top_up(status: int, success: object) -> None:
    """If the account's budget is too small, the hint is to top it up."""
    for text in ("Insufficient budget for migration", "BUDGET TOO SMALL"):
        error = _status_error(status, {"success": success, "error": text})
        hint = "Nothing was bought: top up the account, then try again"
        assert str(error) == f"the API returned {status}: {text}. {hint}"


@pytest.mark.parametrize(
    ("status", "error", "kind"),
    [
        (403, "Server is locked and cannot be modified", ServerLockedError),
        (403, "LOCKED", ServerLockedError),
        (403, "The server was Locked.", ServerLockedError),
        (403, "Your account is blocked", PermissionDeniedError),
        (403, "Only unlocked servers can be renamed", PermissionDeniedError),
        (403, "Access denied or server not found", PermissionDeniedError),
        (400, "Server is locked and cannot be modified", BadRequestError),
        (500, "Server is locked and cannot be modified", ServerError),
    ],
)
@pytest.mark.parametrize("field", ["error", "message"])
def test_a_403_that_says_locked_is_a_server_locked_error(
    status: int, error: str, kind: type[APIStatusError], field: str
) -> None:
    """A 403 whose text contains the word "locked" is a ServerLockedError; other texts and statuses are not."""
    assert type(_status_error(status, {field: error})) is kind


# Texts of the API's -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("line one\nline two\r\n\tend", "line one line two   end"),
        ("\x1b[31mred\x1b[0m \x00 bell\x07", "[31mred [0m   bell"),
        ("a\u2028b\u2029c\u202ed\ud800e", "a b c d e"),
        ("€ 🚀 日本", "€ 🚀 日本"),
        ("x" * 2000, "x" * 500),
    ],
)
def test_an_api_text_is_one_printable_line_of_limited_length(text: str, expected: str) -> None:
    """In an error, a text from the API is one line of printable characters, with a maximum length."""
    error = _status_error(400, {"error": text, "next": text})
    assert error.message == expected
    assert error.next_step == expected


@pytest.mark.parametrize("field", ["error", "message", "next"])
@pytest.mark.parametrize("text", [f"Bad key {KEY}!", f"{KEY}{KEY}", "x" * 495 + KEY, "x " * 40_000 + KEY, KEY * 4000])
@pytest.mark.parametrize(("status", "success"), [(401, None), (200, False), (500, None)])
def test_the_key_is_removed_from_an_api_text(field: str, text: str, status: int, success: object) -> None:
    """If the API's text echoes the key, no part of it is in the error, even where the text is cut."""
    error = _status_error(status, {"success": success, field: text})
    assert KEY[:6] not in str(error) + repr(error) + repr(vars(error))


# Retry-After --------------------------------------------------------------------------------------------------------

AT = "Wed, 21 Oct 2015 07:28:00 GMT"  # a minute after NOW


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, None),
        ({"Retry-After": "0"}, 0.0),
        ({"Retry-After": "5"}, 5.0),
        ({"Retry-After": " 5 "}, 5.0),
        ({"Retry-After": "1.5"}, 1.5),
        ({"Retry-After": "3600"}, 3600.0),
        ({"retry-after": "5"}, 5.0),
        ({"RETRY-AFTER": "5"}, 5.0),
        # a date: by the server's own clock where it tells it, else by ours
        ({"Retry-After": AT}, 60.0),
        ({"Retry-After": AT, "Date": "Wed, 21 Oct 2015 07:27:30 GMT"}, 30.0),
        ({"Retry-After": AT, "Date": "Wed, 21 Oct 2015 07:28:30 GMT"}, 0.0),
        ({"Retry-After": AT, "Date": "yesterday"}, 60.0),
        ({"Retry-After": "Wed, 21 Oct 2015 09:28:00 +0200"}, 60.0),
        ({"Retry-After": "Wed, 21 Oct 2015 07:28:00 -0000"}, 60.0),
        ({"Retry-After": "Wednesday, 21-Oct-15 07:28:00 GMT"}, 60.0),
        ({"Retry-After": "Wed Oct 21 07:28:00 2015"}, 60.0),
        ({"Retry-After": "Wed, 21 Oct 2015 07:00:00 GMT"}, 0.0),
        # nonsense
        *(
            ({"Retry-After": text}, None)
            for text in (
                *("", " ", "soon", "-5", "+5", "5s", "5 seconds", "1e3", "1,5", "5;6", ".5", "5.", "0x10", "\u0665"),
                *("nan", "inf", "9" * 40, "12:00", "2015-10-21T07:28:00Z", "Wed, 99 Foo 2015 07:28:00 GMT"),
                *("Wed, 21 Oct 99999 07:28:00 GMT", "\x00", "5\n6"),
            )
        ),
    ],
    ids=case_id,
)
def test_retry_after_is_seconds_or_a_date(headers: dict[str, str], expected: float | None) -> None:
    """Retry-After is read as seconds or as any of HTTP's date formats; anything invalid is ignored."""
    assert retry_after(CIMultiDict(headers), NOW) == expected


@pytest.mark.parametrize("status", [302, 403, 408, 429, 500, 503])
def test_retry_after_reaches_the_retry_loop_and_the_error(status: int) -> None:
    """The pause that the API asks for is known to the retry loop and to the caller, whatever the status."""
    fault = _fault(status, {"error": "slow down"}, {"Retry-After": "7"})
    assert isinstance(fault.error, APIStatusError)
    assert fault.retry_after == fault.error.retry_after == 7.0
    assert _fault(status, b"").retry_after is None


@given(st.datetimes(datetime(1970, 1, 2), datetime(2400, 1, 1)), st.integers(-(10**6), 10**6))
def test_any_date_gives_a_pause_that_is_not_negative(when: datetime, seconds: int) -> None:
    """A Retry-After that is a date means the time from the server's Date to it, never less than 0."""
    when = when.replace(tzinfo=UTC, microsecond=0)
    headers = {"Retry-After": format_datetime(when, usegmt=True)}
    assert retry_after(headers, when.timestamp() - seconds) == max(0.0, float(seconds))
    both = {**headers, "Date": headers["Retry-After"]}
    assert retry_after(both, 0.0) == 0.0


@given(st.text() | st.from_regex(r"(?a)[A-Z][a-z]{2}, [0-9]{1,2} [A-Z][a-z]{2} [0-9]{1,6} [0-9:]{1,9} [-+A-Z0-9]{0,6}"))
def test_any_retry_after_is_a_valid_pause_or_none(text: str) -> None:
    """Any Retry-After with any Date gives seconds of at least 0, or None."""
    for headers in ({"Retry-After": text}, {"Retry-After": AT, "Date": text}):
        pause = retry_after(headers, NOW)
        assert pause is None or 0 <= pause < float("inf")


# Anything at all ----------------------------------------------------------------------------------------------------

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8)
    | st.sampled_from([KEY, f"a {KEY}", "locked", "false", "0", 0, 1]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["success", "error", "message", "next", "orderId", "history"]), inner, max_size=4
        )
    ),
    max_leaves=8,
)
headers = st.dictionaries(
    st.sampled_from(["Retry-After", "Date", "Age", "ETag", "Content-Type"]),
    st.text(max_size=20) | st.sampled_from(["7", "1.5", AT, "text/html"]),
)
statuses = (
    st.just(200) | st.integers(200, 299) | st.integers(100, 599) | st.sampled_from([400, 401, 403, 404, 408, 429, 503])
)


@st.composite
def responses(draw: st.DrawFn) -> tuple[Endpoint[Any], Response]:
    """An endpoint, and a response of any status and headers: any bytes, any JSON, or its sample, damaged or not."""
    endpoint = draw(st.sampled_from(ENDPOINTS))
    sample = SAMPLES[endpoint.path].response_text.encode()
    damaged = copy.deepcopy(SAMPLES[endpoint.path].response)
    inner = damaged[0] if isinstance(damaged, list) else damaged
    name = draw(st.sampled_from([*inner, "success", "error"]))
    inner[name] = draw(json_values)
    body = draw(
        st.sampled_from([None, b"", sample, json.dumps(damaged).encode()])
        | st.binary(max_size=30)
        | json_values.map(lambda value: json.dumps(value).encode())
        | st.integers(0, len(sample)).map(lambda length: sample[:length])
    )
    return endpoint, Response(draw(statuses), CIMultiDict(draw(headers)), body)


@given(responses())
def test_any_response_gives_a_result_or_a_fault(answer: tuple[Endpoint[Any], Response]) -> None:
    """Any response to any call gives its data or a fault with an error; nothing is raised, and no key leaks."""
    endpoint, reply = answer
    made = Call(endpoint, "x", "y", _sent(endpoint.path))
    outcome = interpreted(made, reply, redact=REDACT, now=NOW)
    if not isinstance(outcome, FailedAttempt):
        event("data")
        assert 200 <= reply.status < 300
        return
    event(f"{outcome.failure.value}: {type(outcome.error).__name__}")
    assert isinstance(outcome.error, TrooperError)
    assert KEY not in str(outcome.error) + repr(outcome.error)
    assert "\n" not in str(outcome.error)
    assert outcome.error.__traceback__ is None
    assert outcome.error.__context__ is None
    assert outcome.retry_after is None or outcome.retry_after >= 0
    if 200 <= reply.status < 300:
        assert outcome.failure in (Failure.UNREADABLE, Failure.REFUSED)
        assert isinstance(outcome.error, ResponseFormatError | RefusedError)
    else:
        assert isinstance(outcome.error, APIStatusError)
        assert (outcome.error.status, outcome.error.retry_after) == (reply.status, outcome.retry_after)
        assert (outcome.failure is Failure.RATE_LIMITED) == (reply.status == 429)
        assert (outcome.failure is Failure.SERVER_ERROR) == (reply.status >= 500 or reply.status == 408)
        assert (outcome.failure is Failure.REDIRECTED) == (reply.status < 400)


# Freeing refused bodies ----------------------------------------------------------------------------------


def test_a_large_object_is_not_parsed() -> None:
    """An object of more than 256 KiB is not from this API, so it is not parsed, not even as an error."""
    large = b'{"success": false, "error": "No budget", "test": "' + b"x" * 2**18 + b'"}'
    fault = _fault(200, large, path="/api/test")
    assert isinstance(fault.error, ResponseFormatError)
    assert (fault.error.path, fault.error.expected) == ("$", "at most 256 KiB")
    assert _status_error(400, large).message == "Bad Request"
    assert _status_error(400, b'{"error": "No budget"}'.ljust(2**18)).message == "No budget", "not larger"
    assert _fault(200, large).failure is Failure.UNREADABLE


@pytest.mark.parametrize(
    "rows", [[{}] * 3, [7], [{"order_id": 1, "status": "x", "template_installs": [{}]}], [{"order_id": "x"}]], ids=str
)
@pytest.mark.parametrize("decode", [None, Snapshot(ORDER_LIST).next], ids=["strict", "tolerant"])
def test_a_refused_body_is_freed_at_once(rows: list[Any], decode: Any) -> None:
    """No cycle of frames and errors keeps the body until garbage collection: the next attempt's would add up."""
    body = json.dumps(rows).encode()
    reply = Response(200, {}, body)
    interpreted(Call(endpoints.ORDERS, "x", decode=decode), reply, redact=REDACT, now=NOW)
    gc.collect()
    gc.disable()
    try:
        before = sys.getrefcount(body)
        for _ in range(3):
            interpreted(Call(endpoints.ORDERS, "x", decode=decode), reply, redact=REDACT, now=NOW)
        assert sys.getrefcount(body) == before
    finally:
        gc.enable()
