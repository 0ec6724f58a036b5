"""Populations of galaxies, and their stamps drawn with GalSim."""
