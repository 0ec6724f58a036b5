"""Contrastive learning: encoders trained on images without labels, for every task that has images."""
