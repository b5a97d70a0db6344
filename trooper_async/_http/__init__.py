"""One call over HTTP: its attempts, how fast all calls may go, and the connection. aiohttp lives here.

The path of a call: `transport` (attempts, deadline) → `gate` (places, rate limits) → `wire` (one request and its
response) → `sessions` (connections) and `keys` (the API key).

What is retried
---------------

A call is a *read* (it changes nothing: every GET, and the POSTs to migration-cost and credentials), a *setting*
(sending it twice has the same effect as sending it once: title, lock, stop, freeze, start, removal of an install),
*once-only* (sending it twice would do it twice: restart, start with migration, install, retry of an install) or a
*purchase* (sending it twice would cost twice).

    what became of the attempt     read               setting                once-only    purchase
    -----------------------------  -----------------  ---------------------  -----------  -----------
    never sent                     retry, then error  retry, then error      the same     the same
    lost: no whole response        retry, then error  retry, then unknown    unknown      unknown
    429                            wait, again        wait, again            wait, again  wait, again
    5xx or 408, whatever the body  retry, then error  retry, then error (a)  unknown      unknown
    other 4xx, `success: false`    error              error (b)              error        error (c)
    2xx that cannot be read        one retry, error   one retry, error       unknown      unknown
    3xx, never followed            error              error                  unknown      unknown

(a) unknown if an attempt got no whole response; (b) unknown if an earlier attempt may have taken effect; (c) unknown
if the refusal names an order.

*Unknown* is `OutcomeUnknownError` (of a purchase: `PurchaseUnknownError`): it may or may not have been done.

1. *Never sent* is a closed list: the connection was not made (`sessions.NEVER_SENT`), or not by the deadline.
   Everything else may have been sent.
2. The delays between attempts are 0.5, 1, 2, … seconds, at most `max_delay`, times a jitter of 0.5 to 1. A call never
   retries before a `Retry-After` is over; if that is longer than what is left of the deadline, or than 120 s, the call
   gives up.
3. The deadline decides whether another attempt starts. It never cuts a request in flight that must not be repeated.
4. A budget of the client keeps a failing API from being hit much more often than it is called. A cut on a reused
   connection is not charged to it: servers close idle connections, so this says nothing about the API's health.
5. A 429 is not a failure. It uses neither attempts nor budget. It closes the gate for all calls of the client (the
   shared polls pass no gate) until its pause is over: the `Retry-After`, for at most 120 s, or a growing guess if the
   API sends none. Calls then pass one at a time, starting with the one that met the 429, and faster as they succeed.
   While other calls get through, a waiting call never runs out of patience.
6. A request that must not be repeated gets a new connection: the server may just have closed a kept one, and the
   request would be lost.
7. What a purchase may raise once it may have been sent is a rule of `_buying`.
8. aiohttp's exceptions hold the request's headers, and so the key. Failures travel as values (`FailedAttempt`) out of
   the frames that hold headers and bodies; an unexpected exception (a bug) is raised without its traceback, and a note
   on it says where it happened.
9. No place at the gate and no connection is held while a call waits for its next attempt.

The loggers
-----------

All are below `trooper_async`, which has a `NullHandler`: nothing is written unless the application asks for it.
`trooper_async.transport` has at DEBUG a line for each attempt (method, path, status or failure, milliseconds) and at
INFO one for each retry. It never holds the key, a header or a body.
"""

import logging

logging.getLogger("trooper_async").addHandler(logging.NullHandler())
