"""Levenberg-Marquardt for physics-informed networks: natural gradients of sums of squared residuals.

Shared by burgers.py and schroedinger.py. A residual is a function of the parameters and one point, real or complex; it
may contain any transform of nablax, and the operators of its derivatives by the parameters are all that a step needs.
"""

# %%
import jax
import jax.numpy as jnp
import numpy as np
from tqdm import trange

import nablax


def initial(key, sizes):
    """Weights and biases of dense layers."""
    keys = jax.random.split(key, len(sizes) - 1)
    normal = lambda key, a, b: jax.random.normal(key, (a, b)) / jnp.sqrt(a)
    return [(normal(k, a, b), jnp.zeros(b)) for k, a, b in zip(keys, sizes, sizes[1:], strict=False)]


def norms(residuals, weights, params, points):
    """All residuals, each kind with the mean square of its weight times the residual as its share of the loss."""
    values = [jax.vmap(r, (None, 0))(params, X) for r, X in zip(residuals, points, strict=True)]
    return [w * v / jnp.sqrt(len(v)) for w, v in zip(weights, values, strict=True)]


def minimise(residuals, weights, params, draw_points, *, steps, report, damping=1e-2, every=10, progress=False):
    """Lower sum_k w_k^2 mean |r_k|^2. `draw_points(number, key)` gives the points of a step, one batch for each kind.

    Each step takes the best of some lengths along the natural gradient. The damping falls where long steps are the best
    ones and rises where only short ones are. Every few steps `report(number, params, loss)` is called.
    """
    lengths = 0.5 ** jnp.arange(9.0)
    loss = lambda params, points: sum(jnp.sum(jnp.abs(r) ** 2) for r in norms(residuals, weights, params, points))

    @jax.jit
    def step(params, points, damping):
        rows = [
            nablax.parameter_jacobian(r)(params, X).weighted(jnp.full(len(X), w / np.sqrt(len(X))))
            for r, w, X in zip(residuals, weights, points, strict=True)
        ]
        natural = nablax.natural_gradient(rows, norms(residuals, weights, params, points), damping=damping).step
        moved = lambda length: jax.tree.map(lambda p, d: p - length * d, params, natural)
        losses = jax.lax.map(lambda length: loss(moved(length), points), lengths)
        best = jnp.nanargmin(losses)
        changed = jnp.where(best <= 1, damping / 3, jnp.where(best >= 4, damping * 3, damping))
        return moved(lengths[best]), losses[best], jnp.clip(changed, 1e-9, 1.0)

    damping = jnp.full((), damping)
    for number in trange(1, steps + 1, desc="steps", disable=not progress):
        # new points every few steps: none is fitted at the cost of its neighbours
        points = draw_points(number, jax.random.key(number // 5))
        params, value, damping = step(params, points, damping)
        if number % every == 0 or number == steps:
            report(number, params, float(value))
    return params
