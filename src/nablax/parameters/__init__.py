"""Derivatives by parameters, in factors: where parameters meet samples, and what can be computed without (D, A, B)."""
