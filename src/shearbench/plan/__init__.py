"""Names, digests and records of a run, which the workflow needs while it plans."""
