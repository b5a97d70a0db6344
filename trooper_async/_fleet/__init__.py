"""`client.fleet`: one action for many orders, and the report of what became of each.

`fleet` reads the list and decides what each order needs: a server that has the status, is beyond it or is in transition
to it is left alone. `run` sends what is needed, a bounded number at once, and has a wait of the shared poll for each;
what cannot be sent during an outage is retried after the others, until its own deadline. `report` holds the outcome of
each order as plain data, and `report_file` keeps it in a file during a run.
"""
