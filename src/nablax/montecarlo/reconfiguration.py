"""Stochastic reconfiguration: natural gradient of the energy of a wavefunction."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from nablax._errors import OptionError
from nablax._natural_gradient import NaturalGradient, natural_gradient
from nablax._parameters import parameter_jacobian
from nablax._types import Model, PyTree
from nablax.graph.classify import Table


def stochastic_reconfiguration(
    log_psi: Model,
    *,
    damping: Any,
    method: str = "auto",
    mode: str = "auto",
    chunk_size: int | str | None = "auto",
    memory_budget: int | str | None = None,
    table: Table | None = None,
) -> Callable[..., NaturalGradient]:
    """The step of imaginary time in the space of the parameters: (S + damping) step = F with

        S = < O* O > - < O* > < O >,    F = < O* (E - <E>) >,    O = d log psi / d params,

    means over samples of |psi|^2. For real parameters both are real parts, F is half the gradient of the energy, and
    complex parameters count by real and imaginary part, unless `mode` is "holomorphic". Subtract the step, times a
    small imaginary time, from the parameters.

    Args:
        log_psi: ``log_psi(params, x, *rest)`` of **one** configuration, a real or complex number.
        damping: a positive number that is added to the diagonal of S; it may be traced.
        method: "auto", "kernel" (minSR), "fisher" or "cg", see `nablax.natural_gradient`.
        mode: see `nablax.parameter_jacobian`.
        chunk_size: see `nablax.jacobian`.
        memory_budget: see `nablax.parameter_jacobian`.
        table: see `nablax.jacobian`.

    Returns:
        A function of ``(params, X, energies, *rest)``, X (D, ..) samples of |psi|^2 and energies (D,) the local ones,
        that returns a `NaturalGradient`: its step is a tree like the parameters.

    Raises:
        nablax.NablaxError: see `nablax.errors`.

    Cost:
        That of `nablax.natural_gradient`.

    References:
        Sorella 1998, Phys. Rev. Lett. 80, 4558; Chen and Heyl 2024, arXiv 2302.01941 (minSR).

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from nablax import montecarlo
        >>> log_psi = lambda a, x: -0.5 * a * jnp.sum(x**2)
        >>> a, X = 1.5, jax.random.normal(jax.random.key(0), (1000, 1)) / jnp.sqrt(2 * 1.5)
        >>> energies = montecarlo.local_energy(log_psi, lambda x: 0.5 * jnp.sum(x**2))(a, X)
        >>> found = montecarlo.stochastic_reconfiguration(log_psi, damping=1e-6)(a, X, energies)
        >>> round(float(a - found.step), 2)  # imaginary time 1 of da/dt = 1 - a^2
        0.25
    """
    jacobian = parameter_jacobian(log_psi, mode=mode, chunk_size=chunk_size, memory_budget=memory_budget, table=table)

    def step(params: PyTree, X: PyTree, energies: Array, *rest: PyTree) -> NaturalGradient:
        O = jacobian(params, X, *rest)
        if jnp.shape(energies) != O.shape[:-1]:
            raise OptionError(
                f"energies has shape {jnp.shape(energies)} and log psi {O.shape[:-1]} for all samples; give one local "
                "energy for each."
            )
        energies = jax.lax.stop_gradient(jnp.asarray(energies))
        if not jnp.issubdtype(O.dtype, jnp.complexfloating):
            energies = energies.real  # O is real, and F a real part
        share = 1 / jnp.sqrt(O.shape[0])
        return natural_gradient(
            O.centred().weighted(jnp.full(O.shape[0], share)),
            share * (energies - energies.mean()),
            damping=damping,
            method=method,
        )

    return step
