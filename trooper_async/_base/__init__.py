"""What everything else rests on and what knows nothing of the API: JSON and plain data, base errors, sliced work."""
