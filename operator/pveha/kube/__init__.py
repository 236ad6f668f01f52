"""The real API server: `client.py` speaks to it, `config.py` finds out how to reach it."""
