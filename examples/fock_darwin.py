"""A charged particle in the plane, in a harmonic trap and a magnetic field: a wavefunction that has to be complex.

    H = (p - q A)^2 / (2 m) + m omega^2 |x|^2 / 2,    B = curl A,    hbar = 1.

Its levels are exact (Fock 1928, Darwin 1931): with W^2 = omega^2 + w^2, w = q B / (2 m),

    E = W (2 n + |l| + 1) - w l.

Two states are found by variational Monte Carlo with stochastic reconfiguration:

- the ground state in the Landau gauge A = (-B y, 0), where psi has the phase exp(-i q B x y / 2). A network of x and y
  with two outputs, log |psi| and the phase, has to find it;
- the lowest state of angular momentum l in the symmetric gauge, psi = (x + i y)^l exp(f(|x|^2)) with a complex network
  f, which keeps the angular momentum exactly and has to find the rest.

Found 1.249999 and 2.249998 where 1.25 and 2.25 are exact, in 78 and 22 s.

    python examples/fock_darwin.py            # writes fock_darwin.png
    python examples/fock_darwin.py --quick    # fewer steps and samples
"""

# %%
import argparse
import time

import jax
import jax.numpy as jnp
import numpy as np
import vmc

from nablax import montecarlo

jax.config.update("jax_enable_x64", True)

OMEGA, FIELD, MASS, CHARGE = 1.0, 1.5, 1.0, -1.0  # an electron
LARMOR = CHARGE * FIELD / (2 * MASS)
WIDE = np.sqrt(OMEGA**2 + LARMOR**2)


def level(l):
    """The lowest energy of angular momentum l."""
    return WIDE * (abs(l) + 1) - LARMOR * l


# %% Two states: the gauge, and log psi of one position x (2,)
def network(params, inputs):
    """A complex number."""
    (W, b), (V, c), w = params["first"], params["second"], params["last"]
    hidden = jnp.tanh(jnp.tanh(inputs @ W + b) @ V + c)
    return (hidden @ w)[0] + 1j * (hidden @ w)[1]


def landau_gauge(x):
    return jnp.array([-FIELD * x[1], 0.0])


def symmetric_gauge(x):
    return FIELD / 2 * jnp.array([-x[1], x[0]])


def ground_state(params, x):
    """No symmetry is put in; the quadratic form keeps psi normalisable and is trained too."""
    L = params["form"]
    confined = -0.5 * jnp.sum((jnp.tril(L) @ x) ** 2) + 1j * (params["phase"] @ jnp.outer(x, x).ravel())
    return confined + network(params, x)


def rotating_state(l, params, x):
    """(x + i y)^l, or its conjugate for negative l, times a function of the distance."""
    z = x[0] + 1j * np.sign(l) * x[1]
    square = jnp.sum(x**2)
    return abs(l) * jnp.log(z) - 0.5 * params["form"][0, 0] ** 2 * square + network(params, square[None])


def initial(key, inputs, width=12):
    keys = jax.random.split(key, 3)
    normal = lambda key, *shape: jax.random.normal(key, shape) / np.sqrt(shape[0])
    return {
        "first": (normal(keys[0], inputs, width), jnp.zeros(width)),
        "second": (normal(keys[1], width, width), jnp.zeros(width)),
        "last": 0.3 * normal(keys[2], width, 2),
        "form": 0.8 * jnp.eye(2),
        "phase": jnp.zeros(4),
    }


def states(l=-2):
    """Name -> (log psi, vector potential, exact energy, inputs of the network)."""
    return {
        "ground state, Landau gauge": (ground_state, landau_gauge, level(0), 2),
        f"angular momentum {l}": (lambda params, x: rotating_state(l, params, x), symmetric_gauge, level(l), 1),
    }


def potential(x):
    return 0.5 * MASS * OMEGA**2 * jnp.sum(x**2)


# %% Train, and measure with the parameters fixed
def train(state, seed=0, iterations=200, chains=500, steps=200, damping=(1e-3, 1e-5), quiet=False):
    """Returns the parameters, the mean energies while training, the final estimate and its configurations."""
    log_psi, field, _, inputs = states()[state]
    begin, start, training, measuring = jax.random.split(jax.random.key(seed), 4)
    energy = montecarlo.local_energy(log_psi, potential, mass=MASS, charge=CHARGE, vector_potential=field)
    X = jax.random.normal(start, (chains, 2))
    params, X, width, means = vmc.minimise(
        log_psi, energy, initial(begin, inputs), X, training, iterations=iterations, damping=damping, quiet=quiet
    )
    found, positions = vmc.measure(log_psi, energy, params, X, measuring, steps=steps, width=width)
    return params, means, found, positions


def draw(results, path):
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(len(results), 3, figsize=(13, 4 * len(results)), layout="constrained", squeeze=False)
    line = np.linspace(-3, 3, 121)
    points = jnp.asarray(np.stack(np.meshgrid(line, line), -1).reshape(-1, 2))
    for row, (state, (params, means, found, _)) in zip(axes, results.items(), strict=True):
        log_psi, _, exact, _ = states()[state]
        row[0].plot(np.arange(1, len(means) + 1), np.asarray(means) - exact, linewidth=0.8)
        row[0].axhline(0, color="black", linestyle="--", label=f"exact, {exact:.4f}")
        row[0].set(xlabel="iteration", ylabel="energy above the exact level / (hbar omega)", title=state)
        row[0].set_yscale("symlog", linthresh=1e-3)
        row[0].legend(title=f"found {found.mean.real:.5f} ± {found.standard_error:.0e}")
        values = np.asarray(jax.vmap(log_psi, (None, 0))(params, points)).reshape(121, 121)
        density = np.exp(2 * (values.real - values.real.max()))
        phase = np.angle(np.exp(1j * (values.imag - values[60, 75].imag)))
        panels = [
            (density, "viridis", (0, 1), "|psi|$^2$ / its maximum"),
            (phase, "twilight", (-np.pi, np.pi), "phase of psi"),
        ]
        for axis, (field, colours, (low, high), title) in zip(row[1:], panels, strict=True):
            faint = np.clip(density / 1e-3, 0, 1) if colours == "twilight" else None
            image = axis.imshow(
                field, origin="lower", extent=(-3, 3, -3, 3), cmap=colours, vmin=low, vmax=high, alpha=faint
            )
            figure.colorbar(image, ax=axis, label="radian" if colours == "twilight" else None)
            axis.set(xlabel="x", ylabel="y", title=title)
    figure.savefig(path, dpi=120)
    plt.close(figure)


# %%
if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer iterations, chains and samples")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--out", default="fock_darwin.png", help="the picture, of the first seed")
    options = parser.parse_args()
    sizes = {"iterations": 50, "chains": 200, "steps": 40, "damping": (1e-3, 5e-4)} if options.quick else {}
    print("state                       seed  exact     energy                 relative error  R-hat  time / s")
    for seed in options.seeds:
        results = {}
        for state, (_, _, exact, _) in states().items():
            started = time.perf_counter()
            results[state] = train(state, seed, **sizes)
            found = results[state][2]
            energy, spread = float(found.mean.real), float(found.standard_error)
            print(
                f"{state:26}  {seed:4d}  {exact:.5f}  {energy:.6f} ± {spread:.6f}  {energy / exact - 1:+14.1e}  "
                f"{found.r_hat:.3f}  {time.perf_counter() - started:8.0f}"
            )
        if seed == options.seeds[0]:
            draw(results, options.out)
