"""A server of hostile answers, and what each of them costs the client. `python -m tests.hostile` prints the table."""
