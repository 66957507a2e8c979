"""The explanation of a plan: its fields, its text, and that it costs nothing."""

import re
import sys
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scenarios import Draw
from test_errors import raises

import nablax
from nablax import errors
from nablax._types import WANTS
from nablax.strategies import BUILT_IN

A, C, D, H = 2, 3, 6, 5
draw = Draw("test_explain")
W, V, X = draw(H, C), draw(A, H), draw(D, C)


def model(params, x):
    return params[1] @ jnp.tanh(params[0] @ x)


def recurrent(W, x):
    state, _ = jax.lax.scan(lambda h, _: (jnp.sin(h) * h, None), W @ x, length=7)
    return jnp.cumprod(state)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Layer:
    weight: jax.Array

    def __call__(self, x):
        return jnp.tanh(self.weight @ x)


def test_the_fields():
    found = nablax.explain(model, "hessian", "value")((W, V), X)
    assert (found.outputs, found.inputs, found.samples, found.wants) == (A, C, D, ("hessian", "value"))
    assert (found.chunk_size, found.chunks) == (D, 1)
    assert [c.name for c in found.candidates] == [s.name for s in BUILT_IN]
    chosen = next(c for c in found.candidates if c.name == found.strategy)
    assert chosen.work == min(c.work for c in found.candidates if c.work)
    assert chosen.working_set == found.working_set > 0
    assert found.reason.startswith("least work for A=2, C=3")
    assert found.fastest is None
    reverse = next(c for c in found.candidates if c.name == "reverse")
    assert "order 0 to 1" in reverse.why_not
    assert reverse.work is reverse.working_set is reverse.chunk_size is None
    assert [(n.kind, n.shape, n.count) for n in found.nodes] == [
        ("linear", (H,), 1),
        ("elementwise", (H,), 1),
        ("linear", (A,), 1),
    ]
    assert found.opaque == ()


def test_nodes_in_a_loop_and_opaque_ones():
    found = nablax.explain(recurrent, "laplacian")(W, X)
    inside = [n for n in found.nodes if n.steps == 7]
    assert {name for n in inside for name in n.primitives} == {"sin", "mul"}
    ((opaque,), line) = found.opaque, recurrent.__code__.co_firstlineno + 2
    assert (opaque.primitive, opaque.count, opaque.lines) == ("cumprod", 1, (f"test_explain.py:{line}",))
    text = str(found)
    assert "exact" in text
    assert f"test_explain.py:{line}" in text
    assert re.search(r"elementwise +sin.* +\[5\] +1 +7", text)


def test_nodes_that_look_the_same_are_counted():
    def deep(W, x):
        h = W @ x
        for _ in range(9):
            h = jnp.flip(jnp.tanh(h))
        return h

    found = nablax.explain(deep, "jacobian")(W, X)
    assert next(n.count for n in found.nodes if n.primitives == ("tanh",)) == 9
    assert "curved nodes: 9 elementwise" in str(found)


def test_the_text_fits_a_terminal():
    many = lambda W, x: sum(jnp.sin(jnp.cumprod(W @ x)[:k]).sum() for k in range(1, H + 1)) + jnp.sort(x**3)[0]
    for explained in (
        nablax.explain(recurrent, *WANTS[:5])(W, X),
        nablax.explain(many, "hessian", measure=True)(W, X),
        nablax.explain(lambda x: jnp.sort(x * jnp.stack([x] * 30).sum(0)), "divergence")(X),
    ):
        text = str(explained)
        assert max(map(len, text.splitlines())) <= 110
        assert text.startswith("problem ")
        assert f"\nplan      {explained.strategy}, 1 chunk of {D} samples" in text


def test_too_many_nodes_for_a_screen():
    growing = lambda x: sum(jnp.sin(jnp.concatenate([x] * k)).sum() for k in range(1, 30))
    found = nablax.explain(growing, "laplacian")(X)
    assert len(found.nodes) > 40
    assert re.search(r"\.\. and \d+ more kinds of nodes, see \.nodes", str(found))


def test_notebooks_get_tables():
    page = nablax.explain(recurrent, "hessian")(W, X)._repr_html_()
    assert page.count("<table>") == page.count("</table>") == 4
    assert "<td>cumprod</td>" in page
    assert "<td>chosen</td>" in page


@pytest.mark.parametrize("want", WANTS)
def test_every_want(want):
    found = nablax.explain(lambda x: jnp.sin(x) * x, want)(X)
    assert found.wants == (want,)
    assert found.strategy in {s.name for s in BUILT_IN}


def test_it_says_what_the_transform_does():
    """The strategy of the explanation is the program that runs."""
    for want in ("jacobian", "hessian", "laplacian"):
        found = nablax.explain(model, want)((W, V), X)
        auto, named = (
            jax.jit(getattr(nablax, want)(model, strategy=name)).lower((W, V), X).as_text()
            for name in ("auto", found.strategy)
        )
        assert auto == named


def test_trees_axes_and_aux():
    def pair(params, x, shift):
        return {"sum": x["u"].sum() * x["v"], "phase": jnp.exp(1j * x["v"]) + shift}, x["u"]

    at = {"u": draw(4, D), "v": draw(2, D)}
    found = nablax.explain(pair, "jacobian", "hessian", in_axes=(None, 1), out_axes=-1, has_aux=True, chunk_size=4)(
        None, at, 1.0
    )
    assert (found.outputs, found.inputs, found.samples, found.chunk_size, found.chunks) == (4, 6, D, 3, 2)


def test_a_callable_tree():
    found = nablax.explain(Layer(W), "hessian", measure=True)(X)
    assert (found.outputs, found.inputs) == (H, C)
    assert found.fastest.seconds > 0


def test_shapes_are_enough_and_nothing_is_computed():
    shapes = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), (W, V))
    found = nablax.explain(model, "hessian")(shapes, jax.ShapeDtypeStruct((10**9, C), "float64"))
    assert found.samples == 10**9
    assert found.chunks * found.chunk_size >= 10**9


def test_inside_of_jit():
    seen = []

    def loss(W):
        seen.append(nablax.explain(lambda x: jnp.tanh(W @ x), "laplacian")(X))
        return W.sum()

    jax.jit(loss)(W)
    assert seen[0].outputs == H


def test_measured():
    found = nablax.explain(model, "laplacian", measure=True)((W, V), X)
    able = [c for c in found.candidates if c.why_not is None]
    assert len(able) == 5
    assert all(c.seconds > 0 for c in able)
    assert found.fastest.seconds == min(c.seconds for c in able)
    assert str(found).count("fastest") == 1
    assert found.reason.startswith("least work")


def test_a_strategy_that_was_asked_for():
    found = nablax.explain(model, "hessian", strategy="reverse_over_reverse")((W, V), X)
    assert (found.strategy, found.reason) == ("reverse_over_reverse", "asked for")


def test_measuring_needs_values():
    shape = jax.ShapeDtypeStruct((D, C), "float64")
    with raises(errors.OptionError, "measure=True needs values", "leave measure out"):
        nablax.explain(model, "hessian", measure=True)((W, V), shape)
    with raises(errors.OptionError, "traced by an enclosing transformation"):
        jax.jit(lambda W: nablax.explain(lambda x: W @ x, "jacobian", measure=True)(X).outputs)(W)


def test_what_it_does_not_accept():
    with raises(errors.OptionError, "explain was asked for nothing"):
        nablax.explain(model)
    with raises(errors.OptionError, "explain was asked for 'gradient'", "jacobian"):
        nablax.explain(model, "gradient")
    with raises(errors.OptionError, "explain was given an array as its model"):
        nablax.explain(W, "hessian")
    with raises(errors.InputTypeError, "argument 0['name'] is a str"):
        nablax.explain(model, "hessian")({"name": "tanh"}, X)
    with raises(errors.StrategyError, "'reverse' cannot serve this call"):
        nablax.explain(model, "hessian", strategy="reverse")((W, V), X)


def test_what_a_session_shows_is_short():
    """Everything that is looked at by typing its name."""
    M, X = jnp.ones((2, 4)), jnp.linspace(0.0, 1.0, 32).reshape(8, 4)
    model = lambda M, x: jnp.tanh(M @ x)
    O = nablax.parameter_jacobian(model)(M, X)
    shown = {
        "plan ": nablax.explain(model, "hessian")(M, X),
        "nablax.check: ": nablax.check(model, "jacobian")(M, X),
        "ParameterJacobian of 8 samples": O,
        "adjoint of ParameterJacobian of 8 samples": O.T,
        f"{len(nablax.default_table.elementwise)} elementwise": nablax.default_table,
    }
    for words, thing in shown.items():
        assert words in repr(thing)
        assert len(repr(thing).splitlines()) <= 25
        assert str(thing) == repr(thing)


def test_smaller_chunks_of_gradients_are_told():
    """Eight layers that a gradient keeps, of which values need two at a time."""
    W, X = jnp.ones((64, 64), jnp.float32), jnp.ones((20_000, 64), jnp.float32)

    def model(W, x):
        for _ in range(8):
            x = jnp.tanh(W @ x)
        return x[0]

    found = nablax.explain(model, "jacobian")(W, X)
    assert 0 < found.gradient_chunk_size < found.chunk_size
    assert f"({found.gradient_chunk_size} where it is differentiated)" in str(found)
    fixed = nablax.explain(model, "jacobian", chunk_size=500)(W, X)
    assert (fixed.chunk_size, fixed.gradient_chunk_size) == (500, 500)
    assert "where it is differentiated" not in str(fixed)


def test_a_gradient_may_go_another_way():
    """Where both sweeps take the same passes, the one that multiplies fewer entries is differentiated with less work;
    its values and gradients are those of the other.
    """
    weights, X = (draw(8, 2), draw(2, 8)), draw(30, 2)

    def model(weights, x):
        for W in weights:
            x = jnp.tanh(W @ x)
        return x

    D2 = nablax.hessian_diagonal(model)
    found = nablax.explain(model, "hessian_diagonal")(weights, X)
    assert {found.strategy, found.gradient_strategy} == {"forward", "adjoint"}, str(found)
    assert f"({found.gradient_strategy}, {found.gradient_chunk_size} where it is differentiated)" in str(found)
    by_name = {name: nablax.hessian_diagonal(model, strategy=name) for name in ("forward", "adjoint")}
    assert nablax.explain(model, "hessian_diagonal", strategy="forward")(weights, X).gradient_strategy == "forward"
    single = nablax.explain(model, "hessian_diagonal")(weights, X[:1])
    assert single.strategy == single.gradient_strategy == found.strategy
    loss = lambda f: lambda weights: jnp.sum(f(weights, X) ** 2)
    gradients = {name: jax.grad(loss(f))(weights) for name, f in {**by_name, "auto": D2}.items()}
    for ours, same in zip(gradients["auto"], gradients[found.gradient_strategy], strict=True):
        np.testing.assert_array_equal(ours, same)
    for ours, near in zip(gradients["auto"], gradients[found.strategy], strict=True):
        np.testing.assert_allclose(ours, near, rtol=1e-10, atol=1e-10)


def test_a_gradient_keeps_every_step_of_a_loop():
    """Values go forward through a loop and keep nothing; a gradient keeps all, whichever sweep it goes through."""
    W, X = draw(48, 48) / 8, draw(20, 8)

    def model(W, x):
        return W[:2] @ jax.lax.scan(lambda h, a: (jnp.tanh(W @ h + a), None), jnp.ones(48), x)[0]

    found = nablax.explain(model, "hessian_diagonal")(W, X)
    assert (found.strategy, found.gradient_strategy) == ("forward", "adjoint")
    loss = lambda f: lambda W: jnp.sum(f(W, X) ** 2)
    ours = jax.grad(loss(nablax.hessian_diagonal(model)))(W)
    plain = jax.vmap(lambda W, x: jnp.diagonal(jax.hessian(model, 1)(W, x), axis1=1, axis2=2), (None, 0))
    np.testing.assert_allclose(ours, jax.grad(loss(plain))(W), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    "more, chosen, said", [(1.01, "forward", "about the least work"), (1.1, "adjoint", "least work")]
)
def test_of_plans_of_equal_work_the_one_that_holds_least(monkeypatch, more, chosen, said):
    planning = sys.modules["nablax.planning.choose"]  # the package has the function of that name
    monkeypatch.setattr(
        planning, "work", lambda strategy, *_, **__: {"adjoint": 1.0, "forward": more}.get(strategy.name, 9.0)
    )
    monkeypatch.setattr(planning, "working_set", lambda _, strategy: {"forward": 8.0}.get(strategy.name, 16.0))
    found = nablax.explain(lambda x: jnp.sum(jnp.sin(x) ** 2), "hessian")(jnp.ones((4, 3)))
    assert found.strategy == chosen
    assert found.reason.startswith(said)
