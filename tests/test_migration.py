"""The page for newcomers from other libraries: its blocks run from top to bottom and give what they state."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.examples

PAGE = Path(__file__).parents[1] / "docs" / "migration.md"

# `name = ...    # what it is`: a shape, a number (with an exponent: only its order of magnitude is meant) or True.
STATED = re.compile(
    r"^(\w+) = .*?  # (?:(?P<shape>\((?:\d+, ?)+\d*\))|(?P<number>-?[\d.]+(?:e-?\d+)?|\([\d.+-]+j\)|True))(?:$|\s)",
    flags=re.MULTILINE,
)

MATCHES = """
def _matches(found, stated, rough):
    import numpy as np
    if stated is True:
        return bool(found)
    if rough:
        return stated / 3 < found < stated * 3
    decimals = len(str(stated).partition(".")[2]) if isinstance(stated, float) else 12
    return bool(np.abs(found - stated) <= 0.5000001 * 10.0**-decimals)
"""


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE.read_text(), flags=re.DOTALL | re.MULTILINE)


def with_checks(block: str) -> str:
    """The block, and an assertion behind it for everything that its comments state."""
    checks = []
    for found in STATED.finditer(block):
        name, shape, number = found.group(1), found["shape"], found["number"]
        if shape:
            checks.append(f"assert {name}.shape == {shape}, ({name!r}, {name}.shape, {shape!r})")
        else:
            rough = "e-" in number
            checks.append(f"assert _matches({name}, {number}, {rough}), ({name!r}, {name}, {number!r})")
    return "\n".join([block, *checks])


def run(code: str) -> subprocess.CompletedProcess:
    """Runs code in a process of its own: with JAX as it is out of the box."""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)


def page(tail: str = "") -> str:
    return "\n".join([MATCHES, *map(with_checks, blocks("python")), tail])


def test_blocks_run_and_give_what_they_state():
    code = "\n".join(blocks("python"))
    stated = list(STATED.finditer(code))
    assert len(stated) >= 35
    # No comment that looks like a statement is left out, because of how it is written.
    assert len(stated) == len(re.findall(r"# (?:\([\d-]|\d|True)", code))
    done = run(page(REFERENCES))
    assert done.returncode == 0, done.stderr


# What the results are compared with: plain JAX, and differences of the complex loss.
REFERENCES = """
plain = jax.vmap(jax.hessian(model, 1), (None, 1), -1)(ps, X)
assert jnp.allclose(H, plain, rtol=1e-10, atol=1e-12)
assert jnp.allclose(L, jnp.einsum("accd->ad", plain), rtol=1e-10, atol=1e-12)
assert jnp.allclose(own, full[:, jnp.arange(8), :, jnp.arange(8)].transpose(1, 2, 0))

nested = jax.grad(lambda ps: jnp.sum(jax.vmap(jax.hessian(model, 1), (None, 1))(ps, X) ** 2))(ps)
assert all(jnp.allclose(gradient[name], nested[name], rtol=1e-9, atol=1e-12) for name in ps)
assert jnp.allclose(dense @ jax.flatten_util.ravel_pytree(ps)[0], O @ ps)

h, direction = 1e-5, jax.tree.map(lambda p: jnp.cos(jnp.arange(p.size)).reshape(p.shape), ps)
moved = lambda s: variance(jax.tree.map(lambda p, v: p + s * h * v, ps, direction))
along = sum(jnp.sum(a * b) for a, b in zip(jax.tree.leaves(jax.grad(variance)(ps)), jax.tree.leaves(direction)))
assert abs(along) > 1e-3
assert abs((moved(1) - moved(-1)) / (2 * h) - along) < 1e-6 * abs(along)
assert jnp.iscomplexobj(H_psi)
assert jnp.allclose(H_psi, jax.vmap(lambda x: jax.hessian(lambda x: psi(ps, x).real)(x)
                                    + 1j * jax.hessian(lambda x: psi(ps, x).imag)(x), 1, -1)(X))
"""


def test_torch_gives_the_same_hessian():
    pytest.importorskip("torch")
    torch_blocks = blocks("python torch")
    assert len(torch_blocks) == 1
    tail = "assert np.abs(H_torch.numpy() - np.moveaxis(np.asarray(H), -1, 0)).max() < 1e-12"
    done = run("\n".join([page(), *map(with_checks, torch_blocks), tail]))
    assert done.returncode == 0, done.stderr


def test_a_wrong_statement_is_noticed():
    assert run(MATCHES + with_checks("import numpy as np\nx = np.zeros((2, 3))  # (2, 3)")).returncode == 0
    assert run(MATCHES + with_checks("import numpy as np\nx = np.zeros((2, 3))  # (3, 2)")).returncode != 0
    assert run(MATCHES + with_checks("x = 0.26  # 0.3")).returncode == 0
    assert run(MATCHES + with_checks("x = 0.24  # 0.3")).returncode != 0
    assert run(MATCHES + with_checks("x = 3e-7  # 1e-5")).returncode != 0
    assert run(MATCHES + with_checks("x = False  # True")).returncode != 0


def test_calls_of_the_table_exist():
    import nablax

    called = set(re.findall(r"nablax\.(\w+)\(", PAGE.read_text().partition("## Question and call")[2]))
    assert len(called) >= 9
    assert called <= set(nablax.__all__)
