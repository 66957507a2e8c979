"""Measured plans: remembered, kept on disk, the same numbers as the named strategy's."""

import json
import time
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scenarios import Draw

import nablax
from nablax.planning import autotune as module
from nablax.planning.autotune import FOLDER

A, C, D, H = 2, 3, 40, 5
draw = Draw("test_autotune")
W, V, X = draw(H, C), draw(A, H), draw(D, C)


def model(params, x):
    return params[1] @ jnp.tanh(params[0] @ x)


class Counter:
    """Counts what is timed, and can make a strategy win."""

    def __init__(self, timed):
        self.timed, self.names, self.winner = timed, [], None

    def __call__(self, able, build):
        self.names += [c.name for c in able]

        def favoured(candidate):
            run = build(candidate)
            return run if self.winner in (None, candidate.name) else lambda: (time.sleep(0.02), run())[1]

        return self.timed(able, favoured)


@pytest.fixture
def timed(monkeypatch):
    """Counts the measurements of a test, which starts with an empty memory and no folder."""
    monkeypatch.setattr(module, "_MEASURED", {})
    monkeypatch.setattr(module, "SECONDS", 0.0)
    monkeypatch.delenv(FOLDER, raising=False)
    counter = Counter(module.timed)
    monkeypatch.setattr(module, "timed", counter)
    return counter


def fresh():
    """The same model as a new function, which no compiled program is kept for."""
    return lambda params, x: model(params, x)


def tuned(want="hessian", **options):
    return getattr(nablax, want)(fresh(), strategy="autotune", **options)


def explained(want="hessian", **options):
    return nablax.explain(fresh(), want, strategy="autotune", **options)((W, V), X)


def test_measured_once(timed):
    timed.winner = "forward_over_forward"
    expected = nablax.hessian(model, strategy=timed.winner, chunk_size=None)((W, V), X)
    np.testing.assert_array_equal(tuned(chunk_size=None)((W, V), X), expected)
    assert timed.names == ["forward", "adjoint", "forward_over_reverse", "forward_over_forward", "reverse_over_reverse"]
    np.testing.assert_array_equal(tuned(chunk_size=None)((W, V), X), expected)
    assert len(timed.names) == 5
    found = explained(chunk_size=None)
    assert len(timed.names) == 5
    assert (found.strategy, found.fastest.name) == (timed.winner, timed.winner)
    assert found.reason.startswith("fastest of 5 measured: ")
    assert all((c.seconds is None) == (c.why_not is not None) for c in found.candidates)


def test_other_chunk_sizes_of_the_fastest(timed):
    timed.winner = "reverse_over_reverse"
    found = explained()
    assert timed.names[5:] == ["reverse_over_reverse"]
    assert {c.chunk_size for c in found.candidates if c.name == timed.winner} == {D, D // 4}
    assert "fastest of 6 measured" in found.reason
    assert sum(c is found.fastest for c in found.candidates) == str(found).count("chosen, fastest") == 1


def test_all_samples_at_once_are_tried_where_they_fit(timed):
    timed.winner = "forward"
    found = explained("laplacian", memory_budget="8KiB")
    sizes = {c.chunk_size for c in found.candidates if c.name == "forward"}
    assert D not in sizes
    assert len(sizes) == 2
    assert all(c.working_set <= 2**13 for c in found.candidates if c.why_not is None)


def test_what_the_speed_depends_on_is_measured_again(timed):
    tuned("jacobian", chunk_size=None)((W, V), X)
    count = len(timed.names)
    for again in (
        lambda: tuned("jacobian", chunk_size=None)((W, V), X[:-1]),
        lambda: tuned("jacobian", chunk_size=5)((W, V), X),
        lambda: tuned("hessian", chunk_size=None)((W, V), X),
        lambda: tuned("jacobian", chunk_size=None, in_axes=(None, 1))((W, V), X.T),
        lambda: nablax.jacobian(lambda p, x: jnp.sin(model(p, x)), strategy="autotune", chunk_size=None)((W, V), X),
    ):
        before = len(timed.names)
        again()
        assert len(timed.names) > before
    assert count == 5


def test_the_values_do_not_matter(timed):
    """The digest is of types: other parameters are no reason to measure again."""
    tuned("jacobian")((W, V), X)
    count = len(timed.names)
    tuned("jacobian")((2 * W, V), 3 * X)
    assert len(timed.names) == count


def test_under_jit_grad_and_vmap(timed):
    def loss(params, X, strategy):
        """The model captures traced parameters."""
        return (nablax.laplacian(lambda x: model(params, x), strategy=strategy)(X) ** 2).sum()

    expected = jax.grad(loss)((W, V), X, "forward")
    found = jax.jit(jax.grad(lambda params, X: loss(params, X, "autotune")))((W, V), X)
    count = len(timed.names)
    assert count >= 5
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10)
    stacked = jax.vmap(lambda X: tuned("laplacian")((W, V), X))(jnp.stack([X, 2 * X]))
    np.testing.assert_allclose(stacked[1], nablax.laplacian(model)((W, V), 2 * X), rtol=1e-10)


def test_on_disk(timed, monkeypatch, tmp_path):
    folder = tmp_path / "not yet" / "there"
    monkeypatch.setenv(FOLDER, str(folder))
    timed.winner = "adjoint"
    first = explained()
    count = len(timed.names)
    (file,) = folder.iterdir()
    assert file.suffix == ".json"
    assert {row["strategy"] for row in json.loads(file.read_text())} == set(timed.names)

    module._MEASURED.clear()
    again = explained()
    assert len(timed.names) == count
    assert again == first


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[",
        "[]",
        "{}",
        "null",
        '[{"strategy": "fastest", "chunk_size": null, "seconds": 1.0}]',
        '[{"strategy": "reverse", "chunk_size": null, "seconds": 1.0}]',
        '[{"strategy": "forward", "chunk_size": 0, "seconds": 1.0}]',
        '[{"strategy": "forward", "chunk_size": "all", "seconds": 1.0}]',
        '[{"strategy": "forward", "chunk_size": 2.5, "seconds": 1.0}]',
        '[{"strategy": "forward", "chunk_size": null, "seconds": "fast"}]',
        '[{"strategy": "forward", "chunk_size": null, "seconds": NaN}]',
        '[{"strategy": "forward", "seconds": 1.0}]',
    ],
)
def test_a_damaged_or_stale_file_is_measured_again(timed, monkeypatch, tmp_path, text):
    monkeypatch.setenv(FOLDER, str(tmp_path))
    monkeypatch.setattr(module, "digest", lambda problem, details: "key")
    monkeypatch.setattr(module, "timed", lambda able, build: [module.replace(c, seconds=0.5) for c in able])
    (tmp_path / "key.json").write_text(text)
    assert explained().fastest.seconds == 0.5
    assert json.loads((tmp_path / "key.json").read_text())[0]["seconds"] == 0.5
    assert len(list(tmp_path.iterdir())) == 1


def test_a_folder_that_cannot_be_written(timed, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(FOLDER, str(tmp_path / "file"))
    with pytest.warns(RuntimeWarning, match=f"{FOLDER}=.*file' cannot be written to"):
        assert "fastest" in explained("jacobian").reason


def test_the_digest_is_the_same_in_every_process(timed):
    """Printed graphs contain addresses of Python functions."""
    keys = []
    for _ in range(2):
        module._MEASURED.clear()
        activation = jax.custom_jvp(lambda x: jnp.tanh(x))
        activation.defjvp(lambda x, t: (jnp.tanh(x[0]), (1 - jnp.tanh(x[0]) ** 2) * t[0]))
        nablax.jacobian(lambda W, x, f=activation: f(W @ x), strategy="autotune", chunk_size=None)(W, X)
        keys += module._MEASURED
    assert keys[0] == keys[1]


def test_a_while_loop_is_not_run_on_made_up_numbers(timed):
    halved = lambda W, x: jax.lax.while_loop(lambda y: jnp.sum(y) > 10, lambda y: y / 2, jnp.tanh(W @ x))
    found = nablax.explain(halved, "hessian", strategy="autotune")(W, X)
    assert found.reason.startswith("not measured, as the model contains a while_loop")
    assert found.strategy == nablax.explain(halved, "hessian")(W, X).strategy
    assert timed.names == []


def test_no_choice_is_not_measured(timed):
    @jax.custom_vjp
    def own(x):
        return jnp.tanh(x)

    own.defvjp(lambda x: (jnp.tanh(x), x), lambda x, g: ((1 - jnp.tanh(x) ** 2) * g,))
    found = nablax.explain(lambda W, x: own(W @ x), "hessian", strategy="autotune")(W, X)
    assert found.reason.startswith("not measured, as there is no choice")
    assert (found.strategy, timed.names) == ("reverse_over_reverse", [])


@pytest.mark.parametrize("kind", [jax.errors.JaxRuntimeError, NotImplementedError])
def test_a_candidate_that_fails(timed, kind):
    def build(candidate):
        if candidate.name != "forward":
            raise kind("RESOURCE_EXHAUSTED: out of memory\nwhile allocating")
        return lambda: jnp.ones(3)

    found = timed.timed([module.Candidate("forward", 1.0, 1.0, 1), module.Candidate("adjoint", 1.0, 1.0, 1)], build)
    assert found[0].seconds >= 0
    assert (found[1].seconds, found[1].why_not) == (None, "it failed: RESOURCE_EXHAUSTED: out of memory")


def test_all_candidates_fail(timed, monkeypatch):
    monkeypatch.setattr(module, "timed", lambda able, build: [module.replace(c, why_not="it failed") for c in able])
    assert explained().reason.startswith("not measured, as every candidate failed; least work")


def test_a_hopeless_candidate_is_not_timed_again(monkeypatch):
    calls, now = {"forward": 0, "adjoint": 0}, [0.0]
    monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: now[0]))

    def build(candidate):
        def run():
            calls[candidate.name] += 1
            now[0] += 0.02 if candidate.name == "adjoint" else 0.001
            return jnp.ones(())

        return run

    module.timed([module.Candidate("forward", 1.0, 1.0, 1), module.Candidate("adjoint", 1.0, 1.0, 1)], build)
    assert calls["adjoint"] == 2  # compiling, and the first round
    assert calls["forward"] == 1 + module.MOST_ROUNDS


def test_arguments_of_every_type(timed):
    def noisy(params, x, key, steps, flag):
        z = params["z"] * jax.random.normal(key, ())
        return jnp.where(flag, jnp.sin(x) * z, x) * steps

    params = {"z": jnp.asarray(2.0 + 1j)}
    at = (params, X, jax.random.split(jax.random.key(3), D), jnp.arange(D), True)
    axes = (None, 0, 0, 0, None)
    found = nablax.hessian(noisy, strategy="autotune", in_axes=axes)(*at)
    np.testing.assert_allclose(found, nablax.hessian(noisy, in_axes=axes)(*at), rtol=1e-12, atol=1e-12)
    assert len(timed.names) >= 5


def test_partials_and_weights(timed):
    np.testing.assert_allclose(
        tuned("laplacian", weights=jnp.arange(3.0))((W, V), X),
        nablax.laplacian(model, weights=jnp.arange(3.0))((W, V), X),
        rtol=1e-12,
    )
    found = nablax.partials(fresh(), "x y z", "u_xy", strategy="autotune")((W, V), X)
    np.testing.assert_allclose(found["u_xy"], nablax.hessian(model)((W, V), X)[..., 0, 1], rtol=1e-12, atol=1e-12)
