"""The judges: what successive sightings of an order prove. A sighting is written `current/desired@seconds`; without a
desired status the API gives none; `-` is an order that is not in the list, `?` one whose row can't be read.
"""

from __future__ import annotations

import gc
import inspect
import itertools
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import event, given
from hypothesis import strategies as st

from tests.helpers.texts import exactly
from trooper_async._waiting.judges import (
    ConvergedJudge,
    Judge,
    PredicateJudge,
    RestartJudge,
    Sighting,
    StatusJudge,
    Steady,
    Verdict,
    judge_of,
    new_rows,
)
from trooper_async._waiting.schedule import PollSchedule
from trooper_async._waiting.store import Blank
from trooper_async.models import Action, Order, OrderStatus, StatusChange, Transition

WAIT, DONE, SUPERSEDED, VANISHED = Verdict.WAIT, Verdict.DONE, Verdict.SUPERSEDED, Verdict.VANISHED
ASK = Verdict.READ_HISTORY

CAP, FLOOR = 30.0, 1.0
SCHEDULE = PollSchedule(floor=FLOOR, cap=CAP)
LAG = CAP / 3
"""Seconds after a departure for which `running` may still be an old one."""
LATE = 3 * CAP
"""Seconds for which `running` must be steady where only one proof of a restart is there."""


def see(text: str) -> tuple[Sighting, float]:
    """The sighting and time of a text like `running/stopped@5`."""
    what, _, at = text.partition("@")
    if what in ("-", "?"):
        return Blank.ABSENT if what == "-" else Blank.UNREADABLE, float(at)
    current, slash, desired = what.partition("/")
    return Order(1, current, desired if slash else None), float(at)


def play(judge: Judge, script: str) -> list[Verdict]:
    """The judge's verdict on each sighting of a script."""
    return [judge.observe(*see(text)) for text in script.split()]


def ends(judge: Judge, script: str) -> Verdict:
    """The judge's verdict on the last sighting of a script; on all others it must say to wait."""
    *before, last = play(judge, script)
    assert set(before) <= {WAIT}
    return last


# Steady -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("span", "times", "expected"),
    [
        (30.0, [0, 15, 30], [False, False, True]),
        (30.0, [0, 29, 29.9, 30], [False, False, False, True]),  # three, but not over the span
        (30.0, [0, 300], [False, False]),  # over the span, but only two
        (30.0, [0, 300, 300.1], [False, False, True]),
        (30.0, [100, 110, 120, 130, 140], [False, False, False, True, True]),  # counted from the first one
        (0.0, [0, 0, 0], [False, False, True]),
    ],
)
def test_steady_needs_three_sightings_over_the_span(span: float, times: list[float], expected: list[bool]) -> None:
    """A state is steady after three sightings in a row that span the given seconds."""
    steady = Steady(span)
    assert [steady.seen(at) for at in times] == expected


def test_a_contradiction_makes_steady_begin_anew() -> None:
    """After a contradiction, three sightings and the whole span are needed again."""
    steady = Steady(30.0)
    assert [steady.seen(at) for at in (0, 15, 30)] == [False, False, True]
    steady.reset()
    assert [steady.seen(at) for at in (40, 60, 69, 70)] == [False, False, False, True]


# A state change -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "script", "end"),
    [
        # `status_user` is the requested state
        ("stopped", "running/stopped@0 stopping/stopped@1 stopped/stopped@2", DONE),
        ("running", "frozen/running@0 starting/running@1 running/running@2", DONE),
        # `status_user` is the last state reached
        ("stopped", "running/running@0 stopping/running@1 stopped/stopped@2", DONE),
        ("stopped", "running/running@0 stopping/running@1 stopped/running@2", WAIT),
        # there is no `status_user`
        ("stopped", "running@0 stopping@1 stopped@2", DONE),
        # at the first sighting
        ("stopped", "stopped/stopped@0", DONE),
        ("stopped", "stopped@0", DONE),
        # current is the target, but desired differs
        ("stopped", "stopped/running@0 stopped/frozen@100 stopped/@200", WAIT),
        # desired agrees, but current stays elsewhere, however long
        ("stopped", "running/stopped@0 running/stopped@500 running/stopped@1000 running/stopped@1500", WAIT),
        # words in any case of letters, and unknown words
        ("stopped", "Running/STOPPED@0 STOPPED/Stopped@1", DONE),
        ("Rebooted", "rebooting/rebooted@0 REBOOTED/rebooted@1", DONE),
        ("stopped", "exploded/stopped@0 failed/stopped@100 error/stopped@200 terminated/stopped@300", WAIT),
        # a word that only begins like it
        ("stop", "stopped/stopped@0", WAIT),
        # an unreadable or missing row in between changes nothing
        ("stopped", "running/stopped@0 ?@1 -@2 stopped/stopped@3", DONE),
    ],
)
def test_a_state_change_has_arrived(target: str, script: str, end: Verdict) -> None:
    """It has arrived if current is the target, and desired agrees where it is given."""
    assert ends(StatusJudge(target=target, cap=CAP), script) is end


AGREED = "running/stopped@0 "


@pytest.mark.parametrize(
    ("script", "end"),
    [
        # desired was stopped once, and then both are steadily running
        (AGREED + "running/running@1 running/running@16 running/running@31", SUPERSEDED),
        (AGREED + "stopping/stopped@1 running/running@5 running/running@20 running/running@35", SUPERSEDED),
        (AGREED + "frozen/frozen@1 frozen/frozen@16 frozen/frozen@31", SUPERSEDED),
        (AGREED + "Running/RUNNING@1 running/running@16 running/Running@31", SUPERSEDED),
        (AGREED + "odd/odd@1 odd/odd@16 odd/odd@31", SUPERSEDED),
        # by more than one action
        (AGREED + "running/running@1 frozen/frozen@16 running/running@31", SUPERSEDED),
        # three, but not for long enough
        (AGREED + "running/running@1 running/running@16 running/running@30", WAIT),
        (AGREED + "running/running@1 running/running@2 running/running@3 running/running@31", SUPERSEDED),
        # long enough, but only two
        (AGREED + "running/running@1 running/running@500", WAIT),
        # desired was never seen as stopped: a read that lags
        ("running/running@0 running/running@100 running/running@200 running/running@300", WAIT),
        ("running@0 running/running@100 running/running@200 running/running@300", WAIT),
        # not in a row: interrupted by a sighting of the target, of no desired status, of another transition, or of
        # nothing
        (
            AGREED + "running/running@1 running/running@50 running/stopped@60 running/running@70 running/running@99",
            WAIT,
        ),
        (AGREED + "running/running@1 running/running@50 running@60 running/running@70 running/running@99", WAIT),
        (
            AGREED + "running/running@1 running/running@50 starting/running@60 running/running@70 running/running@99",
            WAIT,
        ),
        (AGREED + "running/running@1 running/running@50 ?@60 running/running@70 running/running@99", WAIT),
        (AGREED + "running/running@1 running/running@50 -@60 running/running@70 running/running@99", WAIT),
        # in a row again after that
        (AGREED + "running/running@1 ?@60 running/running@70 running/running@80 running/running@100", SUPERSEDED),
        # a missing desired status contradicts nothing
        (AGREED + "running@1 running@100 running@200 running@300", WAIT),
        # current is not desired: in transition, wherever to
        (AGREED + "stopping/running@1 stopping/running@100 stopping/running@200 stopping/running@300", WAIT),
        (AGREED + "stopped/running@1 stopped/running@100 stopped/running@200 stopped/running@300", WAIT),
        # it arrives after all, at the last moment
        (AGREED + "running/running@1 running/running@16 stopped/stopped@31", DONE),
    ],
)
def test_a_state_change_is_superseded(script: str, end: Verdict) -> None:
    """Superseded: desired was seen to agree, and then both statuses steadily are the same other one."""
    assert ends(StatusJudge(target="stopped", cap=CAP), script) is end


@pytest.mark.parametrize(
    ("script", "end"),
    [
        ("-@0 -@15 -@30", VANISHED),
        ("-@0 -@29 -@29.9", WAIT),
        ("-@0 -@500", WAIT),
        ("running/stopped@0 -@1 -@16 -@31", VANISHED),
        ("running/stopped@0 -@1 -@16 -@30", WAIT),
        # one sighting of it, or of an incomplete list, interrupts the row
        ("-@0 -@29 running/stopped@30 -@31 -@32 -@60", WAIT),
        ("-@0 -@29 ?@30 -@31 -@32 -@60", WAIT),
        ("-@0 -@29 ?@30 -@31 -@32 -@61", VANISHED),
        # an unreadable row proves nothing, however long
        ("?@0 ?@100 ?@200 ?@300", WAIT),
    ],
)
@pytest.mark.parametrize(
    "make",
    [
        lambda: StatusJudge(target="stopped", cap=CAP),
        lambda: ConvergedJudge(cap=CAP),
        lambda: PredicateJudge(predicate=lambda order: False, cap=CAP),
        lambda: RestartJudge(before=(), cap=CAP, floor=FLOOR),
    ],
    ids=["state change", "converged", "predicate", "restart"],
)
def test_an_order_vanishes(make: Callable[[], Judge], script: str, end: Verdict) -> None:
    """For every judge an order has vanished once it is steadily absent, and not before."""
    assert ends(make(), script) is end


@pytest.mark.parametrize("action", ["create", "migrate"])
@pytest.mark.parametrize(
    ("script", "end"),
    [
        ("-@0 -@60 -@119", WAIT),
        ("-@0 -@60 -@120", VANISHED),
        ("-@0 -@60 ?@119 -@120 -@180 -@239", WAIT),  # four caps again: it was not seen yet
        ("-@0 -@60 ?@119 -@120 -@180 -@240", VANISHED),
        ("-@0 -@60 -@119 running/running@119.5", DONE),
        # once it was seen, like any other
        ("-@0 -@60 starting/running@70 -@80 -@90 -@109", WAIT),
        ("-@0 -@60 starting/running@70 -@80 -@90 -@110", VANISHED),
        ("starting/running@0 -@1 -@2 ?@3 -@4 -@5 -@34", VANISHED),
    ],
)
def test_a_new_order_may_appear_late(action: Action, script: str, end: Verdict) -> None:
    """A new order may be missing for four times the cap until it first appears; from then on for one."""
    judge = judge_of(Transition(1, action, OrderStatus.running), SCHEDULE)
    assert ends(judge, script) is end


@pytest.mark.parametrize(
    ("action", "target", "kind"),
    [
        ("start", "running", StatusJudge),
        ("stop", "stopped", StatusJudge),
        ("freeze", "frozen", StatusJudge),
        ("create", "running", StatusJudge),
        ("migrate", "running", StatusJudge),
        ("restart", "running", RestartJudge),
    ],
)
def test_each_action_has_its_judge(action: Action, target: str, kind: type[Judge]) -> None:
    """Each action has its judge for its own target; only new orders may appear late."""
    judge = judge_of(Transition(1, action, target), SCHEDULE)
    assert type(judge) is kind
    assert judge.target == target
    late = ends(judge, "-@0 -@15 -@30")
    assert late is (WAIT if action in ("create", "migrate") else VANISHED)


@pytest.mark.parametrize(
    ("script", "restless"),
    [
        ("running/stopped@0", False),  # only a change can matter
        ("running/running@0", False),
        ("running/stopped@0 running/running@1", True),  # the same again would be another contradiction
        ("running/stopped@0 running/running@1 running/stopped@2", False),
        ("running/stopped@0 -@1", True),
        ("running/stopped@0 ?@1", True),
        ("running/stopped@0 -@1 running/stopped@2", False),
    ],
)
def test_a_judge_wants_equal_sightings_only_if_they_add_up(script: str, restless: bool) -> None:
    """A judge wants the next sighting although it is equal only where equal ones add up."""
    judge = StatusJudge(target="stopped", cap=CAP)
    assert ends(judge, script) is WAIT
    assert judge.wants_every_poll is restless


# A restart ----------------------------------------------------------------------------------------------------------

T0 = datetime(2025, 9, 25, 10, 30, tzinfo=UTC)


def change(status: str, minutes: int | None = 0, row_id: int | None = None, text: str | None = None) -> StatusChange:
    """A row of the history, so many minutes after T0."""
    return StatusChange(status, None if minutes is None else T0 + timedelta(minutes=minutes), text, row_id)


BEFORE = (change("running", 0, 1), change("stopped", -135, 2))  # the document's sample: the newer one has the lower id
RESTARTED = (change("running", 5, 0), *BEFORE)
ACCEPTED = (change("restarted", 5, 0), *BEFORE)


def restart(before: tuple[StatusChange, ...] | None = BEFORE) -> RestartJudge:
    return RestartJudge(before=before, cap=CAP, floor=FLOOR)


def steadily(first: float, last: float, what: str = "running/running") -> str:
    """A script of three sightings of the same from `first` to `last`."""
    return f"{what}@{first} {what}@{(first + last) / 2} {what}@{last}"


def waits(judge: Judge, script: str) -> bool:
    """Whether the judge says to wait throughout (and perhaps to read the history)."""
    return set(play(judge, script)) <= {WAIT, ASK}


def test_a_restart_with_both_kinds_of_evidence_ends_at_once() -> None:
    """It left `running` and a new row says running: done once `running` can't be from before it left."""
    judge = restart()
    assert ends(judge, "running/restarted@0 restarting/restarted@1") is WAIT
    back = 1 + LAG
    assert judge.observe(*see(f"running/running@{back}")) is ASK
    assert judge.read_history(RESTARTED, back + 0.1) is DONE
    assert judge.observe(*see(f"running/running@{back + 1}")) is DONE


def test_running_right_after_it_left_may_be_stale() -> None:
    """With both kinds of evidence, a `running` read too soon after it left does not end the wait; a later one does."""
    judge = restart()
    assert ends(judge, "running/restarted@0 restarting/restarted@1") is WAIT
    assert judge.observe(*see(f"running/running@{1 + LAG / 2}")) is ASK
    assert judge.read_history(RESTARTED, 1 + LAG / 2) is WAIT
    assert judge.observe(*see(f"running/running@{1 + 0.99 * LAG}")) is WAIT
    assert judge.observe(*see(f"running/running@{1.001 + LAG}")) is DONE


def test_after_a_slow_response_running_counts_from_its_end() -> None:
    """The server may have left `running` as late as that response ended, so an earlier one proves no end."""
    judge = restart()
    order, at = see("restarting/restarted@1")
    assert judge.observe(order, at, 21.0) is WAIT
    assert judge.observe(*see("running/running@22")) is ASK
    assert judge.read_history(RESTARTED, 22.0) is WAIT
    assert judge.observe(*see(f"running/running@{1 + LAG}")) is WAIT
    assert judge.observe(*see(f"running/running@{21.001 + LAG}")) is DONE


def test_the_new_row_may_come_before_the_departure() -> None:
    """The two kinds of evidence may come in either order."""
    judge = restart()
    assert play(judge, "running/running@0 running/running@1") == [WAIT, ASK]
    assert judge.read_history(RESTARTED, 1) is WAIT
    assert ends(judge, f"running/running@2 restarting/restarted@3 running/running@{3.001 + LAG}") is DONE


def test_a_new_row_does_not_end_a_restart_while_it_is_away() -> None:
    """While the server is not running, or not visible, a restart is not over, whatever the history says."""
    for away in ("restarting/running", "running/stopped", "?", "-"):
        judge = restart()
        assert play(judge, "restarting/restarted@0 running/running@20") == [WAIT, ASK]
        assert judge.observe(*see(f"{away}@50")) is WAIT
        assert judge.read_history(RESTARTED, 51) is WAIT
        assert judge.observe(*see("running/running@52")) is DONE


@pytest.mark.parametrize(
    "rows", [RESTARTED, ACCEPTED, (change("stopped", 5), *BEFORE)], ids=["running", "desired", "other"]
)
def test_a_new_row_alone_needs_steady_running(rows: tuple[StatusChange, ...]) -> None:
    """A new row and no departure: done once `running` is steady, counted from the reading of the row."""
    judge = restart()
    assert play(judge, "running/running@0 running/running@1") == [WAIT, ASK]
    assert waits(judge, steadily(2, 2 + 2 * LATE))  # before the row this proves nothing
    read = 3 + 2 * LATE
    assert judge.read_history(rows, read) is WAIT
    assert judge.proven
    judge.observe(*see(f"running/running@{read}"))
    assert judge.observe(*see(f"running/running@{read + LATE / 2}")) in (WAIT, ASK)
    assert judge.observe(*see(f"running/running@{read + LATE - 0.1}")) in (WAIT, ASK)
    assert judge.observe(*see(f"running/running@{read + LATE}")) is DONE


@pytest.mark.parametrize("before", [None, BEFORE, ()], ids=["no baseline", "baseline", "empty baseline"])
def test_a_departure_alone_needs_steady_running(before: tuple[StatusChange, ...] | None) -> None:
    """A departure and no new row: done once `running` is steady, counted from the first one after it."""
    judge = restart(before)
    assert waits(judge, f"restarting/restarted@0 {steadily(10, 9.9 + LATE)}")
    if before is not None:
        assert judge.read_history(before, 10 + LATE) is WAIT
    assert judge.observe(*see(f"running/running@{10 + LATE}")) is DONE


def test_a_new_row_with_another_word_is_no_evidence() -> None:
    """A new row that does not say running is no evidence: `running` must still be steady."""
    judge = restart()
    assert play(judge, "restarting/restarted@0 running/running@20") == [WAIT, ASK]
    assert judge.read_history(ACCEPTED, 20) is WAIT
    assert waits(judge, f"running/running@{20 + LATE / 2} running/running@{19.9 + LATE}")
    assert judge.observe(*see(f"running/running@{20 + LATE}")) is DONE


@pytest.mark.parametrize("what", ["restarting/restarted", "running/stopped", "stopped/stopped", "stopped", "?", "-"])
def test_an_interruption_makes_steady_running_begin_anew(what: str) -> None:
    """One sighting of another status, or of nothing, makes the count restart."""
    judge = restart(None)
    assert waits(judge, f"restarting/restarted@0 {steadily(1, 0.9 + LATE)} {what}@{1 + LATE}")
    again = 2 + LATE
    assert waits(judge, steadily(again, again + LATE - 0.1))
    assert judge.observe(*see(f"running/running@{again + LATE}")) is DONE


def test_running_alone_proves_nothing() -> None:
    """Without a departure and without a new row a restart never ends, however long it runs."""
    judge = restart()
    for minute in range(200):
        verdict = judge.observe(*see(f"running/running@{60 * minute}"))
        assert verdict in (WAIT, ASK)
        if verdict is ASK:
            assert judge.read_history(BEFORE, 60 * minute) is WAIT
    assert not judge.proven


def test_without_a_baseline_the_history_is_never_read() -> None:
    """Without rows from before there is nothing to compare with: then only a departure is evidence."""
    judge = restart(None)
    assert set(play(judge, " ".join(f"running/running@{60 * minute}" for minute in range(100)))) == {WAIT}
    assert ends(judge, f"stopped/running@6000 {steadily(6001, 6001 + LATE)}") is DONE


@pytest.mark.parametrize("desired", ["/running", "/restarted", "/restarting", "", "/RESTARTED"])
def test_the_desired_status_after_a_restart_has_three_words(desired: str) -> None:
    """The desired status after a restart is one of three words, or missing."""
    assert ends(restart(None), f"restarting{desired}@0 {steadily(1, 1 + LATE, 'running' + desired)}") is DONE


@pytest.mark.parametrize("desired", ["stopped", "frozen", "starting", ""])
def test_another_desired_status_does_not_end_a_restart(desired: str) -> None:
    """While another status is desired, `running` does not end a restart."""
    assert ends(restart(None), f"restarting/running@0 {steadily(1, 1 + 2 * LATE, f'running/{desired}')}") is WAIT


def test_a_restart_is_superseded() -> None:
    """A restart whose server is then stopped by somebody else is superseded like any other action."""
    script = "running/restarted@0 stopped/stopped@1 stopped/stopped@16 stopped/stopped@31"
    assert ends(restart(), script) is SUPERSEDED
    assert ends(restart(), script.replace("restarted", "odd")) is WAIT


def test_the_history_is_first_read_when_it_runs_after_a_departure() -> None:
    """After a departure the history is worth reading as soon as the server runs again."""
    assert play(restart(), "running/restarted@0 restarting/restarted@1 running/running@2") == [WAIT, WAIT, ASK]


def test_without_a_departure_the_history_is_first_read_at_the_second_running() -> None:
    """Otherwise it is read after two sightings in a row of the server running."""
    assert play(restart(), "running/restarted@0 running/restarted@1") == [WAIT, ASK]
    assert play(restart(), "running/restarted@0 ?@1 running/restarted@2 running/restarted@3") == [WAIT, WAIT, WAIT, ASK]
    assert play(restart(), "running/stopped@0 running/stopped@1 running/stopped@2") == [WAIT, WAIT, WAIT]


def test_a_stored_departure_is_evidence_after_a_crash() -> None:
    """A transition stored with `departed` needs only the new row; without a readable history, a steady `running`."""
    stored = Transition(123, "restart", "running", BEFORE, departed=True)
    judge = judge_of(stored, SCHEDULE)
    assert isinstance(judge, RestartJudge)
    assert judge.observe(*see("running/running@0")) is ASK
    assert judge.read_history(RESTARTED, 0.1) is DONE
    judge = judge_of(stored, SCHEDULE)
    assert waits(judge, steadily(0, LATE - 1))
    assert play(judge, f"running/running@{LATE}") == [DONE]


@pytest.mark.parametrize("rows", [BEFORE, None, ACCEPTED], ids=["no new row", "unreadable", "another word"])
@pytest.mark.parametrize("departed", [False, True])
def test_the_history_is_read_again_at_growing_pauses(rows: tuple[StatusChange, ...] | None, departed: bool) -> None:
    """It is read again after floor, 2·floor, … cap seconds, also if it could not be read."""
    judge = RestartJudge(before=BEFORE, cap=10_000.0, floor=1.0)  # so that nothing becomes steady meanwhile
    if departed:
        judge.observe(*see("restarting/restarted@0"))
    asked = []
    for second in range(1, 3000):
        if judge.observe(*see(f"running/running@{second}")) is ASK:
            asked.append(second)
            assert judge.read_history(rows, second) is WAIT
    assert asked[0] == (1 if departed else 2)
    assert [then - now for now, then in itertools.pairwise(asked)] == [2**n for n in range(len(asked) - 1)]
    assert len(asked) == 12


def test_the_pause_between_two_readings_has_a_cap() -> None:
    """However often it was read in vain, it is read again after the schedule's cap."""
    judge = RestartJudge(before=BEFORE, cap=8.0, floor=1.0)
    asked = []
    for second in range(60):
        if judge.observe(*see(f"running/running@{second}")) is ASK:
            asked.append(second)
            judge.read_history(BEFORE, second)
    assert asked == [1, 2, 4, 8, 16, 24, 32, 40, 48, 56]


def test_after_a_row_that_says_running_the_history_is_not_read_again() -> None:
    """Once a new row says running, the history has nothing to add and is not read again."""
    judge = restart()
    assert play(judge, "running/running@0 running/running@1") == [WAIT, ASK]
    assert judge.read_history(RESTARTED, 1) is WAIT
    assert set(play(judge, " ".join(f"running/running@{second}" for second in range(2, int(LATE))))) == {WAIT}


@pytest.mark.parametrize(
    ("script", "restless"),
    [
        ("restarting/restarted@0", False),
        ("running/running@0", True),  # equal ones add up: two of them make the history worth reading
        ("running/running@0 restarting/restarted@1", False),
        ("running/stopped@0", False),
        ("-@0", True),
    ],
)
def test_a_restart_wants_equal_sightings_while_it_runs(script: str, restless: bool) -> None:
    """A restart's judge wants equal sightings while the server runs, since then they add up."""
    judge = restart()
    assert ends(judge, script) is WAIT
    assert judge.wants_every_poll is restless


@pytest.mark.parametrize(
    ("before", "rows", "new"),
    [
        # the same
        (BEFORE, BEFORE, []),
        (BEFORE, BEFORE[::-1], []),
        ((), (), []),
        # one more, whatever the ids do
        (BEFORE, RESTARTED, [0]),
        ([change("running", 0, 1)], [change("running", 0, 1), change("running", 5, 2)], [1]),
        # ids that are ranks: every row has another one now, and the oldest of five is gone
        (
            [change("stopped", 10 - rank, rank) for rank in range(1, 6)],
            [change("running", 20, 1), *(change("stopped", 11 - rank, rank) for rank in range(2, 6))],
            [0],
        ),
        # the same id, another row; another id, the same row
        ([change("running", 0, 7)], [change("running", 5, 7)], [0]),
        ([change("running", 0, 7)], [change("running", 0, 8)], []),
        # at the same time, another word; the same word in another case; the text does not matter
        ([change("running", 0, 7)], [change("stopped", 0, 7)], [0]),
        ([change("running", 0, 7)], [change("RUNNING", 0, 7)], []),
        ([change("running", 0, 7, "Server started")], [change("running", 0, 7, "Server was started")], []),
        # the same moment, written with another offset
        (
            [change("running", 0, 7)],
            [StatusChange("running", T0.astimezone(timezone(timedelta(hours=2))), None, 9)],
            [],
        ),
        # without times the ids decide
        ([change("running", None, 7)], [change("running", None, 7)], []),
        ([change("running", None, 7)], [change("running", None, 8), change("running", None, 7)], [0]),
        ([change("running", None, None)], [change("running", None, None)], []),
        # one without a time is not one with a time
        ([change("running", None, 7)], [change("running", 0, 7)], [0]),
        # nothing was there before
        ((), BEFORE, [0, 1]),
    ],
)
def test_new_rows_are_found_by_word_and_time(
    before: list[StatusChange], rows: list[StatusChange], new: list[int]
) -> None:
    """Rows are compared as a set, by word and time, by id only if the time is missing, never by order."""
    assert new_rows(rows, before) == [rows[index] for index in new]


# Convergence, and the caller's own functions ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("script", "end"),
    [
        ("running/running@0", DONE),
        ("odd/Odd@0", DONE),
        ("running/stopped@0 stopping/stopped@1 stopped/stopped@2", DONE),
        ("running/stopped@0 running/frozen@100 frozen/frozen@200", DONE),
        ("running/stopped@0 ?@1 -@2 running/stopped@3", WAIT),
        ("running@0", Verdict.UNJUDGEABLE),
        ("running/stopped@0 running@1", Verdict.UNJUDGEABLE),
    ],
)
def test_an_order_converges(script: str, end: Verdict) -> None:
    """Done where current is desired, whatever that is; a row without a desired status can't be judged."""
    judge = ConvergedJudge(cap=CAP)
    assert ends(judge, script) is end
    assert judge.target is None


def test_a_predicate_is_called_first_and_then_for_changes() -> None:
    """The caller's function is called for the first sighting, and then only for changed orders."""
    asked: list[str] = []

    def predicate(order: Order) -> bool:
        asked.append(f"{order.current_status}/{order.desired_status}")
        return order.current_status == "stopped"

    judge = PredicateJudge(predicate=predicate, cap=CAP)
    script = (
        "running/stopped@0 running/stopped@1 ?@2 running/stopped@3 running/frozen@4 -@5 running/stopped@6 stopped@7"
    )
    assert ends(judge, script) is DONE
    assert asked == ["running/stopped", "running/frozen", "running/stopped", "stopped/None"]


@pytest.mark.parametrize("answer", [None, 0, 1, "", "yes", [], object(), 1.0])
def test_a_predicate_must_return_a_bool(answer: object) -> None:
    """Anything but True and False from a predicate is a TypeError that names its type."""
    text = f"the predicate must return a bool, not {type(answer).__name__} (an async one can't be used)"
    judge = PredicateJudge(predicate=lambda order: answer, cap=CAP)  # type: ignore[arg-type, return-value]
    with pytest.raises(TypeError, match=exactly(text)):
        judge.observe(*see("running@0"))


def test_an_async_predicate_is_refused() -> None:
    """The coroutine of an async predicate is closed, so that nothing warns that it was never awaited."""
    made: list[Any] = []

    async def predicate(order: Order) -> bool:
        return True

    def recorded(order: Order) -> bool:
        made.append(predicate(order))
        return made[-1]  # type: ignore[no-any-return]

    with pytest.raises(TypeError, match="not coroutine"):
        PredicateJudge(predicate=recorded, cap=CAP).observe(*see("running@0"))
    assert inspect.getcoroutinestate(made.pop()) == inspect.CORO_CLOSED
    with pytest.raises(TypeError, match="not coroutine"):
        PredicateJudge(predicate=predicate, cap=CAP).observe(*see("running@0"))  # type: ignore[arg-type]
    gc.collect()  # warnings are errors here


def test_an_exception_of_a_predicate_is_raised() -> None:
    """An exception of the caller's function is not swallowed."""

    def predicate(order: Order) -> bool:
        raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        PredicateJudge(predicate=predicate, cap=CAP).observe(*see("running@0"))


# Properties ---------------------------------------------------------------------------------------------------------

words = st.sampled_from(["running", "stopped", "Stopped", "frozen", "odd"])
orders = st.builds(Order, st.just(1), words, st.none() | words)
sightings = st.lists(
    st.tuples(
        orders
        | st.sampled_from([Order(1, "running", "stopped"), Order(1, "running", "running")])
        | st.sampled_from(Blank),
        st.sampled_from([0.1, 1.0, 14.0, 15.0, 31.0]),
        st.integers(1, 4),
    ),
    max_size=12,
)


def _timed(steps: list[tuple[Sighting, float, int]]) -> Iterator[tuple[Sighting, float]]:
    """The sightings, each repeated as often as given, with the time of each."""
    at = 0.0
    for sighting, pause, times in steps:
        for _ in range(times):
            at += pause
            yield sighting, at


def _is_steady(seen: list[tuple[Sighting, float]], span: float, is_so: Callable[[Sighting], bool]) -> bool:
    """Whether the last sightings, at least three, span the seconds."""
    row: list[float] = []
    for sighting, at in reversed(seen):
        if not is_so(sighting):
            break
        row.append(at)
    return len(row) >= 3 and row[0] - row[-1] >= span


def _agrees(sighting: Sighting) -> bool:
    return isinstance(sighting, Order) and (sighting.desired_status or "").casefold() == "stopped"


def _arrived(sighting: Sighting) -> bool:
    return (
        isinstance(sighting, Order)
        and sighting.current_status.casefold() == "stopped"
        and (sighting.desired_status is None or _agrees(sighting))
    )


def _elsewhere(sighting: Sighting) -> bool:
    return isinstance(sighting, Order) and sighting.is_converged and not _agrees(sighting)


@given(sightings, st.booleans())
def test_any_sightings_of_a_state_change(steps: list[tuple[Sighting, float, int]], appearing: bool) -> None:
    """Over any sightings a state change ends exactly where the rules say."""
    judge = StatusJudge(target="stopped", cap=CAP, appearing=appearing)
    seen: list[tuple[Sighting, float]] = []
    verdict = WAIT
    for sighting, at in _timed(steps):
        seen.append((sighting, at))
        verdict = judge.observe(sighting, at)
        agreed = any(_agrees(earlier) for earlier, _ in seen)
        appeared = any(isinstance(earlier, Order) for earlier, _ in seen)
        if _arrived(sighting):
            expected = DONE
        elif agreed and _is_steady(seen, CAP, _elsewhere):
            expected = SUPERSEDED
        elif _is_steady(seen, 4 * CAP if appearing and not appeared else CAP, lambda it: it is Blank.ABSENT):
            expected = VANISHED
        else:
            expected = WAIT
        assert verdict is expected
        if verdict is not WAIT:
            break
    event(verdict.name)


histories = st.none() | st.lists(
    st.sampled_from([*BEFORE, change("running", 5), change("restarted", 5), change("stopped", 6)]), max_size=5
)
restart_orders = st.builds(
    Order,
    st.just(1),
    st.sampled_from(["running", "running", "running", "restarting", "stopped"]),
    st.sampled_from([None, "running", "restarted", "stopped"]),
)
restart_steps = st.lists(
    st.tuples(
        restart_orders | st.just(Order(1, "running", "running")) | st.sampled_from(Blank),
        st.sampled_from([0.1, 1.0, 5.0, 15.0, 31.0, 50.0]),
        st.integers(1, 4),
    ),
    max_size=10,
)


@given(restart_steps, st.lists(histories, max_size=12), st.none() | st.just(BEFORE))
def test_any_sightings_of_a_restart(
    steps: list[tuple[Sighting, float, int]],
    reads: list[list[StatusChange] | None],
    before: tuple[StatusChange, ...] | None,
) -> None:
    """Over any sightings and readings a restart is over exactly where its evidence and the time say, and it runs."""

    def running(sighting: Sighting) -> bool:
        wishes = (None, "running", "restarted")
        return (
            isinstance(sighting, Order) and sighting.current_status == "running" and sighting.desired_status in wishes
        )

    judge = restart(before)
    seen: list[tuple[Sighting, float]] = []
    departed: float | None = None
    recorded = says_running = False
    verdict = WAIT
    for sighting, at in _timed(steps):
        seen.append((sighting, at))
        if departed is None and isinstance(sighting, Order) and sighting.current_status != "running":
            departed = at
        verdict = judge.observe(sighting, at)
        if verdict is ASK:
            assert before is not None
            assert running(sighting)
            rows = reads.pop() if reads else None
            new = [row for row in rows or () if row not in BEFORE]
            recorded = recorded or bool(new)
            says_running = any(row.status_user == "running" for row in new)
            verdict = judge.read_history(rows, at)
        if verdict is DONE:
            assert running(sighting)
            assert departed is not None or recorded
            both = departed is not None and says_running and at - departed >= LAG
            assert both or _is_steady(seen, LATE, running)
        elif verdict is WAIT and departed is not None and running(sighting):
            assert not _is_steady(seen, LATE, running)  # nothing that has to end is left waiting
            assert not (says_running and at - departed >= LAG)
        assert judge.proven is (departed is not None or recorded)
        if verdict is not WAIT:
            break
    event(verdict.name)
