"""The shared polls, and the waits that they drive.

A poller (`poller`) decides when a list is read. The store (`store`) keeps the last list and says what changed in it.
Subscriptions are notified: a wait for an order (`wait`, with a judge of `judges`), a wait for an offer or an install
(`look`), and the readers of `orders.watch` (`feed`). `waits` puts them together. Nothing here sends a request that
changes a server. These are the rules, by the numbers that the tests cite:

1. **One poll.** A client has one poll for each list, with one GET in flight. The first subscription starts it, and it
   ends with the last one. No subscription owns it: each ends on its own, and one that is cancelled never cancels the
   GET that the others wait for. 10,000 waits need no more requests than one. A poll never queues for a place at the
   gate.
2. **Only later polls count.** A wait trusts only polls that began after it did. Which came first is decided by a
   counter, never by a clock, so a response already in flight when an action was sent cannot end a wait. A response from
   a cache (`Age` above 0) proves nothing. *Steady* means: seen on three such polls in a row that span at least the
   schedule's `cap`.
3. **Converged**: the current status is the target, and the desired status agrees where the API gives one. This holds
   whether the API's second word is the requested state or the last one reached. `restarted` and `restarting` as a
   desired status mean `running`. The caller's own `Order` is never used.
4. **Restarts** begin and end at `running`, so two kinds of evidence are used: a departure (a poll showed another
   status), and a row of the status history that was not there before the request. If both are there, and the new row
   says `running`, the wait ends at the first `running` that is read so long after the departure (a third of the cap)
   that it cannot be a stale read from before it. If only one is there, the wait ends once `running` has been steady
   for three times the cap. Rows are compared by word and time, by id only where they have no time, never by order. The
   history is first read at the first `running` after a departure, or else after two polls that show `running`; then
   after floor, 2·floor, … cap. A client has at most four of these requests in flight. A request that is still in flight
   when the wait ends is cancelled. If the history cannot be read, or is empty, before the request, a departure and then
   a steady `running` confirm the restart.
5. **Superseded**: the desired status was seen to agree with the target, and then both statuses are steadily a different
   one. A missing desired status contradicts nothing.
6. **Absent**: an order that is steadily missing from the list has vanished. An order that was just bought gets four
   times the cap before its absence counts. Failed polls count for nothing.
7. **Unknown words** mean that the change is still in progress. No status ends a wait as an error by its name alone,
   unless the caller names it in `fail_on`, and then only once it is steady.
8. **Failed polls.** A 401 or 403 that the next poll confirms ends every wait. The `Retry-After` of a 429 is honoured,
   up to 120 s, except for a final poll before a deadline. Other failures are tolerated until each wait's own deadline;
   polls back off up to the cap, their `Retry-After` is honoured up to the cap, and a successful read of the list
   elsewhere in the client ends the pause. If a row can't be read, the waits for that order stay undecided; if a row's
   id can't be read, no order counts as absent. Each is logged once. An outage (three failures in a row, or failures for
   longer than the cap) is logged at WARNING once, and once when it is over.
9. **The schedule.** The next poll is the earliest that any subscription wants. A wait of age *a* wants one every
   clamp(share · a ± 10 %, floor, cap), and a final one that can end before its deadline. Two polls never begin closer
   together than the floor, so a regular poll that would come right before such a final one is left out. A burst of new
   waits joins one poll.
10. **Deadlines** are monotonic, each wait's own, and kept also while a GET hangs. A process that was suspended past a
    deadline polls once more.
11. **Nothing is left behind** by a wait that has returned, failed or been cancelled. An exception of a predicate or of
    `on_change` fails only its own wait. If the poll itself breaks, every wait fails. Closing the client ends all waits
    with `ClientClosedError`.
12. **`watch`** yields the current orders first as `appeared`, then changes. A slow reader gets each order's latest
    state, never an unbounded queue. A step that was cancelled does not end it.
13. **A poll decodes what changed.** Equal bytes are not parsed, equal rows are not decoded again. `If-None-Match` is
   sent if the API gave an `ETag`; a 304 is a fresh poll that shows no change.
14. **Lost responses.** The `…_and_wait` methods of start, stop, freeze and restart wait even if the response to their
   own request was lost. If the wait fails, its error has the `OutcomeUnknownError` as its cause.

Cases that no client can detect: reads that lag longer than a whole transition takes; a restart that is over between two
polls and leaves no readable row; a row of an earlier start that is written late; a baseline history that lags.
"""
