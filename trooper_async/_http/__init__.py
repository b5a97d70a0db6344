"""One call over HTTP: its attempts, how fast all calls may go, and the connection. aiohttp lives here.

The way of a call: `transport` (attempts, deadline) → `gate` (places, rate limits) → `wire` (one request and its
response) → `sessions` (connections) and `keys` (the API key).

What is retried
---------------

A call is a *read* (it changes nothing: every GET, and the POSTs to migration-cost and credentials), a *setting* (to
send it twice does no more than once: title, lock, stop, freeze, start, removal of an install), *once-only* (twice
would do it twice: restart, start with migration, install, retry of an install) or a *purchase* (twice would cost
twice).

    what became of the attempt     read               setting                once-only    purchase
    -----------------------------  -----------------  ---------------------  -----------  -----------
    never sent                     retry              retry                  retry        retry
    lost: no whole response        retry, then error  retry, then unknown    unknown      unknown
    429                            wait, again        wait, again            wait, again  wait, again
    5xx or 408, whatever the body  retry, then error  retry, then error (a)  unknown      unknown
    other 4xx, `success: false`    error              error (b)              error        error
    2xx that cannot be read        once more, error   once more, error       unknown      unknown
    3xx, never followed            error              error                  unknown      unknown

(a) unknown if an attempt was lost; (b) unknown if an earlier attempt may have been done.

*Unknown* is `OutcomeUnknownError` (of a purchase: `PurchaseUnknownError`): it may or may not have been done.

1. *Never sent* is a closed list (`sessions.NEVER_SENT`): the connection was not made. Everything else may have been
   sent.
2. The delay before attempt n is `0.5 * 2 ** n` seconds, at most `max_delay`, times a jitter of 0.5 to 1. A
   `Retry-After` of the API is never undercut; where it is longer than what is left of the deadline, or than 120 s,
   the call gives up.
3. The deadline decides whether another attempt starts. It never cuts a request in flight that must not be repeated.
4. A budget of the client keeps a failing API from being hit much more often than it is called. A cut on a connection
   that was used before costs nothing: servers close idle connections, which says nothing of the API.
5. A 429 is not a failure. It uses neither attempts nor budget. It closes the gate for all calls of the client until
   its pause is over: the `Retry-After` where the API gives one, else a guess that grows. Then the calls pass one by
   one, the one that met the 429 first, and faster while they get through. A call that waits behind others that get
   through waits as long as it takes.
6. What must not be repeated goes out on a connection of its own: one that is kept may have just been closed by the
   server, which would lose it.
7. Once a purchase may have been sent, no exception is a connection error or a `TimeoutError`, so that a generic
   "retry on timeout" around it cannot buy twice.
8. aiohttp's exceptions hold the request's headers, and so the key. Failures travel as values (`FailedAttempt`) out of
   the frames that hold headers and bodies; a mistake in somebody's code loses its traceback, and a note says where it
   was.
9. No place at the gate and no connection is held while a call waits for its next attempt.

The loggers
-----------

All are below `trooper_async`, which has a `NullHandler`: nothing is written that the application did not ask for.
`trooper_async.transport` has at DEBUG a line for each attempt (method, path, status or failure, milliseconds) and at
INFO one for each retry. It never holds the key, a header or a body.
"""

import logging

logging.getLogger("trooper_async").addHandler(logging.NullHandler())
