"""`client.fleet`: one action for many orders, and the report of what became of each."""
