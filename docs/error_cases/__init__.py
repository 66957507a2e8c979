"""Every way to get an error out of nablax: the code that provokes it, its cause, and the remedy."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Case:
    """One error on purpose.

    Attributes:
        code: Python that raises; `make_errors_table.NAMES` says what it may use.
        cause: what went wrong, for somebody who has just read the message.
        remedy: what to do about it.
    """

    code: str
    cause: str
    remedy: str
