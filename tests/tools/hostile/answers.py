"""Every hostile response: the bytes that the server writes, and the expected error."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterator
from itertools import chain, repeat

from attrs import frozen

from trooper_async import APIConnectionError, APITimeoutError, ResponseFormatError, ServerError, TrooperError

MIB = 2**20
BOMB = "Content-Encoding: gzip"
Pieces = Iterator[bytes]


@frozen
class Hostile:
    """A response to `GET /api/orders`."""

    name: str
    pieces: Callable[[], Pieces]
    error: type[TrooperError] | None
    """The class that must come of it, by itself; None where it must be read."""
    pause: float = 0.0
    """Seconds between the pieces."""
    stalls: bool = False
    """Whether the server writes nothing more after the last piece, but keeps the connection."""
    decoded: bool = False
    """Whether all of it is read: what it costs to decode is what it tries."""

    @property
    def needs_deadline(self) -> bool:
        """Whether only the timeout ends it."""
        return self.error is APITimeoutError


def head(*headers: str, status: str = "200 OK") -> bytes:
    return "\r\n".join([f"HTTP/1.1 {status}", "Content-Type: application/json", *headers, "", ""]).encode()


def whole(body: bytes, *headers: str, status: str = "200 OK", length: int | None = None) -> Callable[[], Pieces]:
    """A response with a Content-Length, which may be wrong."""
    size = len(body) if length is None else length
    return lambda: iter([head(f"Content-Length: {size}", *headers, status=status), body])


def chunked(piece: bytes) -> Callable[[], Pieces]:
    """`piece` as a chunk, again and again."""
    return endless(head("Transfer-Encoding: chunked"), b"%x\r\n%b\r\n" % (len(piece), piece))


def one_byte_chunks() -> Pieces:
    return endless(head("Transfer-Encoding: chunked"), b"1\r\n[\r\n" * 1000)()


def endless(start: bytes, again: bytes) -> Callable[[], Pieces]:
    return lambda: chain([start], repeat(again))


def bytewise(data: bytes) -> Callable[[], Pieces]:
    return lambda: (data[index : index + 1] for index in range(len(data)))


def bomb(mib: int, wbits: int) -> bytes:
    """Zeros, compressed about 1,000 times: one block again and again (31: gzip, 15: zlib, -15: raw deflate)."""
    packer = zlib.compressobj(9, zlib.DEFLATED, wbits)
    first = packer.compress(bytes(MIB)) + packer.flush(zlib.Z_FULL_FLUSH)
    block = packer.compress(bytes(MIB)) + packer.flush(zlib.Z_FULL_FLUSH)
    return first + block * (mib - 1)  # no correct client reaches the end, which is missing


def gzipped(data: bytes) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    return packer.compress(data) + packer.flush()


def orders(count: int) -> bytes:
    """A legitimate list (about 600 bytes an order)."""
    install = {"id": 1, "template_id": 7, "template_name": "jupyter", "status": 1, "status_readable": "installed"}
    row = {
        "title": "a server of the fleet " + "x" * 150,
        "status": "running",
        "status_user": "running",
        "server_name": "v100-eagle",
        "machine_name": "machine-0815",
        "ip": "203.0.113.17",
        "ssh_port": 22001,
        "price_h": 0.85,
        "paid_until": "2026-12-01T12:00:00.000Z",
        "contract_interval": "HOUR",
        "is_locked": 0,
        "is_low_priority": 0,
        "blib_name": "explorer",
        "blib_gpu_type": "RTX 4090",
        "blib_gpu_num": 1,
        "country_code": "DE",
        "template_installs": [install],
    }
    return json.dumps([{"order_id": number, "serverId": number, **row} for number in range(1, count + 1)]).encode()


def chunked_bomb() -> Pieces:
    data = bomb(1024, 31)
    yield head("Transfer-Encoding: chunked", BOMB)
    for start in range(0, len(data), 1000):
        part = data[start : start + 1000]
        yield b"%x\r\n%b\r\n" % (len(part), part)


def within(name: str, body: Callable[[], bytes]) -> Hostile:
    """One that is read completely, at a low cost; it is large, and made on demand."""
    return Hostile(name, lambda: whole(body())(), ResponseFormatError, decoded=True)


large = 60 * MIB
"""The size of such a response; the tests make it smaller."""
ROW = b'[{"order_id": 7, "status": "running", %b}]'
NESTED = 100_000

HOSTILE = [
    # Compressed
    Hostile("gzip bomb, 0.5 MB to 512 MiB", whole(bomb(512, 31), "Content-Encoding: gzip"), ResponseFormatError),
    Hostile("gzip bomb, 1 MB to 1 GiB", whole(bomb(1024, 31), "Content-Encoding: gzip"), ResponseFormatError),
    Hostile("gzip bomb in chunks", chunked_bomb, ResponseFormatError),
    Hostile("60 MiB inflated, then broken", whole(bomb(60, 31) + b"x" * 99, BOMB), APIConnectionError),
    Hostile("gzip bomb under 500", whole(bomb(1024, 31), "Content-Encoding: gzip", status="500 Internal"), ServerError),
    Hostile("gzip in gzip", whole(gzipped(bomb(64, 31)), "Content-Encoding: gzip, gzip"), ResponseFormatError),
    Hostile("deflate bomb", whole(bomb(1024, 15), "Content-Encoding: deflate"), ResponseFormatError),
    Hostile("bare deflate bomb", whole(bomb(1024, -15), "Content-Encoding: deflate"), ResponseFormatError),
    Hostile("broken gzip", whole(gzipped(b"")[:10] + b"\xff" * 999, BOMB), APIConnectionError),
    Hostile("deflate that is none", whole(b"\xff" * 999, "Content-Encoding: deflate"), APIConnectionError),
    Hostile("br, not asked for", whole(b"\x8b" * 999, "Content-Encoding: br"), APIConnectionError),
    Hostile("zstd, not asked for", whole(b"\x28\xb5\x2f\xfd" * 99, "Content-Encoding: zstd"), APIConnectionError),
    Hostile("an unknown encoding", whole(b"[]x", "Content-Encoding: zip-it"), ResponseFormatError),
    # Endless, or too long
    Hostile("endless chunked body", chunked(b" " * 65536), ResponseFormatError),
    Hostile("endless body to the end of line", endless(head("Connection: close"), b" " * 65536), ResponseFormatError),
    Hostile("endless body of 1-byte chunks", one_byte_chunks, APITimeoutError),
    Hostile(
        "endless chunk extension", endless(head("Transfer-Encoding: chunked") + b"1;", b"x" * 65536), APITimeoutError
    ),
    Hostile(
        "endless trailers",
        endless(head("Transfer-Encoding: chunked") + b"2\r\n[]\r\n0\r\n", b"X-Trailer: xxxx\r\n" * 1000),
        APIConnectionError,
    ),
    Hostile("200 KB header", whole(b"[]", f"X-Long: {'x' * 200_000}"), APIConnectionError),
    Hostile("endless headers", endless(b"HTTP/1.1 200 OK\r\n", b"X-Header: xxxx\r\n" * 1000), APIConnectionError),
    Hostile("endless header", endless(b"HTTP/1.1 200 OK\r\nX-Long: ", b"x" * 65536), APIConnectionError),
    Hostile("endless status line", endless(b"HTTP/1.1 200 ", b"x" * 65536), APIConnectionError),
    Hostile("endless 100 Continue", endless(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 1000), APITimeoutError),
    # Slow
    Hostile("a byte every 50 ms", bytewise(head("Content-Length: 9999") + b" " * 9999), APITimeoutError, pause=0.05),
    Hostile(
        "a byte of the body every 50 ms",
        lambda: chain([head("Content-Length: 9999")], repeat(b" ")),
        APITimeoutError,
        pause=0.05,
    ),
    Hostile(
        "a 1-byte chunk every 50 ms",
        lambda: chain([head("Transfer-Encoding: chunked")], repeat(b"1\r\n \r\n")),
        APITimeoutError,
        pause=0.05,
    ),
    # Wrong Content-Length
    Hostile("content-length too large, then cut", whole(b"[]", length=999), APIConnectionError),
    Hostile("content-length too large, then silence", whole(b"[]", length=999), APITimeoutError, stalls=True),
    Hostile("content-length of 10^30", whole(b"[]", length=10**30), APIConnectionError),
    Hostile("content-length too small", lambda: iter([head("Content-Length: 100") + orders(3)]), APIConnectionError),
    Hostile("content-length negative", whole(b"[]", length=-2), APIConnectionError),
    Hostile("two content-lengths", whole(b"[]  ", "Content-Length: 2"), APIConnectionError),
    Hostile(
        "content-length and chunked", whole(b"2\r\n[]\r\n0\r\n\r\n", "Transfer-Encoding: chunked"), APIConnectionError
    ),
    # Not the documented JSON
    Hostile("100,000 nested brackets", whole(b"[" * NESTED + b"]" * NESTED), ResponseFormatError),
    Hostile("100,000 nested brackets, unclosed", whole(b"[" * NESTED), ResponseFormatError),
    Hostile("100,000 nested objects", whole(b'{"a":' * NESTED), ResponseFormatError),
    Hostile("an order in 100,000 brackets", whole(ROW % (b'"ip": ' + b"[" * NESTED)), ResponseFormatError),
    Hostile("int of 5,000 digits", whole(ROW % (b'"price_h": ' + b"9" * 5000)), ResponseFormatError),
    Hostile("exponent of 5,000 digits", whole(ROW % (b'"price_h": 1e' + b"9" * 5000)), ResponseFormatError),
    Hostile("fraction of 4,000,000 digits", whole(ROW % (b'"price_h": 0.' + b"1" * 4_000_000)), ResponseFormatError),
    Hostile("NaN", whole(ROW % b'"price_h": NaN'), ResponseFormatError),
    Hostile("-Infinity", whole(ROW % b'"price_h": -Infinity'), ResponseFormatError),
    Hostile("duplicate keys", whole(ROW % b'"status": "stopped"'), ResponseFormatError),
    Hostile("a NUL byte in a text", whole(ROW % b'"title": "a\x00b"'), ResponseFormatError),
    Hostile("NUL bytes alone", whole(bytes(1000)), ResponseFormatError),
    # Within the limit: the cost of decoding
    within("60 MiB of brackets", lambda: b"[" * large),
    within("60 MiB of commas", lambda: b"[" + b"," * large),
    within("60 MiB of white space", lambda: b"[" + b" " * large + b"]"),
    within("60 MiB of one text", lambda: b'["' + b"x" * large + b'"]'),
    within("60 MiB of one text, cut", lambda: b'["' + "€".encode() * (large // 3)),
    within("60 MiB of UTF-16", lambda: "[1,2]".encode("utf-16-le") * (large // 10)),
    within("60 MiB of empty objects", lambda: b"[" + b"{}," * (large // 3) + b"{}]"),
    within("60 MiB of empty objects in a row", lambda: b'[{"a":[' + b"{}," * (large // 3) + b"{}]}]"),
    within("60 MiB of empty objects in an object", lambda: b'{"a":[' + b"{}," * (large // 3) + b"{}]}"),
    within("60 MiB of the least orders", lambda: b"[" + b'{"order_id":7,"status":"x"},' * (large // 28) + b"{}]"),
    within("256 KiB of empty objects in an object", lambda: b'{"a":[' + b"{}," * 87_000 + b"{}]}"),
]
"""What ends in an error."""

ODD = [
    Hostile("fraction of 5,000 digits", whole(ROW % (b'"price_h": 0.' + b"1" * 5000)), None),
    Hostile("broken UTF-8", whole(ROW % b'"title": "caf\xc3"'), None),
    Hostile("a surrogate in UTF-8", whole(ROW % b'"title": "\xed\xa0\x80"'), None),
    Hostile("256 KiB of installs", whole(ROW % (b'"template_installs":[' + b'{"id":7},' * 29_000 + b"{}]")), None),
    Hostile("256 KiB of an unknown field", whole(ROW % (b'"new":[' + b"{}," * 87_000 + b"{}]")), None),
]
"""What costs only the value that is odd: the order is read."""

LEGITIMATE = Hostile("20,000 legitimate orders", lambda: whole(orders(20_000))(), None, decoded=True)
BY_NAME = {answer.name: answer for answer in [*HOSTILE, LEGITIMATE]}
