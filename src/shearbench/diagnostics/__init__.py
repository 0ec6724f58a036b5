"""Trained and untrained networks from inside."""
