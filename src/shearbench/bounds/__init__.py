"""Errors that no estimator can be below."""
