"""The task of measuring shapes of galaxies: its networks, their training data and their model files."""
