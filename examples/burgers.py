"""A physics-informed network for the Burgers equation, trained by natural gradients of its residual.

    u_t + u u_x = (0.01 / pi) u_xx  for x in [-1, 1], t in [0, 1];   u(0, x) = -sin(pi x),  u(t, -1) = u(t, 1) = 0.

A shock of width 0.01 forms at x = 0. The derivatives are asked for by name: `nablax.partials`, "u u_t u_x u_xx".
Initial and boundary values are built into the network. Training begins with early times and lets in later ones step by
step; half of the points lie near the shock. Raissi, Perdikaris and Karniadakis (2019, J. Comput. Phys. 378) report a
relative L2 error of 6.7e-4, with 9 layers of 20 neurons and L-BFGS. Here, with 3 of 20: 1.28e-4, 1.27e-4 and 1.44e-4
with seeds 0, 1 and 2, in 70 to 130 s on two cores that had other work too.

    OPENBLAS_NUM_THREADS=1 python examples/burgers.py     # writes burgers.png
    python examples/burgers.py --quick                    # a smaller network, up to t = 0.3, before the shock

One thread for OpenBLAS, which factorises the matrix of a step: its threads and those of XLA wait for each other.
"""

# %%
import argparse
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import least_squares
import numpy as np
from tqdm import tqdm

import nablax

jax.config.update("jax_enable_x64", True)

VISCOSITY = 0.01 / np.pi
PAPER = 6.7e-4


# %% The network and the residual at one point (t, x)
def network(params, point):
    t, x = point
    h = jnp.stack([2 * t - 1, x])
    for W, b in params[:-1]:
        h = jnp.tanh(h @ W + b)
    W, b = params[-1]
    return -jnp.sin(jnp.pi * x) + t * (1 - x**2) * (h @ W + b)[0]


derivatives = nablax.partials(network, coordinates="t x", of="u u_t u_x u_xx")


def residual(params, point):
    u = {name: values[0] for name, values in derivatives(params, point[None]).items()}
    return u["u_t"] + u["u"] * u["u_x"] - VISCOSITY * u["u_xx"]


# %% The reference, and the points
def reference(until=1.0):
    """Times, places and the solution (times, places), from reference/make_references.py."""
    with np.load(Path(__file__).parent / "reference" / "burgers.npz") as file:
        t, x, u = file["t"], file["x"], file["u"]
    return t[t <= until], x, u[t <= until]


@jax.jit
def solution(params, t, x):
    """On the grid, (times, places)."""
    at = lambda t, x: network(params, jnp.stack([t, x]))
    return jax.vmap(jax.vmap(at, (None, 0)), (0, None))(t, x)


def relative_error(params, until=1.0):
    t, x, u = reference(until)
    return float(np.linalg.norm(solution(params, t, x) - u) / np.linalg.norm(u))


def draw_points(key, count, until):
    """Uniform in time up to `until`; in space half uniform, half denser and denser towards the shock."""
    time_key, space_key, kind = jax.random.split(key, 3)
    t = until * jax.random.uniform(time_key, (count,))
    x = jax.random.uniform(space_key, (count,), minval=-1, maxval=1)
    return jnp.stack([t, jnp.where(jax.random.bernoulli(kind, 0.5, (count,)), x, x**3)], -1)


# %% Train
def train(seed=0, width=20, depth=3, count=1500, steps=250, until=1.0, report=print, progress=False):
    """Returns the parameters, and [(step, loss, relative L2 error)]."""
    params = least_squares.initial(jax.random.key(seed), (2, *[width] * depth, 1))
    history = []

    def points(number, key):
        reached = until * min(1.0, 0.15 + 2.2 * number / steps)
        return [draw_points(jax.random.fold_in(key, seed), count, reached)]

    def noted(number, params, loss):
        history.append((number, loss, relative_error(params, until)))
        report(f"step {number:4d}   loss {loss:.1e}   relative L2 error {history[-1][2]:.2e}")

    params = least_squares.minimise([residual], [1.0], params, points, steps=steps, report=noted, progress=progress)
    return params, history


def draw(params, history, path, until=1.0):
    import matplotlib.pyplot as plt

    t, x, u = reference(until)
    found = np.asarray(solution(params, t, x))
    figure, axes = plt.subplots(2, 2, figsize=(12, 7), layout="constrained")
    extent = (0, t[-1], -1, 1)
    largest = np.abs(found - u).max()
    for axis, field, colours, bound, title in (
        (axes[0, 0], found, "RdBu_r", 1, "u of the network"),
        (axes[0, 1], found - u, "PuOr", largest, "u minus the reference"),
    ):
        image = axis.imshow(
            field.T, origin="lower", extent=extent, aspect="auto", cmap=colours, vmin=-bound, vmax=bound
        )
        figure.colorbar(image, ax=axis)
        axis.set(xlabel="t", ylabel="x", title=title)
    for share, colour in ((0.25, "tab:blue"), (0.5, "tab:orange"), (0.75, "tab:green"), (1.0, "tab:red")):
        row = round(share * (len(t) - 1))
        axes[1, 0].plot(x, u[row], color=colour, linewidth=3, alpha=0.35)
        axes[1, 0].plot(x, found[row], color=colour, linestyle="--", label=f"t = {t[row]:.2f}")
    axes[1, 0].set(xticks=(-1, -0.5, 0, 0.5, 1), xlabel="x", ylabel="u", title="Dashed: network; wide: reference")
    axes[1, 0].legend()
    steps, losses, errors = np.array(history).T
    axes[1, 1].semilogy(steps, errors, label="relative L2 error")
    axes[1, 1].semilogy(steps, losses, label="mean squared residual", alpha=0.6)
    axes[1, 1].axhline(PAPER, color="grey", linestyle=":", label=f"error in the paper, {PAPER:g}")
    axes[1, 1].set(xlabel="steps", title="Training; later times are let in step by step")
    axes[1, 1].legend()
    figure.savefig(path, dpi=110)
    plt.close(figure)


# %%
if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a smaller network, up to t = 0.3")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--out", default="burgers.png", help="the picture, of the first seed")
    options = parser.parse_args()
    sizes = {"width": 12, "depth": 2, "count": 400, "steps": 40, "until": 0.3} if options.quick else {}
    print("seed   relative L2 error   time / s")
    for seed in options.seeds:
        started = time.perf_counter()
        params, history = train(seed, **sizes, report=tqdm.write if options.quick else lambda line: None, progress=True)
        print(f"{seed:4d}   {history[-1][2]:17.2e}   {time.perf_counter() - started:8.0f}")
        if seed == options.seeds[0]:
            draw(params, history, options.out, sizes.get("until", 1.0))
