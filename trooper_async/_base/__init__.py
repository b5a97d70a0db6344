"""What everything rests on and what knows nothing of the API: JSON and plain data, the base errors, sliced work."""
