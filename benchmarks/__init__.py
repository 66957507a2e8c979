"""The benchmark grid: nablax beside every plain formulation of the same derivatives."""
