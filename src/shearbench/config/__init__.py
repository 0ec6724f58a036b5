"""The configuration of a run: its options, reading and checking it, and the labels of estimators."""
