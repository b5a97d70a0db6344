"""The resource groups of the client: a coroutine for each endpoint, and its `…_and_wait` twin."""
