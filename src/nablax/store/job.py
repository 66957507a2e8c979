"""What a run derives, and how it is cut up and compiled."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from nablax._errors import BatchSizeError, DataError, MemoryBudgetError
from nablax._types import BY_PARAMETERS, INPUT_AXES, OF_PAIRS, Model, PyTree
from nablax.planning.memory import readable
from nablax.store.identity import Identity, digest_of_model, digest_of_tree, versions
from nablax.store.inputs import digest
from nablax.store.layout import UNIT_BYTES, Unit, axes, filled, of_all, pair_size, unit_size, units
from nablax.store.pipeline import COMPUTING, IN_FLIGHT
from nablax.store.programs import Blocks, Program, Question, chosen_devices
from nablax.store.report import peak_bytes
from nablax.store.samples import Samples

WANTS = (*INPUT_AXES, *BY_PARAMETERS, *OF_PAIRS)
"""All that a run can be asked for."""

COMPILER_BYTES = 64 * 2**20
"""What tracing and compiling take, about, of a memory budget."""


WORTH_MEASURING = 20.0
"""Seconds of computing from which it pays to find out how many devices are fastest."""


@dataclass(frozen=True)
class Layout:
    """How the work is cut up; a run that goes on with another one's work takes it over.

    Attributes:
        unit_size: samples in a unit of single samples; None: there are none.
        pair_size: samples on either side of a unit of pairs; None: there are none.
        devices: how many devices share a unit.
        chunk_bytes: what the intermediate arrays of a chunk may take, if there is a budget of memory.
    """

    unit_size: int | None
    pair_size: int | None
    devices: int
    chunk_bytes: int | None

    def size(self, want: str) -> int:
        """Samples that are written at a time, one file."""
        size = self.pair_size if want in OF_PAIRS else self.unit_size
        assert size is not None
        return size


@dataclass(frozen=True)
class Job:
    """What is derived.

    Attributes:
        model, arguments: the model, and what it takes before the samples: its parameters, or nothing.
        wants: see `nablax.store.run`.
        samples: X.
        options: strategy and table of the transforms.
        chunk_size: see `nablax.jacobian`.
    """

    model: Model
    arguments: tuple[PyTree, ...]
    wants: tuple[str, ...]
    samples: Samples
    options: dict[str, Any]
    chunk_size: int | str | None

    @functools.cached_property
    def results(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Shape and dtype of the results of each want, for all samples."""
        D = self.samples.shape[0]
        if D == 0:
            raise BatchSizeError(f"X has shape {self.samples.shape}: it holds no samples; give at least one.")
        one, found = jax.ShapeDtypeStruct((1, *self.samples.shape[1:]), self.samples.dtype), {}
        for question in self._questions(None):
            found |= question.shapes(*[one] * question.sides)
        if any(not hasattr(result, "dtype") for result in found.values()):
            raise DataError(
                "the model returns several arrays; the store takes a model that returns one array for a sample."
            )
        return {
            want: jax.ShapeDtypeStruct(of_all(found[want].shape, want, D), found[want].dtype) for want in self.wants
        }

    @property
    def bytes(self) -> int:
        """Of all results."""
        return sum(math.prod(array.shape) * array.dtype.itemsize for array in self.results.values())

    def axes(
        self, features: Sequence[str] | None, outputs: Sequence[str] | None
    ) -> tuple[dict[str, tuple[str, ...]], dict[str, list[str]]]:
        """(want -> names of its axes, axis -> names along it)."""
        return axes(self.results, self.samples.shape[1:], features, outputs)

    def identity(self) -> Identity:
        """What another run must have in common with this one to go on with its work."""
        x = jax.ShapeDtypeStruct(self.samples.shape[1:], self.samples.dtype)
        return {
            "model": digest_of_model(self.model, self.arguments, x),
            "parameters": digest_of_tree(self.arguments),
            "inputs": digest(self.samples),
            "wants": ", ".join(self.wants),
            "chunk_size": str(self.chunk_size),
            "strategy": str(self.options["strategy"]),
            "table": "default" if self.options["table"] is None else "given",
            "device": jax.local_devices()[0].device_kind,
        } | versions()

    def layout(self, asked: int | None, devices: int, budget: Budget | None) -> Layout:
        """How to cut up the work; `asked` is the size of a unit, if the user has set it."""
        D, limit = self.samples.shape[0], UNIT_BYTES if budget is None else min(UNIT_BYTES, budget.unit_bytes)
        bytes_of = lambda shape, dtype: math.prod(shape) * np.dtype(dtype).itemsize
        singles = [array for want, array in self.results.items() if want not in OF_PAIRS]
        each = sum(bytes_of(array.shape[1:], array.dtype) for array in (self.samples, *singles))
        pairs = [bytes_of(array.shape, array.dtype) // D**2 for want, array in self.results.items() if want in OF_PAIRS]
        return Layout(
            unit_size(each, D, asked, devices, limit) if singles else None,
            pair_size(pairs[0], D, asked, devices, limit) if pairs else None,
            devices,
            None if budget is None else budget.chunk_bytes,
        )

    def size_of_unit(self, asked: int, layout: Layout) -> int:
        """What becomes of a size that the user asks for: a unit divides into the devices."""
        return unit_size(1, self.samples.shape[0], asked, layout.devices, 1)

    def units(self, layout: Layout) -> Iterator[Unit]:
        """All units of work."""
        return units(self.samples.shape[0], layout.unit_size, layout.pair_size)

    def programs(self, layout: Layout) -> Programs:
        """Compile for units of a given layout."""
        return Programs(self, layout, chosen_devices(layout.devices))

    def planned(self, asked: int | None, devices: int | None, budget: Budget | None) -> Programs:
        """Choose a layout and compile for it."""
        layout = self.layout(asked, len(chosen_devices(devices)), budget)
        if budget is not None and asked is not None:
            budget.check(self.in_flight(layout), layout)
        if devices is None and layout.devices > 1 and jax.default_backend() == "cpu":
            programs = self._fastest(self.layout(asked, 1, budget), layout)
        else:
            programs = self.programs(layout)
        while budget is not None and not budget.holds(needed := self.in_flight(programs.layout) + programs.temporary):
            layout = programs.layout
            smaller = max(layout.unit_size or 0, layout.pair_size or 0) // 2
            if asked is not None or smaller < layout.devices:
                budget.check(needed, layout)
            programs = self.programs(self.layout(smaller, layout.devices, budget))
        return programs

    def in_flight(self, layout: Layout) -> int:
        """Bytes of the results of all units that are in memory at a time."""
        D = self.samples.shape[0]
        each = {want: array.dtype.itemsize * math.prod(array.shape) / D for want, array in self.results.items()}
        pair = sum(each[want] / D * (layout.pair_size or 0) ** 2 for want in each if want in OF_PAIRS)
        single = sum(each[want] * (layout.unit_size or 0) for want in each if want not in OF_PAIRS)
        return int(IN_FLIGHT * max(pair, single))

    def _fastest(self, single: Layout, shared: Layout) -> Programs:
        """On all the devices that a processor was divided into, or on one of them if that is not slower.

        A processor serves a single device with all of its cores too, and which is faster depends on the model. It is
        measured where the run is long enough to pay for a second compilation.
        """
        one, work = self.programs(single), list(self.units(single))
        if one.seconds(work[0]) * len(work) < WORTH_MEASURING:
            return one
        all_, first = self.programs(shared), next(self.units(shared))
        of_one = min(one.seconds(work[0]) for _ in range(3)) * len(work)
        of_all = min(all_.seconds(first) for _ in range(3)) * sum(1 for _ in self.units(shared))
        return all_ if of_all < 0.95 * of_one else one

    def _questions(self, chunk_bytes: int | None) -> list[Question]:
        options = self.options | ({} if chunk_bytes is None else {"memory_budget": chunk_bytes})
        singles = tuple(want for want in self.wants if want not in OF_PAIRS)
        pairs = tuple(want for want in self.wants if want in OF_PAIRS)
        return [Question(self.model, self.arguments, wants, options) for wants in (singles, pairs) if wants]


class Programs:
    """The compiled programs of a job, one for the units of each kind.

    Attributes:
        layout: that they are compiled for.
    """

    def __init__(self, job: Job, layout: Layout, devices: list[Any]) -> None:
        self.layout: Layout = layout
        self._job = job
        self._of: dict[int, Program] = {}
        for question in job._questions(layout.chunk_bytes):
            size = layout.size(question.wants[0])
            block = jax.ShapeDtypeStruct((size, *job.samples.shape[1:]), job.samples.dtype)
            chunk = min(job.chunk_size, size) if isinstance(job.chunk_size, int) else job.chunk_size
            self._of[question.sides] = Program(question, [block] * question.sides, devices, chunk)

    @property
    def halved(self) -> list[int]:
        """Samples that go through the model at once, in programs that have met a device without more memory."""
        return [int(program.chunk) for program in self._of.values() if program.halved]

    @property
    def texts(self) -> list[str]:
        """The compiled programs, as XLA prints them."""
        return [program.text for program in self._of.values()]

    @property
    def temporary(self) -> int:
        """Bytes that computing takes beside inputs and results, on all devices."""
        return COMPUTING * self.layout.devices * max(program.temporary_bytes for program in self._of.values())

    def seconds(self, unit: Unit) -> float:
        """What a unit takes to compute."""
        blocks = self.read(unit)
        self(unit, blocks)
        start = time.perf_counter()
        self(unit, blocks)
        return time.perf_counter() - start

    def read(self, unit: Unit) -> Blocks:
        """The samples of a unit, on the devices."""
        blocks = [filled(self._job.samples[slice(*span)], unit.size) for span in unit.spans]
        return self._of[len(unit.spans)].put(*blocks)

    def __call__(self, unit: Unit, blocks: Blocks) -> dict[str, jax.Array]:
        """The results of a unit, filled up."""
        return self._of[len(unit.spans)](blocks)


@dataclass(frozen=True)
class Budget:
    """What the process may take at its peak.

    Attributes:
        total: bytes.
    """

    total: int

    @property
    def chunk_bytes(self) -> int:
        """For the intermediate arrays of a chunk: half of what is left is for those of the units being computed."""
        return self._half // COMPUTING

    @property
    def unit_bytes(self) -> int:
        """For the inputs and results of a unit: the other half is for those of the units in flight."""
        return self._half // IN_FLIGHT

    @property
    def _half(self) -> int:
        """Half of what is left, as a power of two."""
        left = self.total - peak_bytes() - COMPILER_BYTES
        if left < 2**22:
            raise MemoryBudgetError(
                f"memory_budget={readable(self.total)} is too little: the process takes {readable(peak_bytes())} "
                f"before it derives anything, and compiling takes about {readable(COMPILER_BYTES)}; give at least "
                f"{readable(peak_bytes() + COMPILER_BYTES + 2**26)}."
            )
        return 2 ** int(math.log2(left // 2))

    def holds(self, needed: int) -> bool:
        """Whether there is room for so many bytes more."""
        return peak_bytes() + needed <= self.total

    def check(self, needed: int, layout: Layout) -> None:
        """Raise `MemoryBudgetError` if it does not hold what is needed for a layout."""
        if not self.holds(needed):
            raise MemoryBudgetError(
                f"units of {layout.unit_size or layout.pair_size} samples need {readable(needed)} beside the "
                f"{readable(peak_bytes())} that the process takes already, and memory_budget allows "
                f"{readable(self.total)}; give a smaller unit_size, a smaller chunk_size or a larger budget."
            )
