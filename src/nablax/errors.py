"""The errors of nablax, for ``except nablax.errors.AxesError``."""

from nablax._errors import (
    AxesError,
    BatchSizeError,
    CheckFailedError,
    DataError,
    InputTypeError,
    ModelTraceError,
    NablaxError,
    OptionError,
    OutputTypeError,
    StrategyError,
    ZeroSecondDerivativeWarning,
)

__all__ = [
    "AxesError",
    "BatchSizeError",
    "CheckFailedError",
    "DataError",
    "InputTypeError",
    "ModelTraceError",
    "NablaxError",
    "OptionError",
    "OutputTypeError",
    "StrategyError",
    "ZeroSecondDerivativeWarning",
]
