"""How many samples go through the model at once, and what does not fit a budget of memory."""

from __future__ import annotations

import math
import os
import re

import jax

from nablax._errors import MemoryBudgetError, OptionError
from nablax.planning.cost import held_anyway, kept_set, working_set
from nablax.planning.problem import Problem
from nablax.strategies import Strategy

CACHE_BYTES = 20 * 2**20
"""Working set of a chunk on a CPU: what stays in the outer cache, and keeps every core busy with each operation. Larger
chunks stream through main memory; above 32 MiB, glibc asks the system for fresh memory in every call."""

GRADIENT_BYTES = 26 * 2**20
"""What a chunk keeps on a CPU where the result is differentiated."""

WHOLE_BYTES = 32 * 2**20
"""What all samples may keep there in one chunk, which need not be evaluated again to be differentiated."""

MEMORY_BYTES = 2**31
"""Working set of a chunk on an accelerator."""

FEWEST = 16
"""Samples in a chunk where only speed is at stake: with fewer, every operation is too small."""

_UNITS = {"B": 1} | {
    prefix + suffix: base ** (power + 1)
    for power, prefix in enumerate("KMGT")
    for suffix, base in (("B", 1000), ("iB", 1024))
}


def bytes_of(given: int | str) -> int:
    """A budget as a number of bytes: ``2**30``, ``"512MiB"``, ``"1.5GB"``.

    Raises:
        OptionError: it is no positive amount of memory.
    """
    amount = given
    if isinstance(given, str):
        found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?i?B)\s*", given)
        amount = int(float(found[1]) * _UNITS[found[2]]) if found and found[2] in _UNITS else 0
    if isinstance(amount, bool) or not isinstance(amount, int) or amount < 1:
        raise OptionError(
            f"memory_budget={given!r} must be a positive number of bytes, an int or a string with one of the units "
            f'{", ".join(_UNITS)}, for example "512MiB"; or None for no bound.'
        )
    return amount


def readable(size: float) -> str:
    """Bytes in the unit that suits them: ``3.2 MiB``."""
    power = min(int(math.log2(max(size, 1)) // 10), 4)
    number = size / 2 ** (10 * power)
    return f"{number:.0f} B" if power == 0 else f"{number:.{1 if number < 99.95 else 0}f} {' KMGT'[power]}iB"


def chunk_size_for(problem: Problem, strategy: Strategy) -> int | None:
    """How many samples go through the model at once; None: all of them.

    That is the number that the user has set, or else as many as fit the cache (CPU) or a fixed share of the memory
    (elsewhere), and the budget if there is one.
    """
    if not isinstance(problem.chunk_size, str):
        return problem.chunk_size
    return samples_that_fit(working_set(problem, strategy), problem.samples, problem.budget)


def chunk_size_of_gradient(problem: Problem, strategy: Strategy, chunk_size: int | None) -> int | None:
    """How many samples go through the model at once where the result, in chunks of `chunk_size`, is differentiated.

    What a chunk keeps then fits the budget, if there is one, together with what the gradient holds anyway; with one
    sample at least.
    """
    room = None if problem.budget is None else max(int(problem.budget - held_anyway(problem)), 0)
    bound = min(WHOLE_BYTES if jax.default_backend() == "cpu" else math.inf, math.inf if room is None else room)
    if not isinstance(problem.chunk_size, str) or bound == math.inf:
        return chunk_size
    each = kept_set(problem, strategy)
    if each * problem.samples <= bound:
        return chunk_size
    size = samples_that_fit(each, problem.samples, room, GRADIENT_BYTES)
    return min(size, chunk_size or size) if size else chunk_size


def samples_that_fit(each: float, samples: int, budget: int | None, on_cpu: int = CACHE_BYTES) -> int | None:
    """How many of `samples` with a working set of `each` bytes go through the model at once; None: all of them.

    `on_cpu` is the working set of a chunk on a CPU, where nothing else bounds it. A number that divides `samples`, up
    to a quarter above or half below, is taken instead: no chunk is filled up then.
    """
    each = max(each, 1)
    limit = on_cpu if jax.default_backend() == "cpu" else MEMORY_BYTES
    most = samples if budget is None else max(int(budget // each), 1)
    size = min(max(int(limit // each), FEWEST), most)
    if size < samples:
        near = [n for n in _divisors(samples) if size / 2 <= n <= min(1.25 * size, most)]
        size = min(near, key=lambda n: abs(n - size), default=size)
    return None if size >= samples else size


def _divisors(number: int) -> list[int]:
    """In ascending order."""
    small = [n for n in range(1, math.isqrt(number) + 1) if number % n == 0]
    return sorted({*small, *(number // n for n in small)})


def memory_of_device() -> int:
    """Bytes that the default device has; on a CPU, the memory of the machine."""
    stats = jax.devices()[0].memory_stats() or {}
    return int(stats.get("bytes_limit", os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")))


def over_budget(problem: Problem, strategy: Strategy, chunk_size: int | None) -> str | None:
    """Why a chunk of `strategy` does not fit the budget, or None."""
    width = min(chunk_size or problem.samples, problem.samples)
    needed = width * working_set(problem, strategy)
    if problem.budget is None or needed <= problem.budget:
        return None
    subject = "one sample needs" if width == 1 else f"a chunk of {width} samples needs"
    return f"{subject} about {readable(needed)}, and memory_budget allows {readable(problem.budget)}"


def check_result(problem: Problem) -> None:
    """Raise `MemoryBudgetError` where the results of all samples are larger than the budget that the user has set."""
    if problem.budget is not None and problem.results > problem.budget:
        raise MemoryBudgetError(
            f"the result for {problem.samples} samples takes {readable(problem.results)}, and memory_budget allows "
            f"{readable(problem.budget)}. Raise the budget; or ask for less: hessian_diagonal or laplacian instead of "
            "the hessian; or write the result to disk piece by piece with nablax.store.run."
        )
