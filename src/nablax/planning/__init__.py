"""Why this method: the facts of a problem, and the choice of a strategy and a chunk size for it."""

from nablax.planning.autotune import Build, timed, tune
from nablax.planning.choose import Candidate, Plan, candidate, candidates, choose, choose_for_gradient
from nablax.planning.explain import Explanation, grouped
from nablax.planning.memory import (
    bytes_of,
    check_result,
    memory_of_device,
    readable,
    samples_that_fit,
)
from nablax.planning.problem import Problem

__all__ = [
    "Build",
    "Candidate",
    "Explanation",
    "Plan",
    "Problem",
    "bytes_of",
    "candidate",
    "candidates",
    "check_result",
    "choose",
    "choose_for_gradient",
    "grouped",
    "memory_of_device",
    "readable",
    "samples_that_fit",
    "timed",
    "tune",
]
