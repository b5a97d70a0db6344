"""The retry policy: what is retried and after how long, as the table in `trooper_async._http` says."""

from __future__ import annotations

import math
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trooper_async._api.endpoints import Repeatability
from trooper_async._api.responses import Failure
from trooper_async._http.retry import ONE_ATTEMPT, RetryPolicy, outcome_unknown

READ, SETTING, ONCE, PURCHASE = Repeatability.READ, Repeatability.SETTING, Repeatability.ONCE, Repeatability.PURCHASE
NEVER, CUT, LIMITED, FAILED = Failure.NEVER_SENT, Failure.LOST, Failure.RATE_LIMITED, Failure.SERVER_ERROR
REFUSED, UNREADABLE, REDIRECTED = Failure.REFUSED, Failure.UNREADABLE, Failure.REDIRECTED

POLICY = RetryPolicy()
AGES = 1e9  # seconds that are always enough

# The table of `trooper_async._http`, written down from it: after a first attempt with that end, whether it is retried,
# and whether its outcome is unknown if it is not.
TABLE = [
    (READ, NEVER, True, False),
    (READ, CUT, True, False),
    (READ, LIMITED, True, False),
    (READ, FAILED, True, False),
    (READ, REFUSED, False, False),
    (READ, UNREADABLE, True, False),
    (READ, REDIRECTED, False, False),
    (SETTING, NEVER, True, False),
    (SETTING, CUT, True, True),
    (SETTING, LIMITED, True, False),
    (SETTING, FAILED, True, False),
    (SETTING, REFUSED, False, False),
    (SETTING, UNREADABLE, True, False),
    (SETTING, REDIRECTED, False, False),
    (ONCE, NEVER, True, False),
    (ONCE, CUT, False, True),
    (ONCE, LIMITED, True, False),
    (ONCE, FAILED, False, True),
    (ONCE, REFUSED, False, False),
    (ONCE, UNREADABLE, False, True),
    (ONCE, REDIRECTED, False, True),
    (PURCHASE, NEVER, True, False),
    (PURCHASE, CUT, False, True),
    (PURCHASE, LIMITED, True, False),
    (PURCHASE, FAILED, False, True),
    (PURCHASE, REFUSED, False, False),
    (PURCHASE, UNREADABLE, False, True),
    (PURCHASE, REDIRECTED, False, True),
]

kinds = st.sampled_from(Repeatability)
histories = st.lists(st.sampled_from(Failure), min_size=1, max_size=8)
draws = st.floats(0, 1, exclude_max=True)


def _name(value: object) -> str:
    return value.name if isinstance(value, Repeatability | Failure) else str(value)


def _delay(
    kind: Repeatability,
    attempts: Iterable[Failure],
    *,
    policy: RetryPolicy = POLICY,
    left: float = AGES,
    retry_after: float | None = None,
    budget: float = 10.0,
    draw: float = 0.5,
) -> float | None:
    return policy.delay(kind, list(attempts), left=left, retry_after=retry_after, budget=budget, rng=lambda: draw)


def test_the_table_is_whole() -> None:
    """The table of these tests has each kind of call against each end of an attempt, once."""
    assert {(kind, happened) for kind, happened, _, _ in TABLE} == {(k, h) for k in Repeatability for h in Failure}
    assert len(TABLE) == len(Repeatability) * len(Failure)


@pytest.mark.parametrize(("kind", "happened", "again", "unknown"), TABLE, ids=_name)
def test_the_table(kind: Repeatability, happened: Failure, again: bool, unknown: bool) -> None:
    """A first attempt is followed by another exactly where the table says, and is unknown exactly where it says."""
    assert (_delay(kind, [happened]) is not None) is again
    assert outcome_unknown(kind, [happened]) is unknown


@pytest.mark.parametrize(
    ("attempts", "unknown"),
    [
        # a last response that is whole and refuses, after an attempt of which nobody knows
        ([CUT, REFUSED], True),
        ([FAILED, REFUSED], True),
        ([UNREADABLE, REFUSED], True),
        ([CUT, LIMITED, REFUSED], True),
        ([FAILED, FAILED, NEVER, REFUSED], True),
        ([NEVER, REFUSED], False),
        ([LIMITED, REFUSED], False),
        ([NEVER, LIMITED, NEVER, REFUSED], False),
        # given up while rate limited, or with no connection any more
        ([CUT, LIMITED], True),
        ([FAILED, LIMITED], True),
        ([CUT, NEVER], True),
        ([FAILED, NEVER], True),
        ([NEVER, LIMITED], False),
        ([LIMITED, NEVER], False),
        # the last attempt was cut
        ([FAILED, CUT], True),
        ([CUT, CUT, CUT, CUT], True),
        # the last response has its own class of error, unless one was cut before
        ([FAILED, FAILED, FAILED, FAILED], False),
        ([CUT, FAILED], True),
        ([FAILED, CUT, FAILED], True),
        ([UNREADABLE, UNREADABLE], False),
        ([CUT, UNREADABLE, UNREADABLE], True),
        ([FAILED, UNREADABLE], False),
        ([FAILED, REDIRECTED], False),
        ([CUT, REDIRECTED], True),
    ],
    ids=lambda value: "-".join(map(_name, value)) if isinstance(value, list) else None,
)
def test_a_setting_whose_earlier_attempt_is_unknown(attempts: list[Failure], unknown: bool) -> None:
    """What a setting that is given up may have done counts all of its attempts, not the last one alone."""
    assert outcome_unknown(SETTING, attempts) is unknown
    assert not outcome_unknown(READ, attempts)


@pytest.mark.parametrize("kind", [ONCE, PURCHASE], ids=_name)
@pytest.mark.parametrize("later", [NEVER, LIMITED, REFUSED], ids=_name)
@pytest.mark.parametrize("earlier", [CUT, FAILED, UNREADABLE, REDIRECTED], ids=_name)
def test_once_unknown_always_unknown(kind: Repeatability, earlier: Failure, later: Failure) -> None:
    """Nothing that comes after an unknown outcome of what must not be sent twice makes it known."""
    assert outcome_unknown(kind, [earlier, later])


# How long -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tries", "most"), [(1, 0.5), (2, 1.0), (3, 2.0), (4, 4.0), (5, 8.0), (6, 16.0), (7, 20.0), (8, 20.0), (1000, 20.0)]
)
def test_the_delays_double_up_to_the_cap(tries: int, most: float) -> None:
    """Delay n is 0.5·2ⁿ up to `max_delay`, times a jitter from a half (rng 0) to just below one (rng 1)."""
    policy = RetryPolicy(attempts=5000)
    attempts = [CUT] * tries
    assert _delay(READ, attempts, policy=policy, draw=0.0) == most / 2
    assert _delay(READ, attempts, policy=policy, draw=0.5) == most * 0.75
    assert _delay(READ, attempts, policy=policy, draw=math.nextafter(1, 0)) == pytest.approx(most)
    assert policy.backoff(tries, lambda: 0.0) == most / 2


@pytest.mark.parametrize(
    ("max_delay", "least", "most"), [(0.0, 0.0, 0.0), (0.3, 0.15, 0.3), (0.5, 0.25, 0.5), (3.0, 1.0, 2.0)]
)
def test_max_delay_caps_before_the_jitter(max_delay: float, least: float, most: float) -> None:
    """The cap is on the delay without jitter, so that capped delays still spread."""
    policy = RetryPolicy(max_delay=max_delay)
    assert _delay(READ, [CUT] * 3, policy=policy, draw=0.0) == pytest.approx(least)
    assert _delay(READ, [CUT] * 3, policy=policy, draw=math.nextafter(1, 0)) == pytest.approx(most)


def test_the_jitter_is_random_by_default() -> None:
    """Without a source of its own the policy draws anew each time, so that clients do not come back in step."""
    delays = {POLICY.delay(READ, [CUT], left=AGES) for _ in range(20)}
    assert len(delays) > 1
    assert all(delay is not None and 0.25 <= delay <= 0.5 for delay in delays)


@pytest.mark.parametrize(
    ("retry_after", "low", "high"),
    [
        (0.0, 0.25, 0.5),  # below the back-off: that one counts
        (0.1, 0.25, 0.5),
        (1.0, 1.0, 1.1),  # plus a little jitter, a tenth of it …
        (7.5, 7.5, 8.25),
        (60.0, 60.0, 61.0),  # … but a second at most
        (120.0, 120.0, 121.0),
    ],
)
@pytest.mark.parametrize("happened", [NEVER, CUT, FAILED, UNREADABLE], ids=_name)
def test_retry_after_is_a_floor(happened: Failure, retry_after: float, low: float, high: float) -> None:
    """The pause that the API asks for is never undercut, and only a little jitter is put on top of it."""
    assert _delay(READ, [happened], retry_after=retry_after, draw=0.0) == pytest.approx(low)
    assert _delay(READ, [happened], retry_after=retry_after, draw=math.nextafter(1, 0)) == pytest.approx(high)


@pytest.mark.parametrize("before", [0, 1, 13])
@pytest.mark.parametrize(
    ("retry_after", "high"), [(0.0, 0.0), (0.1, 0.11), (1.0, 1.1), (7.5, 8.25), (60.0, 61.0), (120.0, 121.0)]
)
def test_a_429_that_says_how_long_is_the_pause(before: int, retry_after: float, high: float) -> None:
    """However many 429s there were: the API's figure counts, not a guess that grows, plus a little jitter."""
    attempts = [LIMITED] * (before + 1)
    assert _delay(READ, attempts, retry_after=retry_after, draw=0.0) == retry_after
    assert _delay(READ, attempts, retry_after=retry_after, draw=math.nextafter(1, 0)) == pytest.approx(high)


@pytest.mark.parametrize("kind", Repeatability, ids=_name)
@pytest.mark.parametrize("happened", [LIMITED, NEVER], ids=_name)
def test_a_retry_after_that_is_too_long(kind: Repeatability, happened: Failure) -> None:
    """A pause of more than 120 s is not waited for, and neither is one that ends after the call's deadline."""
    assert _delay(kind, [happened], retry_after=120.0) is not None
    assert _delay(kind, [happened], retry_after=120.001) is None
    assert _delay(kind, [happened], retry_after=1e300) is None
    assert _delay(kind, [happened], retry_after=30.0, left=29.0) is None
    at_the_deadline = _delay(kind, [happened], retry_after=30.0, left=30.0, draw=0.0)
    assert at_the_deadline == (30.0 if happened is LIMITED else None)  # of a rate limit, the pause alone has to fit
    assert _delay(kind, [happened], retry_after=30.0, left=30.001, draw=0.0) == 30.0


@pytest.mark.parametrize(("left", "expected"), [(0.25, None), (0.26, 0.25), (0.0, None), (-3.0, None)])
def test_no_attempt_starts_after_the_deadline(left: float, expected: float | None) -> None:
    """A delay that would end at or after the deadline is given up at once instead of being slept."""
    assert _delay(READ, [CUT], left=left, draw=0.0) == expected


@pytest.mark.parametrize("attempts", [1, 2, 4])
@pytest.mark.parametrize("happened", [NEVER, CUT, FAILED], ids=_name)
def test_the_number_of_attempts(attempts: int, happened: Failure) -> None:
    """`attempts` is how many there are in all, the first one counted."""
    policy = RetryPolicy(attempts=attempts)
    given_up = [_delay(READ, [happened] * tries, policy=policy) is None for tries in range(1, attempts + 2)]
    assert given_up == [False] * (attempts - 1) + [True, True]


def test_an_unreadable_answer_is_asked_for_once_more() -> None:
    """A 2xx that can't be read is asked for again once, however many attempts are left."""
    policy = RetryPolicy(attempts=10)
    for kind in (READ, SETTING):
        assert _delay(kind, [UNREADABLE], policy=policy) is not None
        assert _delay(kind, [CUT, UNREADABLE], policy=policy) is not None
        assert _delay(kind, [UNREADABLE, UNREADABLE], policy=policy) is None
        assert _delay(kind, [UNREADABLE, CUT, UNREADABLE], policy=policy) is None


@pytest.mark.parametrize("happened", [NEVER, CUT, FAILED, UNREADABLE], ids=_name)
def test_the_budget(happened: Failure) -> None:
    """A retry needs a whole token of the client's budget."""
    assert _delay(READ, [happened], budget=1.0) is not None
    assert _delay(READ, [happened], budget=0.999) is None
    assert _delay(READ, [happened], budget=0.0) is None


@pytest.mark.parametrize("kind", Repeatability, ids=_name)
def test_a_429_uses_neither_attempts_nor_budget(kind: Repeatability) -> None:
    """However often the API rate limits a call, it goes on, with an empty budget too; only the deadline ends that."""
    assert _delay(kind, [LIMITED] * 500, budget=0.0) is not None
    assert _delay(kind, [LIMITED], policy=ONE_ATTEMPT, budget=0.0) is not None
    assert _delay(kind, [LIMITED] * 500, left=0.0) is None


def test_a_429_does_not_count_among_the_attempts() -> None:
    """429s in between leave a call all of its other attempts."""
    assert _delay(READ, [LIMITED, CUT, LIMITED, CUT, LIMITED, LIMITED, CUT]) is not None
    assert _delay(READ, [LIMITED, CUT, LIMITED, CUT, LIMITED, CUT, LIMITED, CUT]) is None


def test_a_429_backs_off_by_the_number_of_429s() -> None:
    """Without a Retry-After each further 429 doubles the pause, whatever else has failed."""
    delays = [_delay(READ, [CUT, CUT, *[LIMITED] * times], draw=0.0) for times in (1, 2, 3, 4)]
    assert delays == [0.25, 0.5, 1.0, 2.0]


def test_one_attempt() -> None:
    """What is asked again on a schedule anyway gives up at its first failure."""
    for happened in set(Failure) - {LIMITED}:
        assert _delay(READ, [happened], policy=ONE_ATTEMPT) is None


# Properties ---------------------------------------------------------------------------------------------------------


policies = st.builds(RetryPolicy, attempts=st.integers(1, 6), max_delay=st.floats(0, 1000), budget=st.integers(0, 10))
pauses = st.none() | st.floats(0, 200)


@given(policies, kinds, histories, st.floats(-10, 500), pauses, st.floats(-5, 20), draws)
def test_a_delay_keeps_its_bounds(
    policy: RetryPolicy,
    kind: Repeatability,
    attempts: list[Failure],
    left: float,
    retry_after: float | None,
    budget: float,
    draw: float,
) -> None:
    """Whatever happened: a delay is never negative, never below Retry-After, never as long as what is left."""
    delay = _delay(kind, attempts, policy=policy, left=left, retry_after=retry_after, budget=budget, draw=draw)
    if delay is None:
        return
    assert 0 <= delay < left + (attempts[-1] is LIMITED)  # the jitter on a pause that fits is at most a second
    assert retry_after is None or retry_after <= delay <= max(retry_after + 1, policy.max_delay)
    assert delay <= max(policy.max_delay, 121)
    assert attempts[-1] not in (REFUSED, REDIRECTED)
    if attempts[-1] is not LIMITED:
        assert budget >= 1
        assert policy.attempts is not None
        assert len(attempts) - attempts.count(LIMITED) < policy.attempts


@given(policies, kinds, histories, draws)
def test_what_must_not_be_repeated_is_not(
    policy: RetryPolicy, kind: Repeatability, attempts: list[Failure], draw: float
) -> None:
    """Before its last attempt, what must not be sent twice was never on the wire with anything but a certain end."""
    made: list[Failure] = []
    for happened in attempts:
        made.append(happened)
        if _delay(kind, made, policy=policy, draw=draw) is None:
            break
    if kind in (ONCE, PURCHASE):
        assert set(made[:-1]) <= {NEVER, LIMITED}
        assert outcome_unknown(kind, made) is (made[-1] in (CUT, FAILED, UNREADABLE, REDIRECTED))
    assert made[:-1].count(UNREADABLE) <= 1


@given(histories)
def test_a_read_is_never_unknown(attempts: list[Failure]) -> None:
    """Nothing that happens to a read makes its outcome unknown: it changes nothing."""
    assert not outcome_unknown(READ, attempts)


@given(kinds, histories)
def test_certain_ends_are_certain(kind: Repeatability, attempts: list[Failure]) -> None:
    """A call whose every attempt was refused, rate limited or never sent has an outcome that is known."""
    certain = [happened for happened in attempts if happened in (NEVER, LIMITED, REFUSED)]
    if certain:
        assert not outcome_unknown(kind, certain)


@given(histories)
def test_a_cut_setting_is_unknown(attempts: list[Failure]) -> None:
    """A setting that was cut at any time and is given up may have been done: its outcome is unknown."""
    if CUT in attempts:
        assert outcome_unknown(SETTING, attempts)
    if not {CUT, FAILED, UNREADABLE, REDIRECTED} & set(attempts):
        assert not outcome_unknown(SETTING, attempts)
