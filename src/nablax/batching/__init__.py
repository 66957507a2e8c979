"""Samples: which axis of which argument holds them, and how many go through the model at once."""
