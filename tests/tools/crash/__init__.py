"""Durable workflows whose processes are killed: see `python -m tests.tools.crash --help`."""
