"""`client.orders`, `client.blibs`, `client.migrations` and `client.templates`: the endpoints, and waits."""
