"""The errors of nablax, for ``except nablax.errors.AxesError``."""

from nablax._errors import (
    AxesError,
    BackendError,
    BatchSizeError,
    CheckFailedError,
    CoupledSamplesError,
    DataError,
    HolomorphyError,
    InputTypeError,
    MemoryBudgetError,
    ModelTraceError,
    NablaxError,
    NonFiniteError,
    OptionError,
    OutputTypeError,
    StrategyError,
    ZeroSecondDerivativeWarning,
)

__all__ = [
    "AxesError",
    "BackendError",
    "BatchSizeError",
    "CheckFailedError",
    "CoupledSamplesError",
    "DataError",
    "HolomorphyError",
    "InputTypeError",
    "MemoryBudgetError",
    "ModelTraceError",
    "NablaxError",
    "NonFiniteError",
    "OptionError",
    "OutputTypeError",
    "StrategyError",
    "ZeroSecondDerivativeWarning",
]
