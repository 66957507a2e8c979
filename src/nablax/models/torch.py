"""PyTorch: modules run in JAX by torchax, which writes every operation of torch as one of JAX."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch  # pyright: ignore[reportMissingImports]

from nablax._types import PyTree
from nablax.models import Apply
from nablax.models._precision import refuse_rounding

BATCHED = True
HOLDS_PARAMETERS = True
TAKES_KEYS = False


def adapt(model: Any, variables: None, rngs: tuple[str, ...], options: dict[str, Any]) -> tuple[PyTree, Apply]:
    """(params, apply); the parameters that require gradients are the parameters, by name, each once."""
    refuse_rounding({name: value.detach().numpy(force=True) for name, value in model.named_parameters()})
    torchax = _torchax()
    states, call = torchax.extract_jax(model)
    # All names of tied parameters: torchax keeps one of them, and not the one that torch does.
    named = model.named_parameters(remove_duplicate=False)
    names = {name for name, value in named if value.requires_grad}
    params = {name: value for name, value in states.items() if name in names}
    rest = {name: value for name, value in states.items() if name not in names}

    def apply(params: PyTree, keys: dict[str, Any], *args: Any) -> PyTree:
        return call({**rest, **params}, args, options)

    return params, apply


def _torchax() -> Any:
    try:
        with _without_named_dimensions():
            import torchax  # pyright: ignore[reportMissingImports]

            torchax.default_env()
    except ImportError as error:
        raise ImportError(
            'a model of PyTorch runs in JAX by torchax, which is not installed: pip install "nablax[torch]".'
        ) from error
    except AttributeError as error:
        raise ImportError(
            f"torchax does not work with torch {torch.__version__} ({error}). nablax is tested with torch 2.13.0 and "
            "torchax 0.0.13: install that pair."
        ) from error
    return torchax


@contextlib.contextmanager
def _without_named_dimensions() -> Iterator[None]:
    """PyTorch 2.13 has no overloads for named dimensions any more, and torchax 0.0.13 looks them up to refuse them.

    Whatever stands for one of them can never be called, as torch has no way to get there.
    """
    packets = torch._ops.OpOverloadPacket
    original = packets.__getattr__

    def with_placeholders(self: Any, key: str) -> Any:
        try:
            return original(self, key)
        except AttributeError:
            if "imname" not in key and "names_" not in key and not key.endswith("_names"):
                raise
            return object()

    packets.__getattr__ = with_placeholders
    try:
        yield
    finally:
        packets.__getattr__ = original
