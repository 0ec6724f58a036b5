"""Data: catalogs, stamps, noise, shapes and estimates, and the files made by others that a run reads."""
