"""The local energy of a wavefunction."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from nablax._errors import InputTypeError, OptionError, OutputTypeError
from nablax._options import checked_model
from nablax._transforms import derivatives, divergence
from nablax._types import Model, PyTree, kind_of
from nablax.graph.classify import Table


def local_energy(
    log_psi: Model,
    potential: Callable[[Array], Any],
    *,
    mass: Any = 1.0,
    charge: Any = 1.0,
    vector_potential: Callable[[Array], Array] | None = None,
    strategy: str = "auto",
    chunk_size: int | str | None = "auto",
    memory_budget: int | str | None = None,
    table: Table | None = None,
) -> Callable[..., Array]:
    """H psi / psi for the Hamiltonian H = sum_c (p_c - q A_c(x))^2 / (2 m_c) + V(x), with p = -i d/dx and hbar = 1.

    For psi = exp(L), with g = dL/dx:

        H psi / psi = -1/2 sum_c (d2L/dx_c^2 + g_c^2) / m_c  +  V
                      + sum_c (i q A_c g_c + i q (dA_c/dx_c) / 2 + q^2 A_c^2 / 2) / m_c.

    The gradient and the weighted Laplacian of L come from one pass.

    Args:
        log_psi: ``log_psi(params, x, *rest)``, the logarithm of the wavefunction of **one** configuration x, an array
            of any shape, C numbers in all; a real or complex number. Where psi changes its sign, log |psi| will do.
        potential: V(x) of one configuration, a number. It may close over traced values.
        mass: m, a number or an array that can be broadcast to the shape of x.
        charge: q, like the mass; only with a vector potential.
        vector_potential: A(x) of one configuration, with the shape of x. None: no magnetic field.
        strategy: see `nablax.jacobian`.
        chunk_size: see `nablax.jacobian`.
        memory_budget: see `nablax.jacobian`.
        table: see `nablax.jacobian`.

    Returns:
        A function of ``(params, X, *rest)``, X (D, *x.shape), that returns the energies (D,) in the unit of the
        potential: real if log_psi and all potentials are real, else complex.

    Raises:
        nablax.NablaxError: see `nablax.errors`.

    Cost:
        A Laplacian: of the order of C passes through log_psi.

    Example:
        The ground state of the harmonic oscillator: every local energy is 1/2.

        >>> import jax.numpy as jnp
        >>> from nablax import montecarlo
        >>> energy = montecarlo.local_energy(lambda a, x: -0.5 * a * jnp.sum(x**2), lambda x: 0.5 * jnp.sum(x**2))
        >>> energy(1.0, jnp.array([[0.1], [2.0], [-3.0]]))
        Array([0.5, 0.5, 0.5], dtype=float32)
    """
    checked_model("local_energy", log_psi)
    checked_model("local_energy", potential)
    options: dict[str, Any] = {"strategy": strategy, "chunk_size": chunk_size, "memory_budget": memory_budget}
    options["table"] = table

    def energies(params: PyTree, X: Array, *rest: PyTree) -> Array:
        if not isinstance(X, jax.Array) and not hasattr(X, "__array__"):
            raise InputTypeError(
                f"the configurations are {kind_of(X)}; give one array (D, ..), for several particles (D, N, 3)."
            )
        X = jnp.asarray(X)
        shape = X.shape[1:]
        inverse = 1 / _for_each_coordinate("mass", mass, shape)
        wants = derivatives(log_psi, "jacobian", "laplacian", weights=inverse.ravel(), wrt=1, **options)
        found = wants(params, X, *rest)
        g, laplacian = found["jacobian"], found["laplacian"]
        if not isinstance(g, jax.Array) or g.shape != X.shape:
            raise OutputTypeError("log_psi must return one number for one configuration, log psi.")
        coordinates = tuple(range(1, X.ndim))
        over_mass = lambda terms: jnp.sum(terms * inverse[None], axis=coordinates)
        energy = -0.5 * (laplacian + over_mass(g**2)) + _potentials(potential, X)
        if vector_potential is None:
            return energy
        field = _checked_field(vector_potential)
        q = _for_each_coordinate("charge", charge, shape)
        A = q[None] * jax.vmap(field)(X)
        diverging = divergence(lambda x: q * inverse * field(x))(X)
        return energy + 1j * (over_mass(A * g) + 0.5 * diverging) + 0.5 * over_mass(A**2)

    return energies


def _for_each_coordinate(name: str, value: Any, shape: tuple[int, ...]) -> Array:
    """A number for each entry of one configuration."""
    value = jnp.asarray(value)
    # an array of fewer axes belongs to the last ones, (N, 1) or (3,)
    if value.ndim > len(shape) or any(n not in (1, m) for n, m in zip(value.shape[::-1], shape[::-1], strict=False)):
        raise OptionError(
            f"{name} has shape {value.shape}, and a configuration {shape}; give a number, or an array that can be "
            "broadcast to that shape, for example (N, 1) for N particles."
        )
    return jnp.broadcast_to(value.reshape((1,) * (len(shape) - value.ndim) + value.shape), shape)


def _potentials(potential: Callable[[Array], Any], X: Array) -> Array:
    """V of every configuration."""
    found = jax.vmap(potential)(X)
    if getattr(found, "shape", None) != X.shape[:1]:
        given = [jnp.shape(leaf)[1:] for leaf in jax.tree.leaves(found)]
        raise OutputTypeError(f"potential returns the shape(s) {given} for one configuration; it must be one number.")
    return found


def _checked_field(vector_potential: Callable[[Array], Array]) -> Callable[[Array], Array]:
    def field(x: Array) -> Array:
        A = vector_potential(x)
        if jnp.shape(A) != x.shape or jnp.iscomplexobj(A):
            raise OutputTypeError(
                f"vector_potential returns {jnp.result_type(A)}{jnp.shape(A)} for a configuration of shape {x.shape}; "
                "it must be real and of the same shape: one component for each coordinate."
            )
        return A

    return field
