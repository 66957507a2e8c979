"""A two-output network for one patient: the expected disease progression and how uncertain it is.

This file stands alone: `nablax demo` copies it beside its results, and `nablax derive model.py:network` reads it.
"""

import jax.numpy as jnp


def network(params, x):
    """Ten standardised features of one patient, (10,) -> mean and log-variance of the disease progression, (2,)."""
    h = jnp.tanh(x @ params["hidden"]["weight"] + params["hidden"]["bias"])
    h = jnp.tanh(h @ params["hidden2"]["weight"] + params["hidden2"]["bias"])
    return h @ params["out"]["weight"] + params["out"]["bias"]
