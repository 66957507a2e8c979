"""A physics-informed network with a complex output: the nonlinear Schroedinger equation, periodic in space.

    i h_t + h_xx / 2 + |h|^2 h = 0  for x in [-5, 5], t in [0, pi/2];   h(0, x) = 2 sech(x),  h and h_x periodic.

The network returns one complex number; its derivatives by t and x are asked for by name and are complex, and so is the
residual. Periodicity is exact: the network sees sines and cosines of x. The initial values are fitted, as a second
residual. Training begins with early times and lets in later ones step by step. Raissi, Perdikaris and Karniadakis
(2019, J. Comput. Phys. 378) report a relative L2 error of |h| of 1.97e-3, with 5 layers of 100 neurons. Here, with 3
of 18: 7.6e-4, 8.1e-4 and 1.04e-3 with seeds 0, 1 and 2 (of h itself: 1.8e-3, 1.8e-3 and 4.2e-3), in about 100 s on two
cores.

    OPENBLAS_NUM_THREADS=1 python examples/schroedinger.py     # writes schroedinger.png
    python examples/schroedinger.py --quick                    # a smaller network, up to t = 0.3

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

PAPER = 1.97e-3
FREQUENCIES = np.pi / 5 * np.arange(1, 6)


# %% The network, and the residuals of one point (t, x)
def network(params, point):
    t, x = point
    h = jnp.concatenate([(4 / np.pi * t - 1)[None], jnp.cos(FREQUENCIES * x), jnp.sin(FREQUENCIES * x)])
    for W, b in params[:-1]:
        h = jnp.tanh(h @ W + b)
    W, b = params[-1]
    real, imaginary = h @ W + b
    return real + 1j * imaginary


derivatives = nablax.partials(network, coordinates="t x", of="u u_t u_xx")


def residual(params, point):
    h = {name: values[0] for name, values in derivatives(params, point[None]).items()}
    return 1j * h["u_t"] + 0.5 * h["u_xx"] + jnp.abs(h["u"]) ** 2 * h["u"]


def at_start(params, x):
    """What is missing at t = 0."""
    return network(params, jnp.stack([jnp.zeros(()), x])) - 2 / jnp.cosh(x)


# %% The reference, and the points
def reference(until=np.pi / 2):
    """Times, places and the solution (times, places), from reference/make_references.py."""
    with np.load(Path(__file__).parent / "reference" / "schroedinger.npz") as file:
        t, x, h = file["t"], file["x"], file["h"]
    return t[t <= until], x, h[t <= until]


@jax.jit
def solution(params, t, x):
    """On the grid, (times, places)."""
    at = lambda t, x: network(params, jnp.stack([t, x]))
    return jax.vmap(jax.vmap(at, (None, 0)), (0, None))(t, x)


def relative_errors(params, until=np.pi / 2):
    """Of |h|, and of h."""
    t, x, h = reference(until)
    found = np.asarray(solution(params, t, x))
    return tuple(float(np.linalg.norm(f - g) / np.linalg.norm(g)) for f, g in ((abs(found), abs(h)), (found, h)))


def draw_points(key, count, until):
    """Half of the places uniform, half denser towards the centre, where |h| is largest; and places at t = 0."""
    keys = jax.random.split(key, 5)
    spread = lambda key, kind, n: jnp.where(
        jax.random.bernoulli(kind, 0.5, (n,)),
        *(5 * jax.random.uniform(key, (n,), minval=-1, maxval=1) ** p for p in (1, 3)),
    )
    t = until * jax.random.uniform(keys[0], (count,))
    return [jnp.stack([t, spread(keys[1], keys[2], count)], -1), spread(keys[3], keys[4], count // 5)]


# %% Train
def train(seed=0, width=18, depth=3, count=1000, steps=200, until=np.pi / 2, report=print, progress=False):
    """Returns the parameters, and [(step, loss, relative L2 error of |h|, of h)]."""
    params = least_squares.initial(jax.random.key(seed), (1 + 2 * len(FREQUENCIES), *[width] * depth, 2))
    history = []

    def points(number, key):
        reached = until * min(1.0, 0.15 + 1.5 * number / steps)
        return draw_points(jax.random.fold_in(key, seed), count, reached)

    def noted(number, params, loss):
        history.append((number, loss, *relative_errors(params, until)))
        report(f"step {number:4d}   loss {loss:.1e}   relative L2 error of |h| {history[-1][2]:.2e}")

    params = least_squares.minimise(
        [residual, at_start], [1.0, 10.0], params, points, steps=steps, report=noted, progress=progress
    )
    return params, history


def draw(params, history, path, until=np.pi / 2):
    import matplotlib.pyplot as plt

    t, x, h = reference(until)
    found = np.asarray(solution(params, t, x))
    figure, axes = plt.subplots(2, 2, figsize=(12, 7), layout="constrained")
    extent = (0, t[-1], -5, 5)
    for axis, field, colours, title in (
        (axes[0, 0], np.abs(found), "viridis", "|h| of the network"),
        (axes[0, 1], np.abs(found - h), "magma", "|h minus the reference|"),
    ):
        image = axis.imshow(field.T, origin="lower", extent=extent, aspect="auto", cmap=colours)
        figure.colorbar(image, ax=axis)
        axis.set(xlabel="t", ylabel="x", title=title)
    for share, colour in ((0.0, "tab:blue"), (0.25, "tab:orange"), (0.5, "tab:green"), (0.8, "tab:red")):
        row = round(share * (len(t) - 1))
        axes[1, 0].plot(x, np.abs(h[row]), color=colour, linewidth=3, alpha=0.35)
        axes[1, 0].plot(x, np.abs(found[row]), color=colour, linestyle="--", label=f"t = {t[row]:.2f}")
    axes[1, 0].set(xlabel="x", ylabel="|h|", title="Dashed: network; wide: reference")
    axes[1, 0].legend()
    steps, losses, errors, both = np.array(history).T
    axes[1, 1].semilogy(steps, errors, label="relative L2 error of |h|")
    axes[1, 1].semilogy(steps, both, label="relative L2 error of h")
    axes[1, 1].semilogy(steps, losses, label="loss", alpha=0.6)
    axes[1, 1].axhline(PAPER, color="grey", linestyle=":", label=f"error of |h| in the paper, {PAPER:g}")
    axes[1, 1].set(xlabel="steps", title="Training; later times are let in step by step")
    axes[1, 1].legend(loc="lower left", fontsize="small")
    figure.savefig(path, dpi=110)
    plt.close(figure)


# %%
if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a smaller network, up to t = 0.3")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--out", default="schroedinger.png", help="the picture, of the first seed")
    options = parser.parse_args()
    sizes = {"width": 12, "depth": 2, "count": 400, "steps": 40, "until": 0.3} if options.quick else {}
    print("seed   relative L2 error of |h|   of h       time / s")
    for seed in options.seeds:
        started = time.perf_counter()
        params, history = train(seed, **sizes, report=tqdm.write if options.quick else lambda line: None, progress=True)
        print(f"{seed:4d}   {history[-1][2]:24.2e}   {history[-1][3]:.2e}   {time.perf_counter() - started:8.0f}")
        if seed == options.seeds[0]:
            draw(params, history, options.out, sizes.get("until", np.pi / 2))
