"""Bound the errors of any unbiased estimator, galaxy by galaxy."""

from shearbench.bounds import cramer_rao
from shearbench.job import logged
