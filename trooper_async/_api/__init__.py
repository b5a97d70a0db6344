"""The API's contract: its endpoints, what a response means, which error it becomes, and which arguments are valid.

Everything here is pure: it knows the API's names, statuses and texts, and has no I/O, no clock (times are passed in),
no event loop and no state. It may use only `_base`, `models` and `errors`. Each part is a table or a function that a
test can call.
"""
