"""Programs as users write them, each run as a separate process using the fake."""
