"""One call: its attempts, their pace, and the connection. aiohttp lives here."""
