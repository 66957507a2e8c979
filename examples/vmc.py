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


def minimise(log_psi, energy, params, X, key, *, iterations, moves=10, rate=0.2, damping=1e-3, clip=5.0, quiet=False):
    """Lower the energy of psi; X (chains, ..) are the first configurations.

    Rate and damping fall like 1 / iteration in the second half. Local energies far from the median are cut back in the
    steps, never in the energies that are reported. Returns the parameters, the configurations, the step size of the
    walk and the mean energy of every iteration.
    """
    warm_up = montecarlo.sample(log_density(log_psi), steps=1, burn_in=300)
    walk = montecarlo.sample(log_density(log_psi), steps=1, burn_in=moves)
    reconfigure = montecarlo.stochastic_reconfiguration

    @jax.jit
    def iterate(params, X, key, width, decay):
        drawn = walk(params, key, X, step_size=width)
        energies = energy(params, drawn.last)
        centre = jnp.median(energies.real)
        spread = clip * jnp.mean(jnp.abs(energies.real - centre))
        kept = jnp.clip(energies.real, centre - spread, centre + spread) + 1j * energies.imag
        kept = kept if jnp.iscomplexobj(energies) else kept.real
        step = reconfigure(log_psi, damping=damping * decay)(params, drawn.last, kept).step
        params = jax.tree.map(lambda p, d: p - rate * decay * d, params, step)
        return params, drawn.last, drawn.step_size, energies.real.mean()

    first, *keys = jax.random.split(key, iterations + 1)
    drawn = jax.jit(warm_up)(params, first, X)
    X, width, means = drawn.last, drawn.step_size, []
    for number in trange(iterations, disable=quiet, desc="energy"):
        decay = min(1.0, iterations / 2 / (number + 1))
        params, X, width, mean = iterate(params, X, keys[number], width, decay)
        means.append(float(mean))
    return params, X, float(width), means


def measure(log_psi, energy, params, X, key, *, steps, thin=20, width=0.5):
    """The energy of psi as an `Estimate`, and the configurations (chains, steps, ..)."""
    draw = montecarlo.sample(log_density(log_psi), steps=steps, burn_in=200, thin=thin)
    positions = jax.jit(draw)(params, key, X, step_size=width).positions
    estimate = montecarlo.expectation(log_density(log_psi), energy)
    return jax.jit(estimate)(params, positions), positions
