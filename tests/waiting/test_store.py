"""The list of orders between polls: decoding only what changed gives the same as reading each response again.

Every shortcut is held against the plain way: the whole body parsed at once, and each row made into an order.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from typing import Any
from unittest import mock

import pytest
from hypothesis import event, example, given
from hypothesis import strategies as st

from tests.helpers.responses import at_once, interpreted
from trooper_async._api import rows as _rows
from trooper_async._api.endpoints import ORDERS, Call, Endpoint
from trooper_async._api.responses import FailedAttempt, Response
from trooper_async._api.rows import LARGEST, Rows, rows_of
from trooper_async._base.converter import ids_of, structure
from trooper_async._base.json_text import decode_at, loads
from trooper_async._waiting import store
from trooper_async._waiting.store import Blank, Snapshot
from trooper_async._waiting.waits import ORDER_LIST
from trooper_async.errors import ResponseFormatError
from trooper_async.models import Order, OrderStatus


def opened(body: bytes) -> Rows:
    rows = rows_of(body)
    assert rows is not None
    return rows


def _all(body: bytes) -> list[Any]:
    """The rows of a list response, read one after another."""
    rows = opened(body)
    read = []
    while not rows.ended:
        read.append(rows.read())
    assert rows.count == len(read)
    return read


EMPTY = Snapshot(ORDER_LIST)


def orders_of(snapshot: Snapshot[Order]) -> dict[int, Order]:
    return {order_id: row for order_id, row in snapshot.rows.items() if isinstance(row, Order)}


def news(snapshot: Snapshot[Order]) -> tuple[frozenset[int], frozenset[int]]:
    """The orders that changed, and the ids that are gone."""
    return snapshot.changed & snapshot.rows.keys(), snapshot.changed - snapshot.rows.keys()


def _next(snapshot: Snapshot[Order], body: bytes) -> Snapshot[Order]:
    return at_once(snapshot.next(opened(body)))


def first_of(*rows: Any) -> Snapshot[Order]:
    return _next(EMPTY, body_of(*rows))


def body_of(*rows: Any) -> bytes:
    return json.dumps(rows).encode()


def row_of(order_id: Any = 1, status: Any = "running", **fields: Any) -> dict[str, Any]:
    return {"order_id": order_id, "status": status, **fields}


def _ids(*order_ids: int) -> frozenset[int]:
    return frozenset(order_ids)


def _refused(read: Callable[[], object]) -> tuple[str, str]:
    with pytest.raises(ResponseFormatError) as caught:
        read()
    assert caught.value.__context__ is None
    assert caught.value.__cause__ is None
    return caught.value.path, caught.value.expected


# A list, row by row -------------------------------------------------------------------------------------------------

WINDOWS = st.integers(1, 40)
SPACES = st.sampled_from(["", " ", "\n", "\r\n\t  ", " " * 50])
ENCODINGS = st.sampled_from(["utf-8", "utf-8", "utf-8-sig", "utf-16-le", "latin-1"])
TEXTS = st.text(max_size=6) | st.sampled_from(["},{", "}, {", '"},{"', "]", "\\", '\\"', "é", "€", "🚀", "\x7f", "\0"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)


@st.composite
def lists(draw: st.DrawFn, rows: st.SearchStrategy[list[Any]]) -> bytes:
    """A list as any writer of JSON may write it."""
    texts = []
    for row in draw(rows):
        indent, escaped = draw(st.sampled_from([None, None, 0, 2])), draw(st.booleans())
        texts.append(draw(SPACES) + json.dumps(row, indent=indent, ensure_ascii=escaped) + draw(SPACES))
    text = draw(SPACES) + "[" + (",".join(texts) or draw(SPACES)) + "]" + draw(SPACES)
    encoding = draw(ENCODINGS)
    return text.encode(encoding, "surrogatepass" if encoding.startswith("utf-8") else "replace")


def _loaded(body: bytes) -> Any:
    try:
        return loads(body)
    except ResponseFormatError:
        return None


@given(lists(st.lists(VALUES, max_size=5)), WINDOWS, st.sampled_from([2, 8]))
@example('["é", "\x80é€"]'.encode("latin-1", "replace"), 1, 2)
@example('["é", 1]'.encode("latin-1") + b" \xe2\x82", 4, 2)
@example(b"[12345, 1e3, true, null]", 3, 2)
def test_a_list_read_row_by_row_equals_the_whole_list(body: bytes, window: int, growth: int) -> None:
    """Through a window of any size, the rows of any list are the same as when it is read at once."""
    whole = _loaded(body)
    with mock.patch.multiple(_rows, _WINDOW=window, _GROWTH=growth):
        if whole is None:
            event("not UTF-8, or a name twice")
            assert rows_of(body) is None or _refused(lambda: _all(body))[0].startswith("$")
        else:
            assert _all(body) == whole


@st.composite
def broken(draw: st.DrawFn) -> bytes:
    """A list with a few bytes replaced, left out or put in."""
    body = bytearray(draw(lists(st.lists(VALUES, max_size=4))))
    for _ in range(draw(st.integers(1, 2))):
        at = draw(st.integers(0, len(body)))
        body[at : at + draw(st.integers(0, 2))] = draw(
            st.sampled_from([b"", b",", b"]", b"[", b"{", b"}", b'"', b"\\", b":", b"1", b"NaN", b"\xff", b"\xe2\x82"])
        )
    return bytes(body)


@given(broken(), WINDOWS)
@example(b"[1 2]", 2)
@example(b"[1,]", 40)
@example(b"[1] 2", 40)
@example(b"[,1]", 40)
@example(b"[", 40)
@example(b'[{"a": 1, "a": 1}]', 4)
@example(b'["\xed\xa0\x80"]', 40)
def test_an_invalid_list_is_invalid_row_by_row(body: bytes, window: int) -> None:
    """Bytes that are no JSON list when read at once are none when read row by row, and the reverse."""
    whole = _loaded(body)
    with mock.patch.multiple(_rows, _WINDOW=window, _GROWTH=2):
        try:
            rows = rows_of(body)
            read = None if rows is None else _all(body)
        except ResponseFormatError:
            read = None
    event("a list" if isinstance(whole, list) else "JSON" if whole is not None else "no JSON")
    assert read == (whole if isinstance(whole, list) else None)


@pytest.mark.parametrize(
    "text", ['["€€€€", 1]', '["🚀", {"é": "🚀"}, "x"]', "[1234567, 8]", "[1.25e10,2]", "[true,false]"]
)
def test_a_window_may_end_anywhere(text: str) -> None:
    """A window that ends within a character, a number or a word does not end it."""
    for window in range(1, 30):
        with mock.patch.multiple(_rows, _WINDOW=window, _GROWTH=2):
            assert _all(text.encode()) == loads(text.encode())


def test_a_row_that_is_too_large_is_not_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A row of more than 256 KiB is refused by its index, and not parsed to its end; a smaller one is accepted."""
    assert _all(b'["' + b"x" * (LARGEST - 100) + b'", 1]')[1] == 1
    parsed = []

    def counting(text: str, index: int) -> Any:
        parsed.append(len(text))
        return decode_at(text, index)

    monkeypatch.setattr(_rows, "decode_at", counting)
    assert _refused(lambda: _all(b'[1, "' + b"x" * (3 * LARGEST) + b'"]')) == ("$[1]", "JSON of at most 256 KiB")
    assert sum(parsed) < 2 * LARGEST
    assert _refused(lambda: _all(b"[1" + b" " * (2 * LARGEST) + b"]")) == ("$[0]", "JSON of at most 256 KiB")
    assert _refused(lambda: _all(b"[1]" + b" " * (2 * LARGEST))) == ("$", "JSON")
    assert rows_of(b" " * (2 * LARGEST) + b"[1]") is None


def test_a_list_is_decoded_as_utf_8() -> None:
    """A list is in UTF-8, with or without a byte order mark; an invalid byte affects only its own character."""
    text = json.dumps(["x" * 100_000] * 12)
    assert len(_all(b"\xef\xbb\xbf" + text.encode())) == 12
    assert rows_of(text.encode("utf-16")) is None
    row = b'{"order_id": %d, "status": "running", "title": "caf\xe9 %d"}'
    orders = _next(EMPTY, b"[" + b", ".join(row % (number, number) for number in range(1, 100)) + b"]").readable()
    assert [order.title for order in orders] == [f"caf\ufffd {number}" for number in range(1, 100)]


def test_a_list_with_too_many_rows_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The maximum limits the memory that one response takes."""
    monkeypatch.setattr(_rows, "_MOST_ROWS", 3)
    assert _all(b"[1,2,3]") == [1, 2, 3]
    assert _refused(lambda: _all(b"[1,2,3,4]")) == ("$", "a list of at most 3 rows")


@pytest.mark.parametrize("row", ['{"a": 1, "a": 1}', '{"a": {"b": [{"c": 1, "d": 2, "c": null}]}}'])
def test_a_duplicate_name_refuses_its_row(row: str) -> None:
    """An object with a duplicate name is refused by its row, since readers differ in which of the two counts."""
    assert _refused(lambda: _all(f'[{{"a": 1}}, {row}]'.encode())) == ("$[1]", "JSON whose objects have each name once")


# Values that are equal in Python are equal rows to the snapshot: 1 instead of true, 1.0 instead of 1 is no change.
rows = st.fixed_dictionaries(
    {"order_id": st.sampled_from([1, 2, 3, "2", "x", None])},
    optional={
        "status": st.sampled_from(["running", "stopped", None]),
        "current_status": st.sampled_from(["running", "Frozen", None]),
        "status_user": st.sampled_from(["running", "stopped", 5]),
        "serverId": st.sampled_from([7, "8", None, "x"]),
        "title": st.sampled_from(["a", "b", "},{", "é", 5]),
        "ssh_port": st.sampled_from([22, "22", "x"]),
        "is_locked": st.sampled_from([0, 1, True, "true", 2]),
        "price_h": st.sampled_from([1, 1.0, 0.85, "0.85"]),
        "template_installs": st.sampled_from([[], [{"id": 1}], [{"id": 1, "config": {"a": [1]}}], [{}], "x"]),
    },
)
good_rows = st.builds(row_of, st.integers(1, 9), st.sampled_from(["running", "stopped"]), title=TEXTS)
no_rows: st.SearchStrategy[Any] = st.sampled_from([None, 5, [], {}])


@given(lists(st.lists(good_rows | rows | no_rows, max_size=5)), WINDOWS)
def test_orders_list_equals_the_plain_way(body: bytes, window: int) -> None:
    """`orders.list` gives the orders that parsing the whole body gives, or the same error at the same place."""
    if (whole := _loaded(body)) is None:
        return
    expected: Any
    try:
        expected = structure(whole, list[Order])
    except ResponseFormatError as error:
        expected = (error.path, error.expected)
    with mock.patch.multiple(_rows, _WINDOW=window, _GROWTH=2):
        outcome = interpreted(Call(ORDERS, "x"), Response(200, {}, body), redact=str, now=0.0)
    if isinstance(outcome, FailedAttempt):
        assert isinstance(outcome.error, ResponseFormatError)
        assert (outcome.error.path, outcome.error.expected) == expected
    else:
        assert outcome == expected


LIST: Endpoint[Any] = ORDERS


# The list of orders, between polls -----------------------------------------------------------------------------------


@pytest.mark.parametrize("body", [b"", b"null", b"{}", b'"x"', b"[", b"<html>", b'{"error": "x"}', b"[]x", b"[1,]"])
@pytest.mark.parametrize("before", [EMPTY, first_of(), first_of(row_of())], ids=str)
def test_a_response_without_a_list_is_refused(before: Snapshot[Order], body: bytes) -> None:
    """A response that is no list, or empty, is refused: it must not count as "no orders"."""
    fault = interpreted(Call(LIST, "x", decode=before.next), Response(200, {}, body))
    assert isinstance(fault, FailedAttempt)
    assert isinstance(fault.error, ResponseFormatError)
    assert fault.error.path in ("$", "$.success")


def test_in_the_first_snapshot_everything_has_changed() -> None:
    """In the first response everything has changed, and nothing is gone."""
    first = first_of(row_of(1), row_of(2, "stopped", serverId=20), row_of(3, []), row_of(4, 5))
    assert orders_of(first) == {1: Order(1, OrderStatus.running), 2: Order(2, OrderStatus.stopped, server_id=20)}
    assert {order_id: error.path for order_id, error in first.unreadable.items()} == {
        3: "$[2].current_status",
        4: "$[3].current_status",
    }
    assert (first.complete, *news(first)) == (True, _ids(1, 2, 3, 4), _ids())


def test_a_snapshot_knows_what_changed_and_what_is_gone() -> None:
    """The next response tells which rows are new or changed, and which are gone."""
    first = first_of(row_of(1), row_of(2), row_of(3), row_of(4, 5), row_of(5, 5))
    then = _next(first, body_of(row_of(5, 5), row_of(2, "stopped"), row_of(1), row_of(4, "5"), row_of(6)))
    assert news(then) == (_ids(2, 4, 6), _ids(3))
    assert orders_of(then)[2].current_status == "stopped"
    assert orders_of(then)[1] == orders_of(first)[1]
    assert {order_id: error.path for order_id, error in then.unreadable.items()} == {5: "$[0].current_status"}


def test_an_error_counts_the_known_rows_before_it() -> None:
    """The index of a refused row is its place in the list, although the rows before it are not parsed again."""
    first = first_of(row_of(1), row_of(2))
    body = body_of(row_of(1), row_of(2))[:-1] + b', {"a": 1, "a": 1}]'
    assert _refused(lambda: _next(first, body)) == ("$[2]", "JSON whose objects have each name once")


@pytest.mark.parametrize("order_id", [None, "", "x", True, [], {}, 1.5])
def test_a_row_without_a_readable_id_prevents_absence(order_id: Any) -> None:
    """It affects no other row, but then no order counts as absent."""
    snapshot = first_of(row_of(1), row_of(order_id), row_of(2))
    assert set(orders_of(snapshot)) == {1, 2}
    assert not snapshot.complete
    assert snapshot.get(3) is Blank.UNREADABLE
    healed = _next(snapshot, body_of(row_of(1), row_of(2)))
    assert healed.complete
    assert healed.get(3) is Blank.ABSENT
    assert news(healed) == (_ids(), _ids())


@pytest.mark.parametrize("row", [None, 5, "x", [], [row_of(1)], {}])
def test_a_row_that_is_no_order_makes_the_list_incomplete(row: Any) -> None:
    """A row that is no object, or an empty one, makes the list incomplete and nothing else."""
    snapshot = first_of(row, row_of(1))
    assert set(orders_of(snapshot)) == {1}
    assert not snapshot.complete
    assert set(snapshot.unreadable) == {None}


def test_an_order_is_seen_unreadable_or_absent() -> None:
    """An order is seen as it is; one whose row can't be read is unreadable, and one without a row is absent."""
    snapshot = first_of(row_of(1), row_of(2, 5))
    assert snapshot.get(1) == Order(1, OrderStatus.running)
    assert snapshot.get(2) is Blank.UNREADABLE
    assert snapshot.get(3) is Blank.ABSENT
    assert first_of().get(1) is Blank.ABSENT


def test_contradictory_rows_of_an_order_are_not_trusted() -> None:
    """Of two different rows of one order neither is trusted, until there is one again; equal ones count as one."""
    twice = first_of(row_of(1), row_of(1), row_of(2), row_of(2, "stopped"), row_of(2))
    assert set(orders_of(twice)) == {1}
    assert (twice.unreadable[2].path, twice.unreadable[2].expected) == ("$[4]", "the only row of its order")
    assert twice.get(2) is Blank.UNREADABLE
    again = _next(twice, body_of(row_of(2), row_of(2, "stopped"), row_of(1)))
    assert again.get(2) is Blank.UNREADABLE
    assert again.changed == _ids()
    once = _next(again, body_of(row_of(2), row_of(1)))
    assert orders_of(once)[2].current_status == "running"
    assert (once.changed, len(once.unreadable)) == (_ids(2), 0)


def test_equal_bytes_are_not_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same bytes again, or "not modified", cost no parsing, and nothing has changed."""
    body = body_of(row_of(1), row_of(2, 5), row_of(None))
    first = _next(EMPTY, body)
    monkeypatch.setattr(_rows, "decode_at", None)
    unchanged = _next(_next(first, body).unchanged(), body)
    for again in (_next(first, bytes(bytearray(body))), first.unchanged(), unchanged):
        assert news(again) == (_ids(), _ids())
        assert orders_of(again) == orders_of(first)
        assert again.unreadable == first.unreadable
        assert not again.complete


# Between responses ----------------------------------------------------------------------------------------------------

texts = st.builds(
    lambda row, indent, escaped: json.dumps(row, indent=indent, ensure_ascii=escaped),
    good_rows | good_rows | rows | no_rows,
    st.sampled_from([None, None, 1]),
    st.booleans(),
)


@st.composite
def polls(draw: st.DrawFn) -> list[bytes]:
    """Successive responses, each made of the rows of the one before, byte for byte, except a few."""
    answer: list[str] = []
    polled = []
    for _ in range(draw(st.integers(1, 6))):
        at = draw(st.integers(0, max(0, len(answer) - 1)))
        match draw(
            st.sampled_from(["same", "other", "other row", "more", "less", "moved", "twice", "reordered", "new"])
        ):
            case "reordered":
                answer = draw(st.permutations(answer))
            case "less" if answer:
                answer = answer[:at] + answer[at + draw(st.integers(1, 3)) :]
            case "more":
                answer = answer[:at] + draw(st.lists(texts, max_size=3)) + answer[at:]
            case "moved" if answer:
                answer = [*answer[:at], *answer[at + 1 :], answer[at]]
            case "twice" if answer:
                answer = [*answer, answer[at]]
            case "other row" if answer:
                answer = [*answer[:at], draw(texts), *answer[at + 1 :]]
            case "other" | "new":
                answer = draw(st.lists(texts, max_size=12))
        comma = draw(st.sampled_from([", ", ", ", ", ", ",", " ,\n"]))
        polled.append(f"[{comma.join(answer)}]".encode("utf-8", "replace"))
    return polled


Said = tuple[Order | None, int | None]


def _plainly(body: bytes) -> tuple[dict[int, Said], set[int], bool]:
    """What a body says of each order, the contradictory ones, and whether each row's id can be read."""
    said: dict[int, Said] = {}
    contradicted = set()
    complete = True
    for row in loads(body):  # type: ignore[union-attr]  # a list
        ids = ids_of(row)
        if ids is None:
            complete = False
            continue
        try:
            order = structure(row, Order)
        except ResponseFormatError:
            order = None
        if said.setdefault(ids[0], (order, ids[1])) != (order, ids[1]):
            contradicted.add(ids[0])
    return (
        {order_id: (None, None) if order_id in contradicted else one for order_id, one in said.items()},
        contradicted,
        complete,
    )


@given(polls())
@example([body_of(row_of(price_h=1)), b'[{"order_id": 1, "status": "running", "price_h": 1.00}]'])
@example([body_of(row_of(price_h=1), row_of(price_h=1.0))])
@example([body_of(row_of(template_installs=[{"id": 1, "config": {"ssl": ssl}}])) for ssl in (1, True)])
def test_the_next_list_equals_the_plain_way(bodies: list[bytes]) -> None:
    """All orders, decoded only where changed, are those of the whole response, or its error."""
    snapshot = EMPTY
    for body in bodies:
        plain = interpreted(Call(ORDERS, "x"), Response(200, {}, body))
        after = interpreted(Call(LIST, "x", decode=snapshot.next), Response(200, {}, body))
        if isinstance(after, FailedAttempt):
            assert isinstance(plain, FailedAttempt)
            continue
        snapshot = after
        if isinstance(plain, FailedAttempt):
            assert isinstance(snapshot.every(), ResponseFormatError)
        elif not snapshot.unreadable:  # in a plain list no two rows of an order contradict each other
            assert repr(snapshot.every()) == repr(plain)  # 1 == True == Decimal("1.00")
        if not isinstance(plain, FailedAttempt):
            sure = dict.fromkeys(order.order_id for order in plain if order.order_id in orders_of(snapshot))
            assert [order.order_id for order in snapshot.readable()] == list(sure)
            assert set(map(repr, snapshot.readable())) <= set(map(repr, plain))  # any of equal rows, such as 1 and 1.0


@given(polls(), WINDOWS)
@example(
    [b'[{"order_id": 1}, {"order_id": 2, "status": "x"}]', b'[{"order_id": 1}, {"order_id": 2, "status": "running"}]'],
    9,
)
def test_a_chain_of_snapshots_equals_fresh_ones(bodies: list[bytes], window: int) -> None:
    """Each snapshot of a chain is what its response alone says, and knows what changed since the one before."""
    snapshot, before = EMPTY, dict[int, Said]()
    for body in bodies:
        with mock.patch.multiple(_rows, _WINDOW=window, _GROWTH=2):
            previous, snapshot = snapshot, _next(snapshot, body)
            fresh = _next(EMPTY, body)
        said, contradicted, complete = _plainly(body)

        for one in (fresh, snapshot):
            assert orders_of(one) == {order_id: order for order_id, (order, _) in said.items() if order is not None}
            assert one.complete is complete
            assert one.unreadable.keys() - {None} == {
                order_id for order_id, (order, _) in said.items() if order is None
            }
        for order_id, error in snapshot.unreadable.items():
            if order_id is None:
                continue
            assert (error.path, error.expected) == (
                fresh.unreadable[order_id].path,
                fresh.unreadable[order_id].expected,
            )
            index = int(error.path[2 : error.path.index("]")])
            row = loads(body)[index]  # type: ignore[index]  # a list
            assert (ids_of(row) or (None,))[0] == order_id
            if order_id not in contradicted:
                path, expected = _refused(partial(structure, row, Order))
                assert (error.path, error.expected) == (f"$[{index}]{path[1:]}", expected)
        assert all(snapshot.get(order_id) == order for order_id, order in orders_of(snapshot).items())
        assert all(
            snapshot.get(order_id) is Blank.UNREADABLE for order_id in snapshot.unreadable if order_id is not None
        )
        assert snapshot.get(99) is (Blank.ABSENT if complete else Blank.UNREADABLE)

        new = said.keys() - before.keys()
        others = {order_id for order_id in said.keys() & before.keys() if said[order_id][0] != before[order_id][0]}
        assert news(snapshot) == (frozenset(new | others), frozenset(before.keys() - said.keys()))
        for order_id in orders_of(snapshot).keys() - snapshot.changed:
            assert orders_of(snapshot)[order_id] == orders_of(previous)[order_id]
        before = said


def numbered(count: int, **fields: Any) -> list[Any]:
    return [row_of(number, title=f"server {number}", **fields) for number in range(1, count + 1)]


def _decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The texts of the rows that are parsed from now on."""
    parsed: list[str] = []

    def counting(text: str, index: int) -> Any:
        row, end = decode_at(text, index)
        parsed.append(text[index:end])
        return row, end

    monkeypatch.setattr(_rows, "decode_at", counting)
    return parsed


@pytest.mark.parametrize(
    ("edit", "most"),
    [
        (lambda rows: rows[40].update(status="stopped"), 2),
        (lambda rows: [row.update(status="stopped") for row in rows[10:90:20]], 5),
        (lambda rows: rows.pop(40), 2),
        (lambda rows: rows.insert(40, row_of(999)), 2),
        (lambda rows: rows.append(rows.pop(40)), 4),
        (lambda rows: rows.insert(0, rows.pop(40)), 4),
        (lambda rows: rows.append(row_of(999)), 2),
        (lambda rows: rows.pop(), 1),
        (lambda rows: rows.reverse(), 100),
    ],
    ids=["one changed", "four changed", "one less", "one more", "to end", "to front", "after", "the last", "all"],
)
def test_only_what_changed_is_decoded(
    edit: Callable[[list[Any]], object], most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a hundred rows only the changed ones are decoded, those at the borders of runs, and the last."""
    before, now = numbered(100), numbered(100)
    edit(now)
    last = first_of(*before)
    parsed = _decoded(monkeypatch)
    snapshot = _next(last, body_of(*now))
    assert len(parsed) <= most
    assert orders_of(snapshot) == {row["order_id"]: structure(row, Order) for row in now}


def test_text_with_braces_is_no_border_of_rows() -> None:
    """Text with braces and commas in it does not end a row, neither when it appears nor when it goes."""
    odd = '"}, {"order_id": 5, "status": "x"}, {"'
    first = first_of(row_of(1), row_of(2, title="a"), row_of(3))
    second = _next(first, body_of(row_of(1), row_of(2, title=odd), row_of(3)))
    assert orders_of(second).keys() == {1, 2, 3}
    assert orders_of(second)[2].title == odd
    third = _next(
        second,
        body_of(row_of(1), row_of(2, config=[{"order_id": 3, "status": "frozen"}, row_of(3)]), row_of(3, "frozen")),
    )
    assert orders_of(third)[3].current_status == "frozen"
    assert orders_of(third)[2].title is None


def test_duplicate_rows_far_apart_contradict_each_other() -> None:
    """Two rows of one order are noticed even if they are far apart, or were elsewhere in the last response."""
    before = numbered(30)
    again = [*before, row_of(7, "stopped")]
    snapshot = _next(first_of(*before), body_of(*again))
    assert snapshot.get(7) is Blank.UNREADABLE
    assert snapshot.changed == _ids(7)
    twice = _next(first_of(*before), body_of(*before[:20], *before[5:]))
    assert orders_of(twice) == orders_of(first_of(*before))
    assert twice.changed == _ids()
    healed = _next(snapshot, body_of(*before))
    assert (healed.changed, healed.unreadable) == (_ids(7), {})


def test_too_many_unreadable_rows_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unreadable rows affect only themselves, up to a maximum: beyond it the response is no list of orders."""
    monkeypatch.setattr(store, "_MOST_UNREADABLE", 5)
    assert len(first_of(*[row_of(number, 5) for number in range(5)]).unreadable) == 5
    many: list[list[Any]] = [[{}] * 6, [row_of(number, 5) for number in range(6)], [row_of(1)] * 7]
    for rows in many:
        assert _refused(partial(first_of, *rows)) == ("$", "a list of orders")
