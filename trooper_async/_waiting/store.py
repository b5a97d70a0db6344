"""The last list that the client has read, what changed in it, and why a row cannot be read.

A list is read tolerantly: a row that cannot be read affects only itself. Rows whose bytes were in the previous response
are not decoded again: bytes that were a whole JSON object are the same object wherever a row begins.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from enum import Enum
from itertools import accumulate
from typing import Any, Generic, TypeVar

from attrs import evolve, field, frozen

from trooper_async._api.endpoints import Call, Endpoint, Sent
from trooper_async._api.responses import FailedAttempt, Response, out_of_cache
from trooper_async._api.rows import Rows
from trooper_async._base.converter import structure
from trooper_async._base.json_text import JSON
from trooper_async._base.slices import SlicedWork
from trooper_async._http.transport import Transport
from trooper_async.errors import ResponseFormatError

M = TypeVar("M")

_MOST_UNREADABLE = 10_000
"""If more rows cannot be read, this is not the requested list."""


class Blank(Enum):
    """What a list shows of an item that is not in a readable row."""

    ABSENT = "absent"
    """The list was read whole, and the item is not in it."""
    UNREADABLE = "unreadable"
    """It has an unreadable row, or may have one. This proves nothing."""


@frozen(eq=False)
class Unreadable:
    """A row that cannot be read, or that contradicts another row of the same id."""

    row: JSON = field(repr=False)
    error: ResponseFormatError
    """Its path is within the row."""


@frozen
class Items(Generic[M]):
    """What kind of items a list has."""

    model: type[M]
    id_of: Callable[[M], int]
    id_of_row: Callable[[JSON], int | None]
    """The id of a row that is otherwise unreadable; None if the id is unreadable, too."""
    detached: Callable[[M], M] = lambda item: item
    """An item that the caller may keep, with copies of its mutable parts."""


@frozen
class Snapshot(Generic[M]):
    """A list as one response showed it."""

    items: Items[M] = field(repr=False)
    rows: dict[int, M | Unreadable] = field(factory=dict, repr=False)
    """By id."""
    unreadable: dict[int | None, ResponseFormatError] = field(factory=dict)
    """Why rows cannot be read, by id; None stands for rows whose id cannot be read."""
    changed: frozenset[int] = frozenset()
    """The ids that are new, changed or gone since the previous snapshot."""
    version: object = field(factory=object, repr=False, eq=False)
    """The same object in all snapshots with the same rows."""
    after: object = field(default=None, repr=False, eq=False)
    """The version of the snapshot that `changed` is compared with."""
    _listed: list[M | Unreadable] = field(factory=list, repr=False, eq=False)  # as they stand in the body
    _ids: list[int | None] = field(factory=list, repr=False, eq=False)
    _sizes: list[int] = field(factory=list, repr=False, eq=False)  # in bytes, up to the next row
    _start: int = field(default=0, repr=False, eq=False)  # where the first row begins
    _body: bytes = field(default=b"", repr=False, eq=False)

    @property
    def complete(self) -> bool:
        """Whether a missing id proves that the item is not in the list: the id of every row could be read."""
        return None not in self.unreadable

    def get(self, item_id: int) -> M | Blank:
        """What this list shows of one item."""
        row = self.rows.get(item_id)
        if row is None:
            return Blank.ABSENT if self.complete else Blank.UNREADABLE
        return Blank.UNREADABLE if isinstance(row, Unreadable) else self.items.detached(row)

    def readable(self) -> list[M]:
        """The readable items, in the list's order."""
        return [self.items.detached(row) for row in self.rows.values() if not isinstance(row, Unreadable)]

    def every(self) -> list[M] | ResponseFormatError:
        """The item of each row, or the error of the first unreadable one. It is not raised, since this frame holds a
        body.
        """
        for error in self.unreadable.values():
            return error
        return [self.items.detached(row) for row in self._listed if not isinstance(row, Unreadable)]

    def changed_since(self, other: Snapshot[M]) -> Iterable[int]:
        """The ids that are new, changed or gone since an earlier list."""
        if self.version is other.version:
            return ()
        if self.after is other.version:
            return self.changed
        rows, before = self.rows, other.rows
        return [one for one in rows.keys() | before.keys() if _differ(before.get(one), rows.get(one))]

    def unchanged(self) -> Snapshot[M]:
        """The snapshot for a response that says that nothing has changed."""
        return evolve(self, changed=frozenset(), after=self.version)

    def of(self, items: Iterable[M]) -> Snapshot[M]:
        """The snapshot for a list that was decoded as a whole, after this one."""
        rows: dict[int, M | Unreadable] = {self.items.id_of(item): item for item in items}
        changed = {one for one in rows.keys() | self.rows.keys() if _differ(self.rows.get(one), rows.get(one))}
        return Snapshot(self.items, rows, changed=frozenset(changed), after=self.version) if changed else self

    def next(self, rows: Rows) -> SlicedWork[Snapshot[M]]:
        """The snapshot for the next response, decoded where it differs from this one's.

        Raises:
            ResponseFormatError: it is not JSON, or too few of its rows can be read.
        """
        if rows.body == self._body:
            return self.unchanged()
        offsets = list(accumulate(self._sizes, initial=self._start))
        places: dict[int | None, int] = {}  # of the known rows by id, once that is needed
        start, expected = rows.at, 0  # expected: the known row that comes next if nothing changed
        listed: list[M | Unreadable] = []
        ids: list[int | None] = []
        sizes: list[int] = []
        changed: set[int | None] = set()
        decoded: dict[int, M | Unreadable] = {}
        faults = 0
        while not rows.ended:
            end = self._same(rows, offsets, expected)
            if end > expected:
                listed += self._listed[expected:end]
                ids += self._ids[expected:end]
                sizes += self._sizes[expected:end]
                rows.skip(end - expected, offsets[end] - offsets[expected])
                expected = end
            else:
                at = rows.at
                item_id, row = self._read(rows.read())
                faults += isinstance(row, Unreadable)
                if faults > _MOST_UNREADABLE:
                    raise ResponseFormatError("$", f"a list of {self.items.model.__name__.lower()}s")
                listed.append(row)
                ids.append(item_id)
                if item_id is not None:
                    decoded[item_id] = row
                sizes.append(rows.at - at)
                if item_id is None or _differ(self.rows.get(item_id), row):
                    changed.add(item_id)
                if expected < len(self._ids) and self._ids[expected] == item_id:
                    expected += 1
                elif item_id is not None:
                    places = places or {one: place for place, one in enumerate(self._ids)}
                    expected = places.get(item_id, expected - 1) + 1
            yield
        if ids == self._ids and len(ids) == len(self.rows) and not faults and not self.unreadable:
            by_id = self.rows | decoded  # the same ids in the same order: only the decoded rows may differ
            unreadable: dict[int | None, ResponseFormatError] = {}
        else:
            by_id, unreadable = self._by_id(ids, listed)
            for one in unreadable.keys() | self.unreadable.keys():  # contradicting rows were both decoded
                if one is not None:
                    (changed.add if _differ(self.rows.get(one), by_id.get(one)) else changed.discard)(one)
            changed |= self.rows.keys() - by_id.keys()
        version = object() if changed or ids != self._ids else self.version
        changed_ids = frozenset(one for one in changed if one is not None)
        return Snapshot(
            self.items, by_id, unreadable, changed_ids, version, self.version, listed, ids, sizes, start, rows.body
        )

    def _same(self, rows: Rows, offsets: list[int], first: int) -> int:
        """The end of the run of known rows, from `first` on, that come next unchanged. The last row, without a comma,
        is never in it.
        """
        body, known, last = rows.body, memoryview(self._body), len(self._ids) - 1
        row, step, growing = first, 1, True
        shift = rows.at - offsets[first]
        while step:  # compare 1, 2, 4, … rows at a time while they are the same, then half as many each time
            after = row + step
            if after <= last and body.startswith(known[offsets[row] : offsets[after]], offsets[row] + shift):
                row = after
            else:
                growing = False
            step = 2 * step if growing else step // 2
        return row

    def _read(self, row: JSON) -> tuple[int | None, M | Unreadable]:
        try:
            item = structure(row, self.items.model)
        except ResponseFormatError as error:
            fault = ResponseFormatError(error.path, error.expected)
        else:
            return self.items.id_of(item), item
        return self.items.id_of_row(row), Unreadable(row, fault)

    def _by_id(
        self, ids: list[int | None], rows: list[M | Unreadable]
    ) -> tuple[dict[int, M | Unreadable], dict[int | None, ResponseFormatError]]:
        """The rows by id, and why some cannot be read. Of two that contradict each other, neither counts."""
        by_id: dict[Any, M | Unreadable] = dict(zip(ids, rows, strict=True))
        if len(by_id) == len(rows) and Unreadable not in set(map(type, rows)):
            return by_id, {}
        by_id = {}
        unreadable: dict[int | None, ResponseFormatError] = {}
        faults = 0
        for index, (item_id, row) in enumerate(zip(ids, rows, strict=True)):
            known = by_id.setdefault(item_id, row)
            if isinstance(row, Unreadable):
                unreadable.setdefault(item_id, row.error.inside(f"$[{index}]"))
            if known is not row:
                faults += 1
                if faults > _MOST_UNREADABLE:
                    raise ResponseFormatError("$", f"a list of {self.items.model.__name__.lower()}s")
                if item_id is not None and _differ(known, row):
                    error = ResponseFormatError(
                        f"$[{index}]", f"the only row of its {self.items.model.__name__.lower()}"
                    )
                    by_id[item_id] = Unreadable(None, error)
                    unreadable[item_id] = error
        by_id.pop(None, None)
        return by_id, unreadable


def _differ(one: object, other: object) -> bool:
    """Whether two rows of an id differ. Unreadable rows count as equal."""
    if one is other or (isinstance(one, Unreadable) and isinstance(other, Unreadable)):
        return False
    return one != other


class Store(Generic[M]):
    """The last list of one endpoint, and how it is refreshed.

    Args:
        transport: what sends the requests.
        endpoint: the list.
        items: what it consists of.
        name: what it is, for people.
        sent: the fields of the request.
    """

    def __init__(
        self, transport: Transport, endpoint: Endpoint[Any], items: Items[M], name: str, sent: Sent | None = None
    ) -> None:
        self.transport = transport
        self.name = name
        self.operation: str = f"the poll of {name}"
        self.latest: Snapshot[M] = Snapshot(items)
        self.on_read: Callable[[], None] | None = None
        """Called when something other than `poll` has read the list."""
        self._endpoint = endpoint
        self._sent = sent or {}
        self._etag: str | None = None
        self._poll = self._call(self.operation, fresh=True)

    def check(self, operation: str, subject: str = "") -> None:
        """Raise the error of a read for a client that is closed, of another event loop, or without the key that it
        needs.
        """
        self.transport.check(self._call(operation, subject))

    async def read(self, operation: str, subject: str = "", *, fresh: bool = False) -> Snapshot[M]:
        """Read the list, with retries. With `fresh`, a response from a cache is refused.

        Raises:
            APIConnectionError, APIStatusError, ResponseFormatError: the request failed.
        """
        snapshot = self._keep(await self.transport.request(self._call(operation, subject, fresh=fresh)), None)
        if self.on_read is not None:
            self.on_read()
        return snapshot

    async def poll(self) -> Snapshot[M] | FailedAttempt:
        """Read the list once, or learn that it has not changed. A response from a cache proves nothing."""
        base, etag = self.latest, self._etag
        headers = {} if etag is None else {"If-None-Match": etag}
        response = await self.transport.wire.send(self._poll, headers=headers)
        if isinstance(response, Response) and response.status == 304 and etag is not None:
            return out_of_cache(response) or base.unchanged()
        outcome = await self.transport.interpret(self._poll, response)
        if isinstance(outcome, FailedAttempt):
            return outcome
        assert isinstance(response, Response)  # noqa: S101 - a failed attempt has been returned
        return self._keep(outcome, response.headers)

    def _keep(self, outcome: Snapshot[M] | list[M], headers: Mapping[str, str] | None) -> Snapshot[M]:
        self.latest = outcome if isinstance(outcome, Snapshot) else self.latest.of(outcome)
        self._etag = None if headers is None else headers.get("ETag")
        return self.latest

    def _call(self, operation: str, subject: str = "", *, fresh: bool = False) -> Call[Any]:
        # `latest` is looked up once the response has come, so that neither a call nor an error holds a list
        decode = None if self._endpoint.read_rows is None else lambda rows: self.latest.next(rows)
        return Call(self._endpoint, operation, subject, self._sent, fresh=fresh, decode=decode)
