"""A server of hostile answers, and what each costs the client. `python -m tests.tools.hostile` prints the table."""
