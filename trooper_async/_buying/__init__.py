"""Purchases: sent once, followed to their end, recorded."""
