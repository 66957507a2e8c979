"""The compiled programs that units go through, and the devices they run on."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import nablax
from nablax._cache import join_model, split_model
from nablax._errors import MemoryBudgetError, OptionError
from nablax._types import BY_PARAMETERS, INPUT_AXES, OF_PAIRS, Model, PyTree

Blocks = tuple[jax.Array, ...]


@dataclass(frozen=True)
class Question:
    """What is asked of every unit.

    Attributes:
        model, arguments: the model, and what it takes before the samples: its parameters, or nothing.
        wants: of single samples, or of pairs of samples.
        options: of the transforms: strategy, table, memory_budget.
    """

    model: Model
    arguments: tuple[PyTree, ...]
    wants: tuple[str, ...]
    options: dict[str, Any] = field(default_factory=dict)

    def __call__(self, model: Model, chunk: int | str | None, arguments: tuple[PyTree, ...], *blocks: Any) -> PyTree:
        """Results of each want for the samples of a block; for pairs, of the first block with the second."""
        of_parameters = {key: value for key, value in self.options.items() if key != "strategy"}
        transform = nablax.parameter_jacobian(model, chunk_size=chunk, **of_parameters)
        if self.wants == OF_PAIRS:
            one, other = (transform(*arguments, block) for block in blocks)
            return {"gram": one.gram(other)}
        (block,), found = blocks, {}
        if plain := [want for want in self.wants if want in INPUT_AXES]:
            found = dict(nablax.derivatives(model, *plain, chunk_size=chunk, **self.options)(*arguments, block))
        if any(want in BY_PARAMETERS for want in self.wants):
            operator = transform(*arguments, block)
            forms = {"parameter_jacobian": operator.dense, "squared_norms": operator.squared_norms}
            found |= {want: forms[want]() for want in self.wants if want in forms}
        return {want: found[want] for want in self.wants}

    @property
    def sides(self) -> int:
        """How many blocks of samples it takes: one, or two for pairs."""
        return 2 if self.wants == OF_PAIRS else 1

    def shapes(self, *blocks: jax.ShapeDtypeStruct) -> dict[str, Any]:
        """Shape and dtype of the results of each want, found without computing one."""
        # The parameters are no argument of eval_shape: what is wrong with them is then said by nablax and not by JAX.
        return jax.eval_shape(lambda *given: self(self.model, "auto", self.arguments, *given), *blocks)


class Program:
    """A question, compiled for units of one size on some devices; every device takes its share of the samples.

    Attributes:
        chunk: samples that go through the model at once.
        halved: whether it has been made smaller because a device ran out of memory.
    """

    def __init__(
        self, question: Question, shapes: Sequence[jax.ShapeDtypeStruct], devices: Sequence[Any], chunk: Any
    ) -> None:
        self.chunk: Any = chunk
        self.halved: bool = False
        self._halving = threading.Lock()
        self._question, self._shapes = question, shapes
        mesh = Mesh(np.array(devices), ("samples",))
        # Of a pair of blocks, the first is spread; each device takes it with all of the second.
        self._specs = tuple(PartitionSpec("samples") if k == 0 else PartitionSpec() for k in range(len(shapes)))
        self._mesh, self._everywhere = mesh, NamedSharding(mesh, PartitionSpec())
        arrays, self._rest = split_model(question.model)  # arguments of the program, and no constants in it
        self._given = jax.device_put(
            jax.tree.map(jnp.asarray, (arrays, question.arguments)), self._everywhere
        )  # once for all units
        self._compiled = self._compile()

    @property
    def text(self) -> str:
        """The compiled program, as XLA prints it."""
        return self._compiled.as_text()

    @property
    def temporary_bytes(self) -> int:
        """What it needs beside inputs and results, on each device."""
        return int(getattr(self._compiled.memory_analysis(), "temp_size_in_bytes", 0))

    def put(self, *blocks: np.ndarray) -> Blocks:
        """Blocks on the devices."""
        return tuple(
            jax.device_put(block, NamedSharding(self._mesh, spec))
            for block, spec in zip(blocks, self._specs, strict=True)
        )

    def __call__(self, blocks: Blocks) -> dict[str, jax.Array]:
        """The results, computed. Where a device runs out of memory, half as many samples at once from then on."""
        while True:
            compiled = self._compiled
            try:
                return jax.block_until_ready(compiled(*self._given, blocks))
            except jax.errors.JaxRuntimeError as error:
                if not ("RESOURCE_EXHAUSTED" in str(error) or "out of memory" in str(error).lower()):
                    raise
                with self._halving:
                    if compiled is self._compiled:  # or another thread has halved it
                        self._halve(error)

    def _halve(self, error: Exception) -> None:
        share = self._shapes[0].shape[0] // self._mesh.size
        now = min(self.chunk, share) if isinstance(self.chunk, int) else share
        if now <= 1:
            raise MemoryBudgetError(
                f"the device has too little memory for one sample at a time ({str(error).splitlines()[0]}); ask for "
                "less, such as hessian_diagonal or laplacian instead of hessian, or use a device with more memory."
            ) from error
        self.chunk, self.halved = now // 2, True
        self._compiled = self._compile()

    def _compile(self) -> Any:
        rest, question, chunk = self._rest, self._question, self.chunk

        def program(arrays: list[Any], arguments: tuple[PyTree, ...], blocks: Blocks) -> dict[str, jax.Array]:
            return question(join_model(arrays, rest), chunk, arguments, *blocks)

        if self._mesh.size > 1:
            everywhere = PartitionSpec()
            program = jax.shard_map(
                program,
                mesh=self._mesh,
                in_specs=(everywhere, everywhere, self._specs),
                out_specs=PartitionSpec("samples"),
                check_vma=False,
            )
        shapes = tuple(
            jax.ShapeDtypeStruct(block.shape, block.dtype, sharding=NamedSharding(self._mesh, spec))
            for block, spec in zip(self._shapes, self._specs, strict=True)
        )
        return jax.jit(program).lower(*self._given, shapes).compile()


def chosen_devices(asked: int | None) -> list[Any]:
    """The first `asked` devices of this process, or None for all of them.

    Raises:
        OptionError: there are fewer.
    """
    there = jax.local_devices()
    if asked is None:
        return there
    if isinstance(asked, bool) or not isinstance(asked, int) or not 1 <= asked <= len(there):
        hint = " (the processor counts as one; jax_num_cpu_devices makes more of it)" if _on_cpu() else ""
        raise OptionError(f"devices={asked!r} must be an int from 1 to {len(there)}, the number of devices{hint}.")
    return there[:asked]


def _on_cpu() -> bool:
    return jax.default_backend() == "cpu"
