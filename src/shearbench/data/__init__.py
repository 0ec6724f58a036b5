"""Data: the files of others that a run reads."""
