"""Samples of a density by many Markov chains."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array

from nablax._errors import BatchSizeError, OptionError, OutputTypeError
from nablax._options import checked_model
from nablax._types import Model, PyTree
from nablax.montecarlo._blackjax import Kernel, dual_averaging, mala, random_walk


class Method(NamedTuple):
    """A kernel, and the acceptance rate at which it moves fastest through many dimensions (a little more for the
    random walk, whose best rate is 0.44 in one dimension and falls to 0.23).
    """

    kernel: Kernel
    target: float


METHODS = {"metropolis": Method(random_walk, 0.35), "mala": Method(mala, 0.574)}


class Samples(eqx.Module):
    """What `sample` returns.

    Attributes:
        positions: the samples, (chains, steps, *x.shape) or a tree of such arrays.
        last: where the chains are, (chains, *x.shape): start the next run here.
        acceptance: mean acceptance rate after the burn-in.
        step_size: the step size of all steps after the burn-in.
    """

    positions: PyTree
    last: PyTree
    acceptance: Array
    step_size: Array


def sample(
    log_density: Model,
    *,
    steps: int,
    burn_in: int,
    thin: int = 1,
    method: str = "metropolis",
    target_acceptance: float | None = None,
) -> Callable[..., Samples]:
    """Draw from a density with many Markov chains at once, by the kernels of blackjax.

    Args:
        log_density: ``log_density(params, x, *rest)``, log p up to a constant, real, for **one** x: an array of any
            shape or a tree of arrays.
        steps: how many samples to keep of each chain.
        burn_in: how many moves to make before; the step size is adapted in them, by dual averaging to the target
            acceptance rate, and then stays. 0: the step size that is given.
        thin: how many moves to make for each sample that is kept.
        method: "metropolis", a random walk with normal steps; or "mala", steps along the gradient of log p too.
        target_acceptance: None: 0.35 for "metropolis", 0.574 for "mala".

    Returns:
        A function of ``(params, key, X0, *rest, step_size=0.1)``: X0 (chains, *x.shape) are the starting points, `key`
        a key of `jax.random` that is to be used nowhere else. The step size is the width of the normal steps, in the
        unit of x; for "mala" the square of it, halved. It returns `Samples`, a pytree; compile it with `jax.jit`.

    Raises:
        nablax.NablaxError: see `nablax.errors`; where log p of a starting point is not finite, `equinox.error_if`.

    Cost:
        burn_in + steps * thin evaluations of log_density for each chain ("mala": and of its gradient).

    References:
        Roberts and Rosenthal 2001, Stat. Sci. 16, 351 (target rates); Nesterov 2009 and Hoffman and Gelman 2014,
        arXiv 1111.4246 (dual averaging).

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from nablax import montecarlo
        >>> draw = montecarlo.sample(lambda s, x: -0.5 * jnp.sum(x**2) / s**2, steps=50, burn_in=200)
        >>> found = draw(2.0, jax.random.key(0), jnp.zeros((400, 1)))
        >>> found.positions.shape, bool(abs(found.positions.std() - 2) < 0.1), bool(0.25 < found.acceptance < 0.45)
        ((400, 50, 1), True, True)
    """
    checked_model("sample", log_density)
    target = _checked_target(steps, burn_in, thin, method, target_acceptance)
    kernel = METHODS[method].kernel

    def draw(params: PyTree, key: Array, X0: PyTree, *rest: PyTree, step_size: Any = 0.1) -> Samples:
        chains = _chain_count(X0)
        log_p = lambda x: _checked_density(log_density(params, x, *rest))
        start = jax.vmap(log_p)(X0)
        X0 = eqx.error_if(
            X0,
            ~jnp.isfinite(start).all(),
            "sample: log_density is not finite at a starting point; such a chain might never move, or from anywhere. "
            "Start where the density is positive.",
        )
        init, move = kernel(log_p)
        states = jax.vmap(init)(X0)

        def moved(states: Any, key: Array, step: Array) -> tuple[Any, Array]:
            states, acceptance = jax.vmap(move, (0, 0, None))(jax.random.split(key, chains), states, step)
            return states, acceptance.mean()

        begin, adapt, adapted = dual_averaging(target)
        burning, running = jax.random.split(key)

        def burn(carry: Any, key: Array) -> tuple[Any, None]:
            states, step = carry
            states, acceptance = moved(states, key, jnp.exp(step.log_step_size))
            return (states, adapt(step, acceptance)), None

        step = jnp.asarray(step_size, start.dtype)
        if burn_in:
            (states, tuned), _ = jax.lax.scan(burn, (states, begin(step)), jax.random.split(burning, burn_in))
            step = jnp.asarray(adapted(tuned), start.dtype)

        def keep(states: Any, key: Array) -> tuple[Any, Any]:
            states, acceptance = jax.lax.scan(
                lambda states, key: moved(states, key, step), states, jax.random.split(key, thin)
            )
            return states, (states.position, acceptance.mean())

        states, (positions, acceptance) = jax.lax.scan(keep, states, jax.random.split(running, steps))
        positions = jax.tree.map(lambda leaf: jnp.moveaxis(leaf, 0, 1), positions)
        return Samples(positions, states.position, acceptance.mean(), step)

    return draw


def _checked_target(steps: int, burn_in: int, thin: int, method: str, target_acceptance: float | None) -> float:
    """The acceptance rate to aim at, all options being in order."""
    if method not in METHODS:
        raise OptionError(f"method={method!r} is unknown; use one of {', '.join(METHODS)}.")
    for name, value, least in (("steps", steps, 1), ("burn_in", burn_in, 0), ("thin", thin, 1)):
        if not isinstance(value, int) or value < least:
            raise OptionError(f"{name}={value!r} must be an int of at least {least}.")
    target = METHODS[method].target if target_acceptance is None else target_acceptance
    if not 0 < target < 1:
        raise OptionError(f"target_acceptance={target_acceptance} must be between 0 and 1.")
    return target


def _chain_count(X0: PyTree) -> int:
    shapes = [jnp.shape(leaf) for leaf in jax.tree.leaves(X0)]
    leading = {shape[:1] for shape in shapes}
    if len(leading) != 1 or leading & {(), (0,)}:
        raise BatchSizeError(
            f"the starting points have the shape(s) {', '.join(map(str, shapes)) or 'of nothing'}; give (chains, ..) "
            "with at least one chain, the same number for all leaves."
        )
    return leading.pop()[0]


def _checked_density(log_p: Any) -> Array:
    if jnp.shape(log_p) != () or not jnp.issubdtype(jnp.result_type(log_p), jnp.floating):
        raise OutputTypeError(
            f"log_density returns {jnp.result_type(log_p)}{jnp.shape(log_p)} for one sample; it must be one real "
            "number, for example 2 * log_psi.real."
        )
    return log_p
