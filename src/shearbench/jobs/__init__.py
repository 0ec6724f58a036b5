"""What surrounds a computation: settings that hold for a block and are put back after it."""
