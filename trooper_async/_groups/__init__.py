"""What `client.orders`, `client.blibs`, `client.migrations` and `client.templates` are."""
