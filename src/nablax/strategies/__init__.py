"""Ways to differentiate one sample. A method is a file; this is the table of them."""

from nablax.strategies.adjoint import Adjoint
from nablax.strategies.base import Derivatives, Strategy, Wants
from nablax.strategies.forward import Forward
from nablax.strategies.nested import ForwardOverForward, ForwardOverReverse, Reverse, ReverseOverReverse, refused_by_jax

BUILT_IN: tuple[Strategy, ...] = (
    Forward(),
    Reverse(),
    Adjoint(),
    ForwardOverReverse(),
    ForwardOverForward(),
    ReverseOverReverse(),
)

__all__ = ["BUILT_IN", "Derivatives", "Strategy", "Wants", "refused_by_jax"]
