"""Estimates judged against the truth and the bounds: tables in, tables out."""
