"""Figures; each is drawn from the tables in ``metrics/`` only."""
