"""What the workflow asks while it plans: nothing here needs more than the standard library."""
