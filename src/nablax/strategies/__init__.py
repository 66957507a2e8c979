"""Ways to differentiate one sample. A method is a file; this is the table of them."""

from nablax.strategies.base import Derivatives, Strategy, Wants
from nablax.strategies.nested import Forward, ForwardOverForward, ForwardOverReverse, Reverse, ReverseOverReverse

BUILT_IN: tuple[Strategy, ...] = (
    Forward(),
    Reverse(),
    ForwardOverReverse(),
    ForwardOverForward(),
    ReverseOverReverse(),
)

__all__ = ["BUILT_IN", "Derivatives", "Strategy", "Wants"]
