"""A server with hostile responses, and what each costs the client. `python -m tests.tools.hostile` prints the table."""
