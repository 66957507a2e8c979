"""nablax: derivatives of neural networks, sample by sample over a whole batch.

The names below are loaded when they are first used, so that ``import nablax`` and ``nablax --help`` do not wait for
JAX.
"""

from typing import TYPE_CHECKING, Any

from nablax._version import __version__

if TYPE_CHECKING:
    from nablax import errors, montecarlo, plot, store
    from nablax._check import check
    from nablax._errors import NablaxError
    from nablax._explain import explain
    from nablax._natural_gradient import natural_gradient
    from nablax._operator import ParameterJacobian
    from nablax._options import default_table
    from nablax._parameters import parameter_jacobian, per_sample_gradients
    from nablax._partials import partials
    from nablax._per_sample import per_sample
    from nablax._to_xarray import to_xarray
    from nablax._transforms import derivatives, divergence, hessian, hessian_diagonal, jacobian, laplacian
    from nablax.graph.classify import Table
    from nablax.models import from_model

_HOME = {
    "jacobian": "nablax._transforms",
    "hessian": "nablax._transforms",
    "hessian_diagonal": "nablax._transforms",
    "laplacian": "nablax._transforms",
    "divergence": "nablax._transforms",
    "derivatives": "nablax._transforms",
    "partials": "nablax._partials",
    "per_sample": "nablax._per_sample",
    "parameter_jacobian": "nablax._parameters",
    "per_sample_gradients": "nablax._parameters",
    "ParameterJacobian": "nablax._operator",
    "natural_gradient": "nablax._natural_gradient",
    "from_model": "nablax.models",
    "to_xarray": "nablax._to_xarray",
    "check": "nablax._check",
    "explain": "nablax._explain",
    "Table": "nablax.graph.classify",
    "default_table": "nablax._options",
    "NablaxError": "nablax._errors",
    "errors": "nablax.errors",
    "montecarlo": "nablax.montecarlo",
    "plot": "nablax.plot",
    "store": "nablax.store",
}

__all__ = [
    "NablaxError",
    "ParameterJacobian",
    "Table",
    "__version__",
    "check",
    "default_table",
    "derivatives",
    "divergence",
    "errors",
    "explain",
    "from_model",
    "hessian",
    "hessian_diagonal",
    "jacobian",
    "laplacian",
    "montecarlo",
    "natural_gradient",
    "parameter_jacobian",
    "partials",
    "per_sample",
    "per_sample_gradients",
    "plot",
    "store",
    "to_xarray",
]


def __getattr__(name: str) -> Any:
    import importlib

    if name not in _HOME:
        raise AttributeError(f"module 'nablax' has no attribute {name!r}; it has {', '.join(sorted(_HOME))}")
    module = importlib.import_module(_HOME[name])
    # A submodule is its own value; every other name lives in its module.
    value = module if _HOME[name] == f"nablax.{name}" else getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
