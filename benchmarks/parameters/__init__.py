"""Derivatives by parameters: nablax.parameter_jacobian beside its peers."""
