"""Any response to any call is data or an error of ours: `python -m tests.tools.fuzz --seconds 60 [--seed N]`.

With atheris it is guided by coverage, else it mutates at random what the API document shows. It ends with 1, and the
seed and the response that did it, where anything else comes out, or the key does.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from tests.helpers.responses import interpreted
from trooper_async import TrooperError
from trooper_async._api import endpoints
from trooper_async._api.endpoints import Call, Endpoint
from trooper_async._api.responses import FailedAttempt, Response
from trooper_async._http.keys import keys_of

KEY = "tk-the-key-of-the-fuzzer"
REDACT = keys_of(KEY).redact
ENDPOINTS: list[Endpoint[Any]] = [value for value in vars(endpoints).values() if isinstance(value, Endpoint)]
STATUSES = [200, 201, 204, 206, 299, 301, 304, 400, 401, 403, 404, 408, 418, 429, 500, 502, 503, 599, 999]
SENT = {"order_id": 1, "target_blib_id": 2}
ORDER = {"order_id": 7, "serverId": 7, "status": "running", "status_user": "running", "price_h": 0.85, "is_locked": 0}
SEEDS: list[Any] = [
    [{**ORDER, "paid_until": "2026-12-01T12:00:00Z", "template_installs": [{"id": 1, "config": {"a": 1}}]}, ORDER],
    {"success": True, "test": "hello", "orderId": 1, "new_order_id": 2, "install_id": 3},
    {"success": False, "error": f"what is {KEY}?", "next": f"try {KEY}", "message": KEY},
    {"ip": "203.0.113.1", "ssh_port": 22, "username": "root", "password": "x", "status": "running"},
    {"history": [{"id": 1, "status_user": "running", "status_since": "2026-01-01 00:00:00", "status_txt": "x"}]},
    {"availableBlibs": [{"id": 1, "price_h": "0.85"}], "currentOrder": {"id": 1}, "currentBlib": {"id": 2}},
    {"totalDue": 1.5, "upgradeCost": 0, "nextBillingDate": None, "newRate": {"amount": 1, "display": "€1"}},
    {"templates": [{"install_id": 1, "status_readable": "failed"}], "id": 1, "options": [{"id": 1}]},
]
ODD: list[Any] = [
    None,
    True,
    False,
    0,
    -1,
    10**30,
    1.5,
    1e308,
    "",
    "0",
    "false",
    "1e999",
    "NaN",
    "\ud800",
    "\0",
    [],
    {},
]
BYTES = [b"NaN", b"[" * 2000, b"9" * 5000, b"1e" + b"9" * 30, b"\x00", b"\xed\xa0\x80", b"\xff", b'"', b"{", b"]", b","]
HEADERS = ["", "5", "-5", "1e9", "9" * 40, "Wed, 21 Oct 2026 07:28:00 GMT", "Wed, 99 Foo 2026 99:99:99 +9999", "\udcff"]


def mutated(value: Any, rng: random.Random) -> Any:
    """A value like this one, here and there another."""
    if rng.random() < 0.05:
        return rng.choice([*ODD, *SEEDS])
    if isinstance(value, dict):
        return {name: mutated(item, rng) for name, item in value.items() if rng.random() > 0.03}
    if isinstance(value, list):
        return [mutated(item, rng) for item in value for _ in range(rng.choice([1, 1, 1, 1, 0, 2]))]
    return value


def random_body(rng: random.Random) -> bytes | None:
    """The body of a response, mostly near what the document shows."""
    if rng.random() < 0.02:
        return None
    if rng.random() < 0.05:
        return rng.randbytes(rng.randrange(200))
    body = bytearray(json.dumps(mutated(rng.choice(SEEDS), rng)).encode())
    for _ in range(rng.choice([0, 0, 0, 1, 3])):
        start = rng.randrange(len(body) + 1)
        body[start : start + rng.randrange(4)] = rng.choice([*BYTES, rng.randbytes(rng.randrange(1, 4))])
    return bytes(body)


def random_answer(rng: random.Random) -> tuple[Endpoint[Any], Response]:
    headers = {name: rng.choice(HEADERS) for name in ("Retry-After", "Date", "ETag", "Age") if rng.random() < 0.3}
    status = 200 if rng.random() < 0.6 else rng.choice(STATUSES)
    return rng.choice(ENDPOINTS), Response(status, headers, random_body(rng))


def check(endpoint: Endpoint[Any], reply: Response) -> str:
    """What became of a response; raises for what must not be."""
    outcome = interpreted(Call(endpoint, "fuzz", "it", SENT), reply, redact=REDACT, now=1e9)
    if not isinstance(outcome, FailedAttempt):
        if not 200 <= reply.status < 300:
            raise AssertionError("data out of an error's status")
        return "data"
    if not isinstance(outcome.error, TrooperError):
        raise AssertionError(f"a fault with {type(outcome.error)}")
    if KEY in f"{outcome.error}{outcome.error!r}{vars(outcome.error)}":
        raise AssertionError("the key came out")
    if outcome.error.__traceback__ or outcome.error.__context__ or outcome.error.__cause__:
        raise AssertionError("an error with frames or causes, which may hold the body")
    return type(outcome.error).__name__


def by_chance(seconds: float, seed: int) -> Counter[str]:
    """Random responses for so long; prints the failing one before its exception is raised."""
    rng = random.Random(seed)
    outcomes: Counter[str] = Counter()
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        endpoint, reply = random_answer(rng)
        try:
            outcomes[check(endpoint, reply)] += 1
        except BaseException:
            print(f"seed {seed}: {endpoint.path} {reply.status} {dict(reply.headers)} {reply.body!r}", file=sys.stderr)
            raise
    return outcomes


def by_coverage(seconds: float, seed: int) -> None:
    """The same guided by coverage; atheris ends the process itself."""
    atheris: Any = importlib.import_module("atheris")
    check_instrumented: Callable[[Endpoint[Any], Response], str] = atheris.instrument_func(check)

    def one(data: bytes) -> None:
        if len(data) > 3:
            endpoint, status = ENDPOINTS[data[0] % len(ENDPOINTS)], STATUSES[data[1] % len(STATUSES)]
            header = HEADERS[data[2] % len(HEADERS)]
            check_instrumented(endpoint, Response(status, {"Retry-After": header, "Date": header}, data[3:]))

    atheris.instrument_all()
    atheris.Setup([sys.argv[0], f"-max_total_time={max(1, round(seconds))}", f"-seed={seed % 2**32}"], one)
    atheris.Fuzz()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=time.time_ns() % 2**32)
    parser.add_argument("--random", action="store_true", help="at random, also where atheris is installed")
    options = parser.parse_args()
    guided = not options.random and importlib.util.find_spec("atheris") is not None
    print(f"seed {options.seed}, {len(ENDPOINTS)} endpoints, {'atheris' if guided else 'at random'}", flush=True)
    if guided:
        by_coverage(options.seconds, options.seed)
    outcomes = by_chance(options.seconds, options.seed)
    for outcome, count in outcomes.most_common():
        print(f"{outcome:24} {count:9}")
    print(f"{outcomes.total()} answers, each data or an error of ours")
    return 0


if __name__ == "__main__":
    sys.exit(main())
