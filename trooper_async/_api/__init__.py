"""What the API says: its endpoints, what a response means, the errors it makes, and which arguments are valid.

All of it is pure. It knows the API's names, statuses and texts, and may use only `_base`, `models` and `errors`: no
I/O, no clock (a time is passed in), no event loop, no state. So each part is a table or a function that a test calls.
"""
