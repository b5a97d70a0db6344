"""The shared polls, and who waits on them."""
