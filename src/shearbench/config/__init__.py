"""The configuration: its options, how it is read, and its labels."""
