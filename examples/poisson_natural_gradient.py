"""Energy natural gradient for a physics-informed network: the Poisson problem to six digits in a few dozen steps.

    -Laplacian(u) = 2 pi^2 sin(pi x) sin(pi y) in the unit square, u = 0 on its boundary; u = sin(pi x) sin(pi y).

First-order optimisers stall at a relative error of about 1e-3 here. The natural gradient (Mueller and Zeinhofer 2023,
arXiv 2302.13163) solves a linear least-squares problem in each step, with the derivative of all residuals by all
parameters. Two operators say it all: one for the residuals inside, one for those on the boundary.

    python examples/poisson_natural_gradient.py            # seconds; writes poisson.png
    python examples/poisson_natural_gradient.py --quick    # a smaller network and fewer points
"""

# %%
import argparse
import time

import jax
import jax.numpy as jnp
import numpy as np

import nablax

jax.config.update("jax_enable_x64", True)


# %% The problem and the network
def exact(x):
    return jnp.prod(jnp.sin(jnp.pi * x))


def network(params, x):
    for W, b in params[:-1]:
        x = jnp.tanh(x @ W + b)
    W, b = params[-1]
    return (x @ W + b)[0]


def initial(key, sizes):
    keys = jax.random.split(key, len(sizes) - 1)
    normal = lambda key, a, b: jax.random.normal(key, (a, b)) / jnp.sqrt(a)
    return [(normal(k, a, b), jnp.zeros(b)) for k, a, b in zip(keys, sizes, sizes[1:], strict=False)]


def inside(params, x):
    """The residual of the equation at one point."""
    laplacian = nablax.laplacian(network)(params, x[None])[0]
    return laplacian + 2 * jnp.pi**2 * exact(x)


# %% One step
# Just enough for a Cholesky factor: more would slow the last digits down.
DAMPING = 1e-12


def residuals(params, X, Y):
    """Of all points, each kind with mean square one half of the loss: inside X, on the boundary Y."""
    return (
        jax.vmap(inside, (None, 0))(params, X) / jnp.sqrt(len(X)),
        jax.vmap(network, (None, 0))(params, Y) / jnp.sqrt(len(Y)),
    )


def loss(params, X, Y):
    return 0.5 * sum(jnp.sum(r**2) for r in residuals(params, X, Y))


@jax.jit
def step(params, X, Y):
    """The natural gradient, and the best of some step lengths along it."""
    operators = [
        nablax.parameter_jacobian(inside)(params, X).weighted(jnp.full(len(X), 1 / jnp.sqrt(len(X)))),
        nablax.parameter_jacobian(network)(params, Y).weighted(jnp.full(len(Y), 1 / jnp.sqrt(len(Y)))),
    ]
    found = nablax.natural_gradient(operators, residuals(params, X, Y), damping=DAMPING)
    lengths = 0.5 ** jnp.arange(12.0)
    moved = lambda length: jax.tree.map(lambda p, d: p - length * d, params, found.step)
    losses = jax.lax.map(lambda length: loss(moved(length), X, Y), lengths)
    best = jnp.nanargmin(losses)
    return moved(lengths[best]), losses[best]


@jax.jit
def relative_error(params, points):
    u, v = jax.vmap(network, (None, 0))(params, points), jax.vmap(exact)(points)
    return jnp.linalg.norm(u - v) / jnp.linalg.norm(v)


# %% Train
def train(width=32, points=20, steps=100, seed=0, report=print):
    """Returns the parameters, and the relative L2 error after each step."""
    params = initial(jax.random.key(seed), (2, width, width, 1))
    grid = (np.arange(points) + 0.5) / points
    X = jnp.asarray(np.stack(np.meshgrid(grid, grid), -1).reshape(-1, 2))
    zeros, ones = np.zeros(points), np.ones(points)
    sides = [(grid, zeros), (grid, ones), (zeros, grid), (ones, grid)]
    Y = jnp.asarray(np.concatenate([np.stack(side, -1) for side in sides]))
    fine = np.linspace(0, 1, 101)
    test = jnp.asarray(np.stack(np.meshgrid(fine, fine), -1).reshape(-1, 2))
    errors = []
    for number in range(1, steps + 1):
        params, last = step(params, X, Y)
        errors.append(float(relative_error(params, test)))
        if number % 10 == 0 or number == 1:
            report(f"step {number:3d}   loss {float(last):.2e}   relative L2 error {errors[-1]:.2e}")
    return params, errors


def draw(params, errors, path):
    import matplotlib.pyplot as plt

    fine = np.linspace(0, 1, 101)
    points = jnp.asarray(np.stack(np.meshgrid(fine, fine), -1).reshape(-1, 2))
    u = np.asarray(jax.vmap(network, (None, 0))(params, points)).reshape(101, 101)
    off = u - np.asarray(jax.vmap(exact)(points)).reshape(101, 101)
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(13, 3.8), layout="constrained")
    left.semilogy(range(1, len(errors) + 1), errors)
    left.axhline(1e-3, linestyle=":", color="grey")
    left.text(len(errors), 1.2e-3, "where first-order optimisers stall", ha="right", color="grey")
    left.set(xlabel="natural-gradient steps", ylabel="relative L2 error", title="Error")
    for axis, field, title in ((middle, u, "u"), (right, off, "u minus the solution")):
        image = axis.imshow(field, origin="lower", extent=(0, 1, 0, 1), cmap="viridis" if field is u else "RdBu")
        figure.colorbar(image, ax=axis)
        axis.set(xlabel="x", ylabel="y", title=title)
    figure.savefig(path, dpi=120)


# %%
if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a smaller network, fewer points and steps")
    parser.add_argument("--out", default="poisson.png", help="the picture")
    options = parser.parse_args()
    start = time.perf_counter()
    sizes = {"width": 12, "points": 10, "steps": 30} if options.quick else {}
    params, errors = train(**sizes)
    draw(params, errors, options.out)
    print(f"relative L2 error {errors[-1]:.2e} after {len(errors)} steps, {time.perf_counter() - start:.0f} s")
