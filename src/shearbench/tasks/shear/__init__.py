"""Shapes of galaxies: networks that measure them, their training and their files."""
