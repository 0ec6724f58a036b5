"""Simulation: populations of galaxies, the sampling of catalogs, and stamps drawn with GalSim."""
