"""Make a failing case smaller, step by step, while it fails in the same way."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from fuzz.case import Case
from fuzz.options import Call
from fuzz.programs import Program


def shrink(case: Case, fails: Callable[[Case], bool], most: int = 200) -> Case:
    """The smallest case that still fails, after at most so many trials."""
    tried = {case}
    smaller = True
    while smaller:
        smaller = False
        for candidate in candidates(case):
            if candidate in tried or not _has_its_coordinates(candidate):
                continue
            if len(tried) > most:
                return case
            tried.add(candidate)
            if fails(candidate):
                case, smaller = candidate, True
                break
    return case


def _has_its_coordinates(case: Case) -> bool:
    """Whether all coordinates that partial derivatives name are still inputs."""
    named = "".join(name.partition("_")[2] for name in case.call.partials.split())
    return set(named) <= set("xyz"[: case.program.C])


def candidates(case: Case) -> Iterator[Case]:
    """Cases that are a little simpler, the largest simplification first."""
    program, call = case.program, case.call
    count = len(program.steps)
    plain = Call(call.wants, call.partials, call.parametric, chunk_size=None, under="eager")
    if call != plain:
        yield replace(case, call=plain, samples=1, dtype="float64")
    if program.inputs == "vector" and program != (
        simple := Program(program.steps, program.ends, parameters="closure", outputs="scalar", C=1, A=1)
    ):
        yield replace(case, program=simple)
    if count > 3:
        for step in program.steps:
            alone = replace(step, operands=(0,) * len(step.operands))
            yield replace(case, program=replace(program, steps=(alone,), ends=(program.leaves,) * 2))
    for half in (range(count // 2), range(count // 2, count)):
        if count > 3:
            shorter = program
            for number in reversed(half):
                shorter = shorter.without(number)
            yield replace(case, program=shorter)
    for number in reversed(range(count)):
        yield replace(case, program=program.without(number))
    for samples in (1, 2):
        if samples < case.samples:
            yield replace(case, samples=samples)
    if case.dtype != "float64":
        yield replace(case, dtype="float64")
    yield from (replace(case, call=simpler) for simpler in _calls(call))
    yield from (replace(case, program=simpler) for simpler in _programs(program))


def _calls(call: Call) -> Iterator[Call]:
    """Every option but one as it is."""
    plain = Call()
    for name in ("under", "strategy", "chunk_size", "memory_budget", "weights", "x_axis", "out_axis", "batched"):
        values = {"under": ("eager", "jit"), "chunk_size": (None, "auto")}.get(name, (getattr(plain, name),))
        now = getattr(call, name)
        yield from (replace(call, **{name: v}) for v in (values[: values.index(now)] if now in values else values))
    if len(call.wants) > 1:
        yield from (replace(call, wants=(w,), weights=call.weights if w == "laplacian" else "none") for w in call.wants)
    if " " in call.partials:
        yield from (replace(call, partials=name) for name in call.partials.split())


def _programs(program: Program) -> Iterator[Program]:
    """Every part of the program but one as it is."""
    for name, values in {
        "has_aux": (False,),
        "outputs": ("scalar", "vector"),
        "parameters": ("closure", "dict"),
        "H": (2,),
        "A": (1,),
        "C": (1, 2),
    }.items():
        now = getattr(program, name)
        for value in values[: values.index(now)] if now in values else values:
            yield replace(program, **{name: value})
    if program.inputs != "vector":
        # The first leaf only: what was the second is the first.
        back = program.leaves - 1
        move = lambda i: max(0, i - back)
        steps = tuple(replace(step, operands=tuple(map(move, step.operands))) for step in program.steps)
        ends = move(program.ends[0]), move(program.ends[1])
        yield replace(program, inputs="vector", steps=steps, ends=ends)
    if program.ends[0] != program.ends[1]:
        yield replace(program, ends=(program.ends[0],) * 2)
        yield replace(program, ends=(program.ends[1],) * 2)
    for number, step in enumerate(program.steps):
        with_step = lambda step, number=number: replace(
            program, steps=(*program.steps[:number], step, *program.steps[number + 1 :])
        )
        if step.size > 2:
            yield with_step(replace(step, size=2))
        if len(set(step.operands)) > 1:
            yield with_step(replace(step, operands=(step.operands[0],) * 2))
        if step.operands != (0,) * len(step.operands):
            yield with_step(replace(step, operands=(0,) * len(step.operands)))
