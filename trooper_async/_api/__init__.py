"""What the API says. Pure: no I/O and no clock."""
