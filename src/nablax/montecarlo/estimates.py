"""Expectations over samples, with the right derivatives of every order by the parameters of what is averaged and of the
density that it is averaged over.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array

from nablax._errors import BatchSizeError, OptionError, OutputTypeError
from nablax._options import checked_model
from nablax._types import Model, PyTree
from nablax.batching.chunks import map_samples
from nablax.montecarlo._blackjax import effective_sample_size, r_hat
from nablax.parameters.contract import squared


class Estimate(eqx.Module):
    """The estimate of an expectation; every field has the shape of one value of f.

    Attributes:
        mean: the estimate of E_p[f]. Its derivatives of any order by the parameters estimate those of E_p[f].
        variance: of f under p, E_p |f - mean|^2; differentiable like the mean.
        standard_error: of the mean, in the unit of f, with the autocorrelation of the chains. For complex f that of the
            distance in the complex plane, the root of the sum of both squares. A constant for differentiation, like
            the two below. NaN for less than 2 chains of less than 4 steps.
        effective_samples: how many independent samples of p would give this standard error; NaN for constant f.
        r_hat: rank-normalised split R-hat, near 1 where the chains agree, the larger one of real and imaginary part;
            NaN for fewer than 2 chains or 4 steps.
    """

    mean: Array
    variance: Array
    standard_error: Array
    effective_samples: Array
    r_hat: Array

    def __repr__(self) -> str:
        return eqx.tree_pformat(self, short_arrays=False)


def expectation(log_density: Model, f: Callable[..., Array]) -> Callable[..., Estimate]:
    """The mean of f over samples of a density p, differentiable any number of times by the parameters of both.

    With w_d = p(x_d) / stop_gradient(p(x_d)), the estimate is the ratio sum_d w_d f_d / sum_d w_d. The weights are all
    one, so this is the plain mean; but as functions of the parameters they carry the samples along to p at other
    parameters, exactly, normalisation included. Derivatives of every order follow: the first one is

        mean(df) + mean((f - mean(f)) d log p),

    the pathwise term and the score-function term with the mean as its baseline. p need not be normalised.

    Args:
        log_density: ``log_density(params, x, *rest)``, log p up to a constant, real, for **one** sample.
        f: ``f(params, X, *rest)``, for a **batch** X (D, ..), one value for each sample, (D,) or (D, ..), real or
            complex: `local_energy`, any transform of nablax, or ``jax.vmap(g, (None, 0))``.

    Returns:
        A function of ``(params, X, *rest, log_weights=None)``. X (chains, steps, ..) holds the samples as
        `sample` returns them, an array or a tree of arrays; independent samples are chains of one step. The samples
        are constants: no derivative goes through X. ``log_weights`` (chains, steps) is for samples of another density
        q, log p - log q up to a constant at the given parameters: importance sampling, or the weights of a quadrature
        rule. It returns an `Estimate`.

    Raises:
        nablax.NablaxError: see `nablax.errors`.

    Cost:
        One call of f for all samples, which bounds its memory by chunks if it is a transform, and one of log_density.

    References:
        Foerster et al. 2018, arXiv 1802.05098 (weights of value one that carry derivatives of every order);
        Vehtari et al. 2021, arXiv 1903.08008 (R-hat and effective sample size).

    Example:
        E (x - 1)^2 = s^2 + 1 for a normal density of width s, and its derivative by s is 2 s.

        >>> import jax, jax.numpy as jnp
        >>> from nablax import montecarlo
        >>> log_normal = lambda s, x: -0.5 * (x / s) ** 2 - jnp.log(s)
        >>> E = montecarlo.expectation(log_normal, lambda s, X: (X - 1) ** 2)
        >>> X = jax.random.normal(jax.random.key(0), (100_000, 1))
        >>> found = E(1.0, X)
        >>> bool(abs(found.mean - 2) < 3 * found.standard_error)
        True
        >>> bool(abs(jax.grad(lambda s: E(s, X).mean)(1.0) - 2) < 0.1)
        True
    """
    checked_model("expectation", log_density)
    checked_model("expectation", f)

    def estimate(params: PyTree, X: PyTree, *rest: PyTree, log_weights: Any = None) -> Estimate:
        chains, steps = _chains(X)
        samples = jax.tree.map(lambda leaf: jax.lax.stop_gradient(leaf.reshape(-1, *leaf.shape[2:])), X)
        values = _checked_values(f(params, samples, *rest), chains * steps)
        log_p = _log_densities(log_density, params, samples, rest)
        log_w = log_p - jax.lax.stop_gradient(log_p)
        if log_weights is not None:
            if jnp.shape(log_weights) != (chains, steps):
                raise OptionError(
                    f"log_weights has shape {jnp.shape(log_weights)}; give one for each sample, ({chains}, {steps})."
                )
            log_w = log_w + jnp.asarray(log_weights).reshape(-1)
        # shifted by a constant that cancels: the largest weight is one
        w = jnp.exp(log_w - jax.lax.stop_gradient(jnp.max(log_w)))
        return _estimate(values, w / jnp.sum(w), (chains, steps))

    return estimate


def _estimate(values: Array, w: Array, shape: tuple[int, int]) -> Estimate:
    """For values (D, ..) with weights (D,) of sum one."""
    mean = jnp.tensordot(w, values, 1)
    deviation = values - mean[None]
    variance = jnp.tensordot(w, squared(deviation), 1)
    # To first order the error of the ratio is the mean of these.
    influence = jax.lax.stop_gradient(w.size * w.reshape(-1, *[1] * mean.ndim) * deviation)
    parts = [influence.real, influence.imag] if jnp.iscomplexobj(influence) else [influence]
    series = jnp.stack([part.reshape(*shape, *mean.shape) for part in parts])
    error2 = sum(jax.vmap(_squared_error)(series))
    value_parts = [values.real, values.imag] if jnp.iscomplexobj(values) else [values]
    mixing = [r_hat(jax.lax.stop_gradient(part).reshape(*shape, *mean.shape)) for part in value_parts]
    effective = jax.lax.stop_gradient(variance) / jnp.where(error2 == 0, jnp.nan, error2)
    return Estimate(mean, variance, jnp.sqrt(error2), effective, jnp.stack(mixing).max(0))


def _squared_error(series: Array) -> Array:
    """The squared standard error of the mean of (chains, steps, ..)."""
    chains, steps = series.shape[:2]
    if steps < 4:
        # too short to see how fast they forget: the means of chains are independent in any case
        means = series.mean(1)
        return jnp.var(means, axis=0, ddof=1) / chains if chains > 1 else jnp.full(means.shape[1:], jnp.nan)
    variance, effective = jnp.var(series, axis=(0, 1), ddof=1), effective_sample_size(series)
    # a value that is constant over all samples has no error, and no effective sample size
    return jnp.where(variance > 0, variance / jnp.where(effective > 0, effective, 1), variance)


def _log_densities(log_density: Model, params: PyTree, samples: PyTree, rest: tuple[PyTree, ...]) -> Array:
    """The logarithm of p for all samples, (D,)."""
    leaves, treedef = jax.tree.flatten(samples)
    one = lambda leaves: log_density(params, jax.tree.unflatten(treedef, leaves), *rest)
    log_p = map_samples(one, leaves, None)
    if getattr(log_p, "shape", None) != (len(leaves[0]),) or not jnp.issubdtype(log_p.dtype, jnp.floating):
        given = jax.tree.map(lambda leaf: f"{leaf.dtype}{leaf.shape[1:]}", log_p)
        raise OutputTypeError(
            f"log_density returns {given} for one sample; it must be one real number, for example 2 * log_psi.real."
        )
    return log_p


def _chains(X: PyTree) -> tuple[int, int]:
    """(chains, steps) of the samples."""
    shapes = [jnp.shape(leaf) for leaf in jax.tree.leaves(X)]
    leading = {shape[:2] for shape in shapes}
    if not shapes or min(map(len, shapes)) < 2 or len(leading) != 1 or 0 in shapes[0][:2]:
        raise BatchSizeError(
            f"the samples have the shape(s) {', '.join(map(str, shapes)) or 'of nothing'}; give (chains, steps, ..) "
            "with at least one of each, the same for all leaves. Independent samples (D, ..) are chains of one step: "
            "X[:, None]."
        )
    return shapes[0][0], shapes[0][1]


def _checked_values(values: Any, samples: int) -> Array:
    """What f returns for all samples."""
    if not isinstance(values, jax.Array) or values.shape[:1] != (samples,) or values.dtype.kind not in "fcV":
        given = f"an array {values.dtype}{values.shape}" if isinstance(values, jax.Array) else type(values).__name__
        raise OutputTypeError(
            f"f returns {given} for a batch of {samples} samples; it must be an array of floating-point numbers, one "
            f"entry of axis 0 for each: ({samples}, ..). f is given all samples at once; a function g of one sample is "
            "jax.vmap(g, (None, 0))."
        )
    return values
