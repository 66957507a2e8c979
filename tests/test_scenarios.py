"""Every want of every scenario by every strategy, against references that know nothing of nablax."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from scenarios import Scenario, all_scenarios

import nablax

# What a strategy needs of a model; a new strategy is one line here.
STRATEGIES = {
    "auto": frozenset(),
    "forward_over_reverse": frozenset({"forward", "reverse"}),
    "forward_over_forward": frozenset({"forward"}),
    "reverse_over_reverse": frozenset({"reverse"}),
    "forward": frozenset({"forward"}),
    "adjoint": frozenset({"forward", "reverse"}),
}

ALL = ("value", "jacobian", "hessian", "hessian_diagonal", "laplacian")
# Without the Hessian, its diagonal and trace are computed in another way.
WITHOUT_HESSIAN = ("value", "jacobian", "hessian_diagonal", "laplacian")

SCENARIOS = all_scenarios()
# The ways to call that take turns: (compiled by the caller, chunk_size, samples on the last axis).
TURNS = list(itertools.product((True, False), (None, 3, "auto"), (False, True)))


def able(scenario: Scenario, strategy: str) -> bool:
    allowed = {mode for mode, can in [("forward", scenario.forward_mode), ("reverse", scenario.reverse_mode)] if can}
    return STRATEGIES[strategy] <= allowed


def turn(scenario: Scenario, strategy: str) -> tuple[bool, int | str | None, bool]:
    """5 and the 12 turns have no common factor, so all of them come up."""
    return TURNS[(5 * SCENARIOS.index(scenario) + 7 * list(STRATEGIES).index(strategy)) % len(TURNS)]


SWEEPS = ("forward", "adjoint")
CASES = [
    (scenario, strategy, wants)
    for scenario in SCENARIOS
    for strategy in STRATEGIES
    for wants in ((ALL, WITHOUT_HESSIAN) if strategy in SWEEPS else (ALL,))
]


def now(scenario: Scenario) -> list[tuple[str, tuple[str, ...]]]:
    """What `make test` asks of a scenario, to save time: one sweep, and of every sixth one of the others too. All the
    rest is for `make slow`.
    """
    served = [(strategy, wants) for s, strategy, wants in CASES if s is scenario and able(s, strategy)]
    number = SCENARIOS.index(scenario)
    by_sweeps = [case for case in served if case[0] in SWEEPS]
    others = [case for case in served if case[0] not in SWEEPS]
    chosen = [by_sweeps[number % len(by_sweeps)]] if by_sweeps else [others[number % len(others)]]
    return [*chosen, others[number // 6 % len(others)]] if number % 6 == 0 else chosen


def later(scenario: Scenario, strategy: str, wants: tuple[str, ...]) -> bool:
    return able(scenario, strategy) and (strategy, wants) not in now(scenario)


def samples_last(scenario: Scenario) -> tuple[tuple, tuple]:
    """The arguments with the sample axis of every batched leaf moved to the end, and the in_axes that say so."""
    args = [
        arg if axis is None else jax.tree.map(lambda leaf: jnp.moveaxis(leaf, 0, -1), arg)
        for arg, axis in zip(scenario.args, scenario.axes, strict=True)
    ]
    return tuple(args), tuple(None if axis is None else -1 for axis in scenario.axes)


@pytest.mark.parametrize(
    "scenario, strategy, wants",
    [
        pytest.param(*case, marks=pytest.mark.slow if later(*case) else (), id=f"{case[0]}-{case[1]}-{len(case[2])}")
        for case in CASES
    ],
)
def test_every_want(scenario, strategy, wants):
    """All wants by one compiled function, against the reference."""
    compiled, chunk_size, last = turn(scenario, strategy)
    options = {"strategy": strategy, "weights": reference.weights_of(scenario), "chunk_size": chunk_size}
    args, in_axes = samples_last(scenario) if last else (scenario.args, scenario.in_axes)
    options |= {"in_axes": in_axes, "out_axes": -1 if last else 0}

    def derive(*args):
        return nablax.derivatives(scenario.function, *wants, **options)(*args)

    if not able(scenario, strategy):
        with pytest.raises(nablax.errors.StrategyError, match="cannot serve"):
            jax.eval_shape(derive, *args)
        return
    found = (jax.jit(derive) if compiled else derive)(*args)
    if last:
        found = jax.tree.map(lambda leaf: np.moveaxis(leaf, -1, 0), found)
    expected = reference.results(scenario)
    how = f"{'jit' if compiled else 'eager'}, chunk_size={chunk_size}, {'last' if last else 'first'} axis "
    reference.assert_close(found, {want: expected[want] for want in wants}, what=how)


def test_all_turns_are_taken():
    assert {turn(scenario, strategy) for scenario in SCENARIOS for strategy in STRATEGIES} == set(TURNS)


# Every eighth scenario first, and those alone by `make test`.
GRADIENTS = [scenario for first in range(8) for scenario in SCENARIOS[first::8]]
FIRST = len(SCENARIOS[::8])


@pytest.mark.parametrize(
    "number",
    [pytest.param(n, marks=pytest.mark.slow if n >= FIRST else (), id=repr(s)) for n, s in enumerate(GRADIENTS)],
)
def test_gradient_of_a_loss_through_every_want(number):
    """By all parameters: a value that is cut off inside would leave every want right and this wrong."""
    scenario = GRADIENTS[number]
    strategies = [strategy for strategy in STRATEGIES if able(scenario, strategy)]
    strategy = strategies[number % len(strategies)]
    # 3 divides no D of the scenarios: the last chunk is padded. All are computed again in the backward pass.
    chunk_size = (3, None)[number // len(strategies) % 2]
    wants = (ALL, WITHOUT_HESSIAN)[number // (2 * len(strategies)) % 2]
    cotangents = {want: reference.cotangents(scenario)[want] for want in wants}
    transform = nablax.derivatives(
        scenario.function,
        *wants,
        weights=reference.weights_of(scenario),
        in_axes=scenario.in_axes,
        strategy=strategy,
        chunk_size=chunk_size,
    )

    def loss(first):
        return reference.loss(transform(first, *scenario.args[1:]), cotangents)

    gradient = jax.jit(reference.by_first(scenario)(loss))(scenario.args[0])
    reference.assert_close(gradient, reference.gradient(scenario, wants), 1e-9, f"{strategy}, chunk_size={chunk_size} ")


def test_scenarios_are_many_and_never_square():
    assert len(SCENARIOS) >= 32
    assert len({scenario.name for scenario in SCENARIOS}) == len(SCENARIOS)
    for scenario in SCENARIOS:
        assert scenario.samples != scenario.inputs or scenario.name == "one_element", scenario
        assert scenario.samples % 3 != 0 or scenario.samples == 3, scenario
