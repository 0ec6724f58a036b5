"""Figures: each is a function of the tables that evaluation wrote, and of nothing else."""
