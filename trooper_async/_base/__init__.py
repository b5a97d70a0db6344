"""The layer below all others, which knows nothing of the API: JSON and plain data, base errors, sliced work."""
