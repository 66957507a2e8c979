"""The diagnostics and kernels of blackjax, and a clear error where it is missing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

try:
    import blackjax
    from blackjax.adaptation.step_size import dual_averaging_adaptation as dual_averaging
    from blackjax.mcmc import mala as _mala
    from blackjax.mcmc import random_walk as _random_walk
except ImportError as error:
    raise ImportError('nablax.montecarlo needs the extra "montecarlo": pip install "nablax[montecarlo]"') from error

__all__ = ["Kernel", "dual_averaging", "effective_sample_size", "mala", "r_hat", "random_walk"]

Kernel = Callable[[Callable[[Any], Array]], tuple[Callable[..., Any], Callable[..., tuple[Any, Any]]]]
"""log p -> (init, move): init(x) is the state of a chain, move(key, state, step size) its next one and the acceptance
rate."""


def random_walk(log_p: Callable[[Any], Array]) -> tuple[Callable[..., Any], Callable[..., tuple[Any, Any]]]:
    """Metropolis with normal steps of the width `step`."""
    kernel = _random_walk.build_additive_step()

    def move(key: Array, state: Any, step: Any) -> tuple[Any, Any]:
        state, info = kernel(key, state, log_p, _random_walk.normal(step))
        return state, info.acceptance_rate

    return lambda x: _random_walk.init(x, log_p), move


def mala(log_p: Callable[[Any], Array]) -> tuple[Callable[..., Any], Callable[..., tuple[Any, Any]]]:
    """The Metropolis-adjusted Langevin algorithm; its noise has the width (2 step)^(1/2)."""
    kernel = _mala.build_kernel()

    def move(key: Array, state: Any, step: Any) -> tuple[Any, Any]:
        state, info = kernel(key, state, log_p, step)
        return state, info.acceptance_rate

    return lambda x: _mala.init(x, log_p), move


def effective_sample_size(series: Array) -> Array:
    """Of (chains, steps, ..), at least 4 steps: the number of independent draws with the same variance of the mean."""
    return _for_each_value(blackjax.ess, series)


def r_hat(series: Array) -> Array:
    """Rank-normalised split R-hat of (chains, steps, ..)."""
    chains, steps = series.shape[:2]
    if chains < 2 or steps < 4:
        return jnp.full(series.shape[2:], jnp.nan, series.dtype)
    return _for_each_value(blackjax.rhat, series)


def _for_each_value(diagnostic, series: Array) -> Array:
    """One diagnostic of (chains, steps) for every entry of the further axes."""
    chains, steps, *shape = series.shape
    with jax.numpy_rank_promotion("allow"):  # blackjax broadcasts between ranks
        found = jax.lax.map(diagnostic, series.reshape(chains, steps, int(np.prod(shape))).transpose(2, 0, 1))
    return found.reshape(shape).astype(series.dtype)
