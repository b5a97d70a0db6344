"""`client.fleet`: one action for many orders, and the report of what became of each.

`fleet` reads the list and decides what each order needs: what is there, farther or on its way is left alone. `run`
sends what is needed, a bounded number at once, and has a wait of the shared poll for each; what an outage keeps from
being sent is tried again after the others, until its own deadline. `report` is what became of each order as plain data,
and `report_file` keeps it in a file while a run goes on.
"""
