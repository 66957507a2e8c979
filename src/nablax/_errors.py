"""Every error that nablax raises, in one place.

A message says three things: what was given, what was expected, what to do. Each class is also the builtin error that
Python users would expect, so that existing ``except ValueError`` code keeps working.
"""

from __future__ import annotations


class NablaxError(Exception):
    """Base of all errors of nablax: ``except nablax.NablaxError`` catches every one of them."""


class OptionError(NablaxError, ValueError):
    """An option of a transform has a value that it cannot have."""


class AxesError(NablaxError, ValueError):
    """``in_axes`` or ``out_axes`` do not fit the arguments or the results."""


class BatchSizeError(NablaxError, ValueError):
    """The batched arguments disagree about the number of samples, or there are none."""


class InputTypeError(NablaxError, TypeError):
    """An argument has a type or dtype that cannot be differentiated or passed to a transform."""


class OutputTypeError(NablaxError, TypeError):
    """The model returns something that cannot be differentiated as asked."""


class ModelTraceError(NablaxError, RuntimeError):
    """The user's model raised an exception while it was traced for one sample."""


class CoupledSamplesError(NablaxError, ValueError):
    """The samples of a batch-wise model depend on each other, or it cannot be proved that they do not."""


class StrategyError(NablaxError, ValueError):
    """No strategy, or not the one asked for, can differentiate this model."""


class MemoryBudgetError(NablaxError, ValueError):
    """A result, or the intermediate arrays of one sample, are larger than the ``memory_budget`` that was given."""


class BackendError(NablaxError, RuntimeError):
    """The installed version of JAX is known to compute wrong numbers on this device."""


class HolomorphyError(NablaxError, ValueError):
    """A holomorphic derivative was asked of a model that is not holomorphic in its parameters."""


class CheckFailedError(NablaxError, AssertionError):
    """``nablax.check`` found a derivative that differs from its references."""


class DataError(NablaxError, ValueError):
    """A file or a store cannot be read, written or used as asked."""


class NonFiniteError(NablaxError, ArithmeticError):
    """Derivatives that were to be written to disk are NaN or infinite."""


class ZeroSecondDerivativeWarning(UserWarning):
    """A second derivative was asked of a model that is piecewise linear in its input: it is zero everywhere."""


def first_line(error: Exception) -> str:
    """The first line of what an error says, or its name if it says nothing, to be quoted in another."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
