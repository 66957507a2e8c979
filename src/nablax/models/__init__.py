"""Models of other libraries, as functions of one sample: `from_model`.

One file for each library; a file is imported when a model of its library is given.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import jax

from nablax._errors import OptionError
from nablax._per_sample import per_sample
from nablax._types import PyTree, kind_of
from nablax.models._precision import refuse_rounding

# Where the classes of a library live -> the file that knows them, and what the library is called.
_LIBRARIES = {
    "flax.nnx": ("flax_nnx", "Flax NNX"),
    "flax.linen": ("flax_linen", "Flax Linen"),
    "equinox": ("equinox", "Equinox"),
    "haiku": ("haiku", "Haiku"),
    "keras": ("keras", "Keras"),
    "torch.nn": ("torch", "PyTorch"),
}


class Apply(Protocol):
    """Calls a model with given parameters; `keys` are random keys by the name of their stream."""

    def __call__(self, params: PyTree, keys: dict[str, Any], *args: Any) -> PyTree: ...


def library_of(model: Any) -> str | None:
    """The library whose model this is, as it is called, or None."""
    place = _place_of(model)
    return None if place is None else _LIBRARIES[place][1]


def _place_of(model: Any) -> str | None:
    homes = [f"{cls.__module__}." for cls in type(model).__mro__]
    return next((place for place in _LIBRARIES if any(home.startswith(f"{place}.") for home in homes)), None)


def from_model(
    model: Any,
    variables: PyTree = None,
    *,
    batched: bool | None = None,
    out_axes: Any = 0,
    rngs: Sequence[str] = (),
    **options: Any,
) -> tuple[PyTree, Callable[..., PyTree]]:
    """(params, f) of a model of Flax (NNX, Linen), Equinox, Haiku, Keras 3 or PyTorch.

    ``f(params, x)`` is the model of one sample, which every transform takes. `params` are the trainable parameters
    alone: running means, buffers and whatever else the model holds are constants of f, as they were when `from_model`
    was called. A model is used as it was set up: for evaluation, or for training.

    Args:
        model: a Flax NNX module; a Flax Linen module or a transformed function of Haiku; an Equinox module; a Keras
            model that is built, under the JAX backend; a PyTorch module, which needs torch and torchax.
        variables: what ``model.init`` returned: the dict of variables (Linen), params or (params, state) (Haiku).
            None for the others, which hold their parameters themselves.
        batched: whether the model is called with a batch, samples on axis 0. f is then `nablax.per_sample` of it: that
            samples are independent is proved, so that batch normalisation in training mode is an error. By default so
            for all libraries but Equinox, whose models are written for one sample.
        out_axes: which axis of each output of a batch holds the samples, as in `nablax.per_sample`: ``(0, None)`` for a
            model that returns a state that all samples share besides y.
        rngs: streams of random numbers, such as ``("dropout",)``, to be seeded for every sample by itself:
            ``f(params, x, key)``. Only with ``batched=False``, as a whole batch is drawn from one key otherwise. Linen
            and NNX name streams, Equinox a keyword of the call; Haiku has one stream, whatever it is called.
        options: keywords for every call of the model, such as ``train=False`` (Linen) or ``training=False`` (Keras).

    Returns:
        The parameters as a pytree of JAX arrays, and the function. Further arguments of f are further arguments of the
        model, one sample of them. What the model returns besides y is returned too: ``has_aux=True`` takes it.

    Raises:
        nablax.OptionError: not a model of a known library, or an option that it cannot have.
        ImportError: a PyTorch model without torchax.

    Cost:
        That of the model; the proof traces it a few times more (`nablax.per_sample`).

    Example:
        >>> import equinox, jax, jax.numpy as jnp, nablax
        >>> net = equinox.nn.MLP(3, 2, 8, 1, jnp.tanh, key=jax.random.key(0))
        >>> params, f = nablax.from_model(net)
        >>> nablax.hessian(f)(params, jnp.zeros((5, 3))).shape
        (5, 2, 3, 3)
    """
    place = _place_of(model)
    if place is None:
        known = ", ".join(name for _, name in _LIBRARIES.values())
        raise OptionError(
            f"from_model was given {kind_of(model)}; it knows models of {known}. A function model(params, x) of one "
            "sample goes to the transforms as it is, one of a batch through nablax.per_sample."
        )
    file, library = _LIBRARIES[place]
    adapter = importlib.import_module(f"nablax.models.{file}")
    if isinstance(rngs, str):
        rngs = (rngs,)
    batched = adapter.BATCHED and not rngs if batched is None else batched
    if rngs and not adapter.TAKES_KEYS:
        raise OptionError(
            f"rngs={tuple(rngs)!r} was given for a model of {library}, which draws from a generator of its own. Leave "
            "it out, and set the model up for evaluation."
        )
    if rngs and batched:
        raise OptionError(
            f"rngs={tuple(rngs)!r} was given with batched=True: the model would draw for a whole batch from one key. "
            "With batched=False it is called for one sample, without a sample axis, with a key of its own."
        )
    if adapter.HOLDS_PARAMETERS and variables is not None:
        raise OptionError(f"variables were given for a model of {library}, which holds its own; leave them out.")
    if not adapter.HOLDS_PARAMETERS and variables is None:
        raise OptionError(f"a model of {library} holds no parameters: give what model.init(..) returned as variables.")
    params, apply = adapter.adapt(model, variables, tuple(rngs), options)
    refuse_rounding(params)
    function = _function(apply, tuple(rngs), type(model).__name__)
    return params, per_sample(function, out_axes=out_axes) if batched else function


def _function(apply: Apply, rngs: tuple[str, ...], name: str) -> Callable[..., PyTree]:
    def without_keys(params: PyTree, *args: Any) -> PyTree:
        return apply(params, {}, *args)

    def with_key(params: PyTree, *args: Any) -> PyTree:
        *others, key = args
        keys = [key] if len(rngs) == 1 else jax.random.split(key, len(rngs))
        return apply(params, dict(zip(rngs, keys, strict=True)), *others)

    function = with_key if rngs else without_keys
    function.__name__ = function.__qualname__ = name
    return function
