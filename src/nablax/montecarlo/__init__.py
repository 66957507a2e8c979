"""Monte Carlo on top of the derivatives: expectations, local energies, samples, stochastic reconfiguration.

Needs the extra ``montecarlo``. The names are loaded when they are first used, because blackjax takes longer to import
than all of nablax.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nablax.montecarlo.energies import local_energy
    from nablax.montecarlo.estimates import Estimate, expectation
    from nablax.montecarlo.reconfiguration import stochastic_reconfiguration
    from nablax.montecarlo.sampling import Samples, sample

_HOME = {
    "Estimate": "estimates",
    "expectation": "estimates",
    "local_energy": "energies",
    "stochastic_reconfiguration": "reconfiguration",
    "Samples": "sampling",
    "sample": "sampling",
}

__all__ = ["Estimate", "Samples", "expectation", "local_energy", "sample", "stochastic_reconfiguration"]


def __getattr__(name: str) -> Any:
    import importlib

    if name not in _HOME:
        raise AttributeError(f"module 'nablax.montecarlo' has no attribute {name!r}; it has {', '.join(__all__)}")
    value = getattr(importlib.import_module(f"nablax.montecarlo.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
