"""Purchases: each is sent once, followed to its end, and recorded.

The rules, which the tests name:

1. **Once.** A purchase is sent once. It is sent again only if the attempt before it certainly was not sent, or met a
   429.
2. **Told apart.** Before it is sent, the ids of all current orders are read. That list must be fresh (not from a cache)
   and complete (no row without an id), and an empty list is read a second time. If it cannot be read, nothing is
   bought.
3. **Followed.** A purchase runs in a task of the client. If the caller is cancelled before the request is sent, the
   purchase is cancelled too; once it has been sent, the task runs on until the outcome is known. `close()` waits for
   it, however often `close()` is cancelled.
4. **Unknown.** If the response is lost, unreadable, or names an order that cannot be the new one (0, a negative
   number, an order from before, the migrated order, an order of another purchase, or any order in a refusal), the
   outcome is unknown. The list is then read until one new order fits the offer's GPUs and price, for at most `cap`
   seconds; all new orders are *candidates*, the most similar first. Another buyer may share the account: no candidate
   is proven to be the purchase, and finding none proves nothing.
5. **Delivered.** A purchase has reached its caller when `create` or `buy` returns, or when the `…_and_wait` method
   returns or raises. A call that is cancelled, or whose process ends, has not delivered it.
6. **Unresolved.** A purchase is unresolved while its outcome is unknown, or while it was made but not delivered. The
   next purchase then raises `UnresolvedPurchaseError`, until `orders.resolve` says what became of the first. A
   decision that contradicts what is known is refused; otherwise the first decision is final. `close()` logs each
   unresolved purchase once.
7. **References.** A purchase under a `reference` that is known buys nothing: it returns what was bought, waits for
   what is in flight, or raises if the outcome is unknown. What was certainly not made may be sent again. The same
   reference for something else (another offer, interval, template, partition) is refused.
8. **Concurrent.** Two purchases that each have their own reference are sent concurrently and do not block each other. A
   purchase without a reference waits for every purchase before it, and every later one waits for it.
9. **On disk.** With a ledger, the intent is durable before the request is sent, and the outcome and the delivery are
   written as soon as they are known. The next process treats an intent without an outcome as a purchase of unknown
   outcome. The file is locked while it is open, and belongs to the process that opened it. If it is damaged, or
   another program has changed it, nothing is bought.
10. **No accidental retry.** Once a purchase may have been sent, no exception is a connection error or a
    `TimeoutError`, so generic retry code cannot buy twice.
"""
