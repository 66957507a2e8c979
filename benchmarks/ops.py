"""The few array operations that a cell's model needs, for JAX and for torch.

A model is written once, as ``model(ops, params, x)``, so that the torch twin is the same model with the same weights.
"""

from __future__ import annotations

from types import SimpleNamespace


def jax_ops() -> SimpleNamespace:
    import jax
    import jax.numpy as jnp

    def scan(step, carry, xs):
        return jax.lax.scan(lambda c, x: (step(c, x), None), carry, xs)[0]

    return SimpleNamespace(
        tanh=jnp.tanh,
        sin=jnp.sin,
        exp=jnp.exp,
        sqrt=jnp.sqrt,
        gelu=jax.nn.gelu,
        silu=jax.nn.silu,
        softmax=lambda x: jax.nn.softmax(x, axis=-1),
        einsum=jnp.einsum,
        mean=lambda x: jnp.mean(x, axis=-1, keepdims=True),
        sum=jnp.sum,
        concatenate=lambda *parts: jnp.concatenate(parts, axis=-1),
        log_abs_det=lambda matrix: jnp.linalg.slogdet(matrix)[1],
        scan=scan,
    )


def torch_ops() -> SimpleNamespace:
    import torch

    def scan(step, carry, xs):
        for x in xs:  # torch has no scan under torch.func: the loop is unrolled
            carry = step(carry, x)
        return carry

    def log_abs_det(matrix):
        # torch 2.13: the forward derivatives of slogdet and det are wrong under vmap, those of lu_factor are right.
        factors, _ = torch.linalg.lu_factor(matrix)
        return factors.diagonal(dim1=-2, dim2=-1).abs().log().sum(-1)

    return SimpleNamespace(
        tanh=torch.tanh,
        sin=torch.sin,
        exp=torch.exp,
        sqrt=torch.sqrt,
        gelu=lambda x: torch.nn.functional.gelu(x, approximate="tanh"),  # what jax.nn.gelu computes by default
        silu=torch.nn.functional.silu,
        softmax=lambda x: torch.softmax(x, dim=-1),
        einsum=torch.einsum,
        mean=lambda x: torch.mean(x, dim=-1, keepdim=True),
        sum=torch.sum,
        concatenate=lambda *parts: torch.cat(parts, dim=-1),
        log_abs_det=log_abs_det,
        scan=scan,
    )
