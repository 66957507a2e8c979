"""The fuzzer: a short run of it, every operation once, and that it finds a planted fault and makes it small."""

import random
import subprocess
import sys
from dataclasses import replace

import jax
import pytest
from fuzz import case as fuzz_case
from fuzz.campaign import Campaign
from fuzz.case import Case
from fuzz.compare import confirm, run
from fuzz.operations import OPERATIONS
from fuzz.options import Call
from fuzz.programs import Program, Step
from fuzz.script import script
from fuzz.shrink import shrink

# A rule that is wrong by a thousandth where the model contains an error function, and right everywhere else.
FAULT = """
from dataclasses import replace
from nablax.strategies.adjoint import Adjoint
from nablax.strategies.forward import Forward


def wrong(right, self, f, v, wants, weights):
    found = right(self, f, v, wants, weights)
    return replace(found, hessian=1.001 * found.hessian) if "erf" in map(str, f.graph.varying_primitives) else found


for sweep in (Forward, Adjoint):
    sweep.derive = lambda *given, right=sweep.derive: wrong(right, *given)
"""

VICTIM = Case(
    Program(
        steps=(
            Step("layer", (0,), 3),
            Step("erf", (1,), 3),
            Step("cumsum", (1,), 3),
            Step("mul", (2, 3), 3),
            Step("sin", (4,), 3),
        ),
        ends=(5, 4),
        parameters="tied",
        outputs="scalar",
        C=3,
        H=3,
        has_aux=True,
    ),
    Call(("hessian",), strategy="forward", chunk_size=2, x_axis=-1, out_axis=-1),
    samples=3,
    seed=5,
)


def test_a_short_run():
    campaign = Campaign(random.Random(11), longest=4)
    while campaign.compared < 12:
        campaign.one_program()
    assert not campaign.failures, campaign.summary(1.0)
    assert campaign.statuses["ok"] > 9, campaign.summary(1.0)


def test_a_draw_is_repeated():
    drawn = [Campaign(random.Random(3)).draw() for _ in range(2)]
    assert drawn[0] == drawn[1]


def test_a_planted_fault_is_found_and_made_small(tmp_path):
    from nablax.strategies.adjoint import Adjoint
    from nablax.strategies.forward import Forward

    right = {sweep: sweep.derive for sweep in (Forward, Adjoint)}
    try:
        exec(FAULT, {})
        outcome = confirm(VICTIM)
        assert outcome.status == "mismatch"
        smallest = shrink(VICTIM, lambda case: run([case])[0].status == "mismatch", most=60)
    finally:
        for sweep, derive in right.items():
            sweep.derive = derive
        fuzz_case._names.cache_clear()
    assert [step.operation for step in smallest.program.steps] == ["erf"]
    assert smallest.samples == 1
    assert replace(smallest.call, strategy="auto", under="jit", chunk_size="auto") == Call(("hessian",))
    text = script(smallest)
    for fault, status in ((FAULT, 1), ("", 0)):
        path = tmp_path / "issue.py"
        path.write_text(fault + text)
        ended = subprocess.run([sys.executable, path], capture_output=True, text=True, check=False)
        assert ended.returncode == status, ended.stderr
        assert ("AssertionError" in ended.stderr) == bool(fault), ended.stderr
    assert run([smallest])[0].status == "ok"


@pytest.mark.parametrize(("off", "status"), [(1e-7, "unstable"), (1e-2, "mismatch")])
def test_what_rounding_does_to_the_reference_too_is_no_mismatch(monkeypatch, off, status):
    """Scores of a thousand, all equal: the third derivative of attention is zero, by cancelling eight digits."""
    steps = Step("product", (0,), 4), Step("attention", (1, 1), 4)
    program = Program(steps, (2, 2), inputs="vector", outputs="field", C=2, A=2, H=4)
    case = Case(program, Call((), partials="u_y u_yyy"), seed=871)
    found = Case.found
    monkeypatch.setattr(Case, "found", lambda self, *args: jax.tree.map(lambda a: a + off, found(self, *args)))
    assert run([case])[0].status == "mismatch"
    assert confirm(case).status == status


def test_an_unnamed_exception_is_found():
    from nablax.strategies.forward import Forward

    def broken(*_):
        raise KeyError("planted")

    right = Forward.derive
    try:
        Forward.derive = broken
        outcome = confirm(Case(Program((Step("tanh", (0,), 2),), (1, 1)), Call(("hessian",), strategy="forward")))
    finally:
        Forward.derive = right
        fuzz_case._names.cache_clear()
    assert outcome.status == "unnamed"
    assert "planted" in outcome.detail


@pytest.mark.slow
@pytest.mark.parametrize("name", OPERATIONS)
def test_every_operation_between_curved_ones(name):
    """Each behind a curved layer and before another, by both sweeps."""
    operation = OPERATIONS[name]
    operands = (1, 2)[: operation.operands]
    steps = Step("layer", (0,), 3), Step("sin", (0,), 3), Step(name, operands, 3), Step("sin", (3,), 3)
    program = Program(steps, (4, 4), C=3, A=3, H=3)
    strategies = ("forward", "adjoint") if operation.mode == "both" else ("auto",)
    wants = ("hessian",), ("hessian_diagonal", "jacobian", "laplacian")
    calls = [Call(w, strategy=s, weights="matrix" if "laplacian" in w else "none") for s in strategies for w in wants]
    if operation.mode != "forward":
        calls.append(Call(("hessian",), strategy=strategies[-1], under="grad"))
    outcomes = run([Case(program, call, samples=2, seed=1) for call in calls])
    assert {outcome.status for outcome in outcomes} == {"ok"}, outcomes


def test_what_is_made_smaller_keeps_the_coordinates_that_it_names():
    """Fewer inputs than partial derivatives name would be no model at all."""
    program = replace(VICTIM.program, inputs="vector", C=2)
    case = replace(VICTIM, program=program, call=Call((), partials="u_y u_xx"))
    seen = []
    smallest = shrink(case, lambda candidate: seen.append(candidate) or "u_y" in candidate.call.partials, most=40)
    assert smallest.call.partials == "u_y"
    assert all(candidate.program.C == 2 for candidate in seen if "y" in candidate.call.partials)
    assert len(seen) > 3
