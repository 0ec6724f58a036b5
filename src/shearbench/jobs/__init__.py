"""The surroundings of a computation: logs, locks, GPUs, processes, torch's settings, digests of code."""
