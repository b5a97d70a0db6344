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
AGES = 1e9  # more seconds than any delay needs

# The table of `trooper_async._http`, copied from there: whether a first attempt that ended so is retried,
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


def test_the_table_is_complete() -> None:
    """The table of these tests has each kind of call with each outcome of an attempt, once."""
    assert {(kind, happened) for kind, happened, _, _ in TABLE} == {(k, h) for k in Repeatability for h in Failure}
    assert len(TABLE) == len(Repeatability) * len(Failure)


@pytest.mark.parametrize(("kind", "happened", "again", "unknown"), TABLE, ids=_name)
def test_the_first_attempt_is_retried_as_the_table_says(
    kind: Repeatability, happened: Failure, again: bool, unknown: bool
) -> None:
    """A first attempt is retried, or its outcome unknown, exactly where the table says so."""
    assert (_delay(kind, [happened]) is not None) is again
    assert outcome_unknown(kind, [happened]) is unknown


@pytest.mark.parametrize(
    ("attempts", "unknown"),
    [
        # a complete last response that refuses, after an attempt whose outcome is unknown
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
        # the response of the last attempt was lost
        ([FAILED, CUT], True),
        ([CUT, CUT, CUT, CUT], True),
        # the last response has its own error class, unless an earlier response was lost
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
def test_a_setting_is_unknown_if_any_attempt_is(attempts: list[Failure], unknown: bool) -> None:
    """The outcome of a setting that is given up depends on all of its attempts, not only the last one."""
    assert outcome_unknown(SETTING, attempts) is unknown
    assert not outcome_unknown(READ, attempts)


@pytest.mark.parametrize("kind", [ONCE, PURCHASE], ids=_name)
@pytest.mark.parametrize("later", [NEVER, LIMITED, REFUSED], ids=_name)
@pytest.mark.parametrize("earlier", [CUT, FAILED, UNREADABLE, REDIRECTED], ids=_name)
def test_an_unknown_outcome_stays_unknown(kind: Repeatability, earlier: Failure, later: Failure) -> None:
    """Nothing that follows an unknown outcome of a once-only call makes it known."""
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
    """The cap applies to the delay without jitter, so that capped delays still spread."""
    policy = RetryPolicy(max_delay=max_delay)
    assert _delay(READ, [CUT] * 3, policy=policy, draw=0.0) == pytest.approx(least)
    assert _delay(READ, [CUT] * 3, policy=policy, draw=math.nextafter(1, 0)) == pytest.approx(most)


def test_the_jitter_is_random_by_default() -> None:
    """Without its own source the policy draws anew each time, so that clients do not retry in step."""
    delays = {POLICY.delay(READ, [CUT], left=AGES) for _ in range(20)}
    assert len(delays) > 1
    assert all(delay is not None and 0.25 <= delay <= 0.5 for delay in delays)


@pytest.mark.parametrize(
    ("retry_after", "low", "high"),
    [
        (0.0, 0.25, 0.5),  # shorter than the back-off, which counts then
        (0.1, 0.25, 0.5),
        (1.0, 1.0, 1.1),  # plus a little jitter, a tenth of it …
        (7.5, 7.5, 8.25),
        (60.0, 60.0, 61.0),  # … but a second at most
        (120.0, 120.0, 121.0),
    ],
)
@pytest.mark.parametrize("happened", [NEVER, CUT, FAILED, UNREADABLE], ids=_name)
def test_retry_after_is_a_minimum(happened: Failure, retry_after: float, low: float, high: float) -> None:
    """The delay is never shorter than the API asks for, and only a little jitter is added to it."""
    assert _delay(READ, [happened], retry_after=retry_after, draw=0.0) == pytest.approx(low)
    assert _delay(READ, [happened], retry_after=retry_after, draw=math.nextafter(1, 0)) == pytest.approx(high)


@pytest.mark.parametrize("before", [0, 1, 13])
@pytest.mark.parametrize(
    ("retry_after", "high"), [(0.0, 0.0), (0.1, 0.11), (1.0, 1.1), (7.5, 8.25), (60.0, 61.0), (120.0, 121.0)]
)
def test_retry_after_of_a_429_is_the_pause(before: int, retry_after: float, high: float) -> None:
    """However many 429s there were, the API's figure plus a little jitter counts, not a growing estimate."""
    attempts = [LIMITED] * (before + 1)
    assert _delay(READ, attempts, retry_after=retry_after, draw=0.0) == retry_after
    assert _delay(READ, attempts, retry_after=retry_after, draw=math.nextafter(1, 0)) == pytest.approx(high)


@pytest.mark.parametrize("kind", Repeatability, ids=_name)
@pytest.mark.parametrize("happened", [LIMITED, NEVER], ids=_name)
def test_a_retry_after_that_is_too_long_ends_the_call(kind: Repeatability, happened: Failure) -> None:
    """A pause longer than 120 s, or one that ends after the call's deadline, is not waited for."""
    assert _delay(kind, [happened], retry_after=120.0) is not None
    assert _delay(kind, [happened], retry_after=120.001) is None
    assert _delay(kind, [happened], retry_after=1e300) is None
    assert _delay(kind, [happened], retry_after=30.0, left=29.0) is None
    at_the_deadline = _delay(kind, [happened], retry_after=30.0, left=30.0, draw=0.0)
    assert at_the_deadline == (30.0 if happened is LIMITED else None)  # for a rate limit, only the pause has to fit
    assert _delay(kind, [happened], retry_after=30.0, left=30.001, draw=0.0) == 30.0


@pytest.mark.parametrize(("left", "expected"), [(0.25, None), (0.26, 0.25), (0.0, None), (-3.0, None)])
def test_no_attempt_starts_after_the_deadline(left: float, expected: float | None) -> None:
    """A delay that would end at or after the deadline is not slept; the call ends at once."""
    assert _delay(READ, [CUT], left=left, draw=0.0) == expected


@pytest.mark.parametrize("attempts", [1, 2, 4])
@pytest.mark.parametrize("happened", [NEVER, CUT, FAILED], ids=_name)
def test_attempts_counts_the_first_one_too(attempts: int, happened: Failure) -> None:
    """`attempts` is the total number, including the first one."""
    policy = RetryPolicy(attempts=attempts)
    given_up = [_delay(READ, [happened] * tries, policy=policy) is None for tries in range(1, attempts + 2)]
    assert given_up == [False] * (attempts - 1) + [True, True]


def test_an_unreadable_response_is_retried_once() -> None:
    """A 2xx that can't be read is retried once, however many attempts are left."""
    policy = RetryPolicy(attempts=10)
    for kind in (READ, SETTING):
        assert _delay(kind, [UNREADABLE], policy=policy) is not None
        assert _delay(kind, [CUT, UNREADABLE], policy=policy) is not None
        assert _delay(kind, [UNREADABLE, UNREADABLE], policy=policy) is None
        assert _delay(kind, [UNREADABLE, CUT, UNREADABLE], policy=policy) is None


@pytest.mark.parametrize("happened", [NEVER, CUT, FAILED, UNREADABLE], ids=_name)
def test_a_retry_needs_a_token_of_the_budget(happened: Failure) -> None:
    """A retry needs a whole token of the client's budget."""
    assert _delay(READ, [happened], budget=1.0) is not None
    assert _delay(READ, [happened], budget=0.999) is None
    assert _delay(READ, [happened], budget=0.0) is None


@pytest.mark.parametrize("kind", Repeatability, ids=_name)
def test_a_429_uses_neither_attempts_nor_budget(kind: Repeatability) -> None:
    """However often the API rate limits a call, it continues, even without budget; only the deadline ends it."""
    assert _delay(kind, [LIMITED] * 500, budget=0.0) is not None
    assert _delay(kind, [LIMITED], policy=ONE_ATTEMPT, budget=0.0) is not None
    assert _delay(kind, [LIMITED] * 500, left=0.0) is None


def test_a_429_does_not_count_as_an_attempt() -> None:
    """429s in between leave a call all of its other attempts."""
    assert _delay(READ, [LIMITED, CUT, LIMITED, CUT, LIMITED, LIMITED, CUT]) is not None
    assert _delay(READ, [LIMITED, CUT, LIMITED, CUT, LIMITED, CUT, LIMITED, CUT]) is None


def test_the_pause_after_a_429_doubles_with_each_429() -> None:
    """Without a Retry-After each further 429 doubles the pause, whatever else has failed."""
    delays = [_delay(READ, [CUT, CUT, *[LIMITED] * times], draw=0.0) for times in (1, 2, 3, 4)]
    assert delays == [0.25, 0.5, 1.0, 2.0]


def test_a_policy_of_one_attempt_does_not_retry() -> None:
    """A request that is repeated on a schedule anyway, like a poll, gives up at its first failure."""
    for happened in set(Failure) - {LIMITED}:
        assert _delay(READ, [happened], policy=ONE_ATTEMPT) is None


# Properties ---------------------------------------------------------------------------------------------------------


policies = st.builds(RetryPolicy, attempts=st.integers(1, 6), max_delay=st.floats(0, 1000), budget=st.integers(0, 10))
pauses = st.none() | st.floats(0, 200)


@given(policies, kinds, histories, st.floats(-10, 500), pauses, st.floats(-5, 20), draws)
def test_a_delay_keeps_its_limits(
    policy: RetryPolicy,
    kind: Repeatability,
    attempts: list[Failure],
    left: float,
    retry_after: float | None,
    budget: float,
    draw: float,
) -> None:
    """Whatever happened: a delay is never negative, never below Retry-After, never longer than the time left."""
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
def test_a_once_only_call_is_repeated_only_if_it_changed_nothing(
    policy: RetryPolicy, kind: Repeatability, attempts: list[Failure], draw: float
) -> None:
    """Every attempt of a once-only call before the last one has certainly changed nothing."""
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
    """No failure makes the outcome of a read unknown, since it changes nothing."""
    assert not outcome_unknown(READ, attempts)


@given(kinds, histories)
def test_a_call_that_was_never_accepted_is_known(kind: Repeatability, attempts: list[Failure]) -> None:
    """If every attempt was refused, rate limited or never sent, the outcome of the call is known."""
    certain = [happened for happened in attempts if happened in (NEVER, LIMITED, REFUSED)]
    if certain:
        assert not outcome_unknown(kind, certain)


@given(histories)
def test_a_setting_whose_response_was_lost_is_unknown(attempts: list[Failure]) -> None:
    """A setting whose response was lost at any attempt and which is given up may have been applied."""
    if CUT in attempts:
        assert outcome_unknown(SETTING, attempts)
    if not {CUT, FAILED, UNREADABLE, REDIRECTED} & set(attempts):
        assert not outcome_unknown(SETTING, attempts)
