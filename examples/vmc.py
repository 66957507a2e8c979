"""Variational Monte Carlo in thirty lines: sample |psi|^2, take the local energies, step by stochastic reconfiguration.

Shared by atoms.py and fock_darwin.py.
"""

# %%
import jax
import jax.numpy as jnp
from tqdm import trange

from nablax import montecarlo


def log_density(log_psi):
    """The logarithm of |psi|^2, what is sampled."""
    return lambda params, x: 2 * log_psi(params, x).real


def minimise(log_psi, energy, params, X, key, *, iterations, damping, moves=10, rate=0.2, clip=5.0, quiet=False):
    """Lower the energy of psi; X (chains, ..) are the first configurations.

    The damping falls from the first number to the second; fewer chains than parameters need a large one. Local
    energies far from the median are cut back in the steps, never in the energies that are reported. Returns the
    parameters, the configurations, the step size of the walk and the mean energy of every iteration.
    """
    warm_up = montecarlo.sample(log_density(log_psi), steps=1, burn_in=300)
    walk = montecarlo.sample(log_density(log_psi), steps=1, burn_in=moves)

    @jax.jit
    def iterate(params, X, key, width, damping):
        drawn = walk(params, key, X, step_size=width)
        energies = energy(params, drawn.last)
        centre = jnp.median(energies.real)
        spread = clip * jnp.mean(jnp.abs(energies.real - centre))
        cut = jnp.clip(energies.real, centre - spread, centre + spread) - energies.real
        step = montecarlo.stochastic_reconfiguration(log_psi, damping=damping)(params, drawn.last, energies + cut).step
        params = jax.tree.map(lambda p, d: p - rate * d, params, step)
        return params, drawn.last, drawn.step_size, energies.real.mean()

    first, *keys = jax.random.split(key, iterations + 1)
    drawn = jax.jit(warm_up)(params, first, X)
    X, width, means = drawn.last, drawn.step_size, []
    dampings = jnp.geomspace(*damping, iterations)
    for number in trange(iterations, disable=quiet, desc="energy"):
        params, X, width, mean = iterate(params, X, keys[number], width, dampings[number])
        means.append(float(mean))
    return params, X, float(width), means


def measure(log_psi, energy, params, X, key, *, steps, thin=20, width=0.5):
    """The energy of psi as an `Estimate`, and the configurations (chains, steps, ..)."""
    draw = montecarlo.sample(log_density(log_psi), steps=steps, burn_in=200, thin=thin)
    positions = jax.jit(draw)(params, key, X, step_size=width).positions
    estimate = montecarlo.expectation(log_density(log_psi), energy)
    return jax.jit(estimate)(params, positions), positions
