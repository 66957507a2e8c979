"""What the axes of results are called, in stores and in xarray: sample, output, input, parameter."""

from __future__ import annotations

from nablax._types import INPUT_AXES, OF_PAIRS


def output_rank(want: str, rank: int, input_rank: int) -> int:
    """How many axes one sample of y has, from those of a result and of one sample of x."""
    if want in OF_PAIRS:
        return rank // 2 - 1
    return rank - 1 - (want == "parameter_jacobian") - INPUT_AXES.get(want, 0) * input_rank


def dimension_names(want: str, output_rank: int, input_rank: int) -> tuple[str, ...]:
    """Names of the axes of one want: sample, output, input, input_2; numbered where x or y have several axes."""
    outputs = () if want == "divergence" else _numbered("output", output_rank)
    if want in OF_PAIRS:
        return ("sample", *outputs, "sample_2", *_numbered("output", output_rank, "_2"))
    if want == "parameter_jacobian":
        return ("sample", *outputs, "parameter")
    again = ("", "_2")[: INPUT_AXES.get(want, 0)]
    return ("sample", *outputs, *(name for end in again for name in _numbered("input", input_rank, end)))


def _numbered(name: str, rank: int, again: str = "") -> tuple[str, ...]:
    return (name + again,) if rank == 1 else tuple(f"{name}{k}{again}" for k in range(rank))
