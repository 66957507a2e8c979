"""Every error by its text: what was given, what was expected, what to do."""

import builtins
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scenarios import Draw

import nablax
from nablax import errors
from nablax.strategies import BUILT_IN
from nablax.strategies.nested import refused_by_jax

A, C, D = 2, 3, 5
draw = Draw("test_errors")
M, X = draw(A, C), draw(D, C)


def model(p, x):
    return jnp.tanh(p @ x)


def raises(kind, *fragments):
    """The context in which an error of exactly this class is raised whose text holds all fragments (plain text)."""
    pattern = "".join(f"(?=.*{re.escape(fragment)})" for fragment in fragments)
    return pytest.raises(kind, match=f"(?s){pattern}")


BUILTINS = {
    "OptionError": ValueError,
    "AxesError": ValueError,
    "BatchSizeError": ValueError,
    "InputTypeError": TypeError,
    "OutputTypeError": TypeError,
    "ModelTraceError": RuntimeError,
    "CoupledSamplesError": ValueError,
    "StrategyError": ValueError,
    "MemoryBudgetError": ValueError,
    "BackendError": RuntimeError,
    "HolomorphyError": ValueError,
    "CheckFailedError": AssertionError,
    "DataError": ValueError,
    "NonFiniteError": ArithmeticError,
}


@pytest.mark.parametrize("name", BUILTINS)
def test_every_error_is_ours_and_a_builtin(name):
    kind = getattr(errors, name)
    assert issubclass(kind, nablax.NablaxError)
    assert issubclass(kind, BUILTINS[name])
    assert kind.__doc__


def test_no_error_is_missing_here():
    ours = {name for name, value in vars(errors).items() if isinstance(value, type) and issubclass(value, Exception)}
    assert {name for name in ours if not issubclass(getattr(errors, name), Warning)} == {*BUILTINS, "NablaxError"}
    assert not ours & set(dir(builtins))


class TestBackend:
    """jaxlib 0.10.2 drops terms of sums on a CPU (jax issue 39103)."""

    def test_a_jaxlib_that_computes_wrong_sums_is_refused(self, monkeypatch):
        monkeypatch.setattr("jaxlib.__version__", "0.10.2")
        monkeypatch.delenv("XLA_FLAGS", raising=False)
        with raises(errors.BackendError, "0.10.2", "39103", "pip install", "xla_cpu_experimental_ynn_fusion_type"):
            nablax.jacobian(lambda p, x: jnp.tanh(p @ x))(M, X)

    def test_it_serves_where_the_faulty_optimisation_is_off(self, monkeypatch):
        monkeypatch.setattr("jaxlib.__version__", "0.10.2")
        monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_experimental_ynn_fusion_type=")
        assert nablax.jacobian(lambda p, x: jnp.tanh(p @ x))(M, X).shape == (D, A, C)

    def test_this_one_sums_right(self):
        """The case of the report; where it fails, the installed jaxlib must not be used at all."""
        i = jnp.arange(16_385.0)
        rows = jnp.stack((i, 0 * i, 0 * i), axis=1)
        sums = jax.jit(jax.vmap(lambda row: jnp.sum((jnp.eye(3) @ row) ** 2)))(rows)
        np.testing.assert_array_equal(sums, i**2)


class TestOptions:
    def test_unknown_strategy(self):
        with raises(errors.OptionError, "'backward'", "auto", "forward_over_reverse", "reverse_over_reverse"):
            nablax.hessian(model, strategy="backward")(M, X)

    @pytest.mark.parametrize("size", [0, -3, 2.5, "large", True])
    def test_chunk_size(self, size):
        with raises(errors.OptionError, f"chunk_size={size!r}", "positive int", "auto", "None"):
            nablax.hessian(model, chunk_size=size)(M, X)

    def test_numpy_integers_are_integers(self):
        assert nablax.hessian(model, chunk_size=np.int64(2), wrt=np.int64(1))(M, X).shape == (D, A, C, C)

    @pytest.mark.parametrize("wrt", [2, -3])
    def test_wrt_out_of_range(self, wrt):
        with raises(errors.OptionError, f"wrt={wrt}", "2", "0 to 1"):
            nablax.hessian(model, wrt=wrt)(M, X)

    @pytest.mark.parametrize("wrt", ["x", 1.0, (0, 1), True])
    def test_wrt_that_is_no_number(self, wrt):
        with raises(errors.OptionError, f"wrt={wrt!r}", "number of one argument"):
            nablax.hessian(model, wrt=wrt)(M, X)

    def test_unknown_want(self):
        with raises(errors.OptionError, "'curl'", "value", "hessian_diagonal", "divergence"):
            nablax.derivatives(model, "value", "curl")(M, X)

    def test_no_want(self):
        with raises(errors.OptionError, "value", "laplacian"):
            nablax.derivatives(model)(M, X)

    def test_model_that_is_no_function(self):
        with raises(errors.OptionError, "hessian", "an array", "function of one sample"):
            nablax.hessian(np.ones(3))(M, X)

    def test_model_that_is_a_class(self):
        class Network:
            pass

        with raises(errors.OptionError, "class Network", "function of one sample"):
            nablax.hessian(Network)(M, X)

    @pytest.mark.parametrize("shape", [(C + 1,), (C, C + 1), (1, C, C), (0,)])
    def test_weights_of_a_wrong_shape(self, shape):
        with raises(errors.OptionError, f"weights has shape {shape}", f"({C},)", f"({C}, {C})"):
            nablax.laplacian(model, weights=jnp.ones(shape))(M, X)

    def test_complex_weights(self):
        with raises(errors.OptionError, "weights", "complex", "real"):
            nablax.laplacian(model, weights=1j)(M, X)

    def test_weights_that_are_no_array(self):
        with raises(errors.NablaxError, "weights", "str"):
            nablax.laplacian(model, weights="identity")(M, X)

    def test_weights_of_strange_dtype(self):
        with raises(errors.NablaxError, "weights"):
            nablax.laplacian(model, weights=np.array([None, 1.0, 2.0]))(M, X)


class TestAxes:
    def test_nothing_batched(self):
        with raises(errors.AxesError, "in_axes=(None, None)", "nothing", "in_axes=(None, 0)"):
            nablax.hessian(model, in_axes=(None, None))(M, X)

    def test_axis_beyond_the_rank(self):
        with raises(errors.AxesError, "axis 2", "argument 1", f"({D}, {C})", "-2 to 1"):
            nablax.hessian(model, in_axes=(None, 2))(M, X)

    def test_number_in_place_of_a_batch(self):
        with raises(errors.AxesError, "axis 0", "argument 1", "single number"):
            nablax.hessian(lambda p, x: x**2)(M, 3.0)

    def test_more_axes_than_arguments(self):
        with raises(errors.AxesError, "in_axes=(None, 0, 0)", "3", "2 argument"):
            nablax.hessian(model, in_axes=(None, 0, 0))(M, X)

    @pytest.mark.parametrize("entry", ["0", 0.0, True])
    def test_entry_that_is_no_axis(self, entry):
        with raises(errors.AxesError, "argument 1", repr(entry), "int or None"):
            nablax.hessian(model, in_axes=(None, entry))(M, X)

    def test_tree_of_axes_that_does_not_fit(self):
        with raises(errors.AxesError, "argument 1", "structure", "prefix"):
            nablax.hessian(model, in_axes=(None, {"a": 0}))(M, X)

    @pytest.mark.parametrize("in_axes", ["0", 1.5, True, {0: 1}])
    def test_in_axes_of_a_wrong_type(self, in_axes):
        with raises(errors.NablaxError, f"in_axes={in_axes!r}", "tuple"):
            nablax.hessian(model, in_axes=in_axes)(M, X)

    def test_no_out_axis(self):
        with raises(errors.AxesError, "out_axes=None", "int"):
            nablax.hessian(model, out_axes=None)(M, X)

    @pytest.mark.parametrize("out_axes", [4, -5, "last"])
    def test_out_axes(self, out_axes):
        with raises(errors.AxesError, "out_axes", repr(out_axes), f"({D}, {A}, {C}, {C})", "-4 to 3"):
            nablax.hessian(model, out_axes=out_axes)(M, X)

    def test_tree_of_out_axes_that_does_not_fit(self):
        with raises(errors.AxesError, "out_axes", "structure", "prefix"):
            nablax.derivatives(model, "value", "jacobian", out_axes={"value": 0})(M, X)

    def test_no_arguments(self):
        with raises(errors.AxesError, "without arguments", "f(params, X)"):
            nablax.hessian(model)()

    def test_transposed_batch(self):
        """The forum's layout without saying so: the model fails, and the message suggests in_axes."""
        with raises(errors.ModelTraceError, "ONE sample", "in_axes", "argument 1", f"[{D}]"):
            nablax.hessian(model)(M, X.T)


class TestBatchSize:
    def test_arguments_that_disagree(self):
        with raises(errors.BatchSizeError, "disagree", "argument 1", f"{D}", "argument 2", "4", "None in in_axes"):
            nablax.hessian(lambda p, x, t: model(p, x) * t, in_axes=(None, 0, 0))(M, X, jnp.ones(4))

    def test_leaves_that_disagree(self):
        tree = {"a": X, "b": X[:4]}
        with raises(errors.BatchSizeError, "['a']", "['b']", "5", "4"):
            nablax.hessian(lambda x: x["a"] + x["b"])(tree)

    def test_zero_samples(self):
        with raises(errors.BatchSizeError, "argument 1", "zero samples", "at least one"):
            nablax.hessian(model)(M, X[:0])


class TestInputs:
    @pytest.mark.parametrize("dtype", [jnp.int32, jnp.uint8, jnp.bool_])
    def test_integers(self, dtype):
        with raises(errors.InputTypeError, "argument 1", np.dtype(dtype).name, "astype(jnp.float32)", "wrt"):
            nablax.hessian(model)(M, jnp.ones((D, C), dtype))

    def test_python_integers(self):
        with raises(errors.InputTypeError, "argument 0", "int", "astype"):
            nablax.jacobian(lambda p, x: p * x, wrt=0)(3, X)

    def test_complex_input(self):
        with raises(errors.InputTypeError, "argument 1", "complex", "real and imaginary parts"):
            nablax.hessian(model)(M, X + 0j)

    def test_the_leaf_is_named(self):
        tree = {"position": X, "species": jnp.ones((D, C), int)}
        with raises(errors.InputTypeError, "argument 0['species']", "int"):
            nablax.hessian(lambda x: x["position"])(tree)

    @pytest.mark.parametrize("leaf", ["relu", object(), model], ids=["str", "object", "function"])
    def test_leaf_that_is_no_array(self, leaf):
        with raises(errors.InputTypeError, "argument 0['activation']", type(leaf).__name__, "functools.partial"):
            nablax.hessian(lambda p, x: p["M"] @ x)({"M": M, "activation": leaf}, X)

    def test_objects_in_an_array(self):
        with raises(errors.InputTypeError, "argument 1"):
            nablax.hessian(model)(M, np.array([["a"] * C] * D, dtype=object))

    def test_text_in_an_array(self):
        with raises(errors.InputTypeError, "argument 1"):
            nablax.hessian(model)(M, np.array([["a"] * C] * D))

    def test_samples_without_entries(self):
        with raises(errors.InputTypeError, "argument 1", "no entries"):
            nablax.hessian(lambda p, x: jnp.sum(x))(M, jnp.ones((D, 0)))

    def test_empty_tree(self):
        with raises(errors.NablaxError, "argument 1"):
            nablax.hessian(lambda p, x: p, in_axes=(0, 0))(X, {})

    def test_numpy_dates(self):
        with raises(errors.InputTypeError, "argument 1"):
            nablax.hessian(model)(M, np.zeros((D, C), "datetime64[s]"))

    def test_random_key_as_input(self):
        with raises(errors.InputTypeError, "argument 0", "key"):
            nablax.hessian(lambda k: jax.random.normal(k))(jax.random.split(jax.random.key(0), D))


class TestOutputs:
    def test_integer_output(self):
        with raises(errors.OutputTypeError, "output", "int", "aux", "has_aux=True"):
            nablax.hessian(lambda p, x: jnp.argmax(x))(M, X)

    def test_integer_leaf_is_named(self):
        with raises(errors.OutputTypeError, "['label']", "int", "has_aux=True"):
            nablax.hessian(lambda p, x: {"y": x, "label": jnp.argmax(x)})(M, X)

    @pytest.mark.parametrize("output", [None, (), {}])
    def test_nothing(self, output):
        with raises(errors.OutputTypeError, repr(output), "no array"):
            nablax.hessian(lambda p, x: output)(M, X)

    def test_text(self):
        with raises(errors.OutputTypeError, "output", "str"):
            nablax.hessian(lambda p, x: "y")(M, X)

    def test_empty_array(self):
        with raises(errors.OutputTypeError, "without entries"):
            nablax.hessian(lambda p, x: x[:0])(M, X)

    @pytest.mark.parametrize(
        "output, named",
        [(lambda x: x, "an array"), (lambda x: [x, x], "a list"), (lambda x: (x, x, x), "a tuple")],
        ids=["array", "list", "triple"],
    )
    def test_aux_that_is_no_pair(self, output, named):
        with raises(errors.OutputTypeError, "has_aux=True", "pair (y, aux)", named):
            nablax.hessian(lambda p, x: output(x), has_aux=True)(M, X)

    def test_aux_that_is_no_array(self):
        with raises(errors.OutputTypeError, "aux", "str"):
            nablax.hessian(lambda p, x: (x, {"name": "y"}), has_aux=True)(M, X)

    def test_divergence_of_another_shape(self):
        with raises(errors.OutputTypeError, "divergence", f"({C},)", f"({A},)", "laplacian"):
            nablax.divergence(model)(M, X)
        with raises(errors.OutputTypeError, "divergence", f"({C},)", f"({A},)"):
            nablax.derivatives(model, "value", "divergence")(M, X)

    def test_divergence_of_another_tree(self):
        with raises(errors.OutputTypeError, "divergence"):
            nablax.divergence(lambda x: {"a": x["b"], "b": x["a"]})({"a": X, "b": X[:, 0]})


class TestModel:
    def test_exception_in_the_model_is_chained(self):
        def broken(p, x):
            raise KeyError("weights")

        with raises(errors.ModelTraceError, "KeyError", "weights", "float64[3]", "in_axes") as caught:
            nablax.hessian(broken)(M, X)
        assert isinstance(caught.value.__cause__, KeyError)

    def test_python_branch_on_a_traced_value(self):
        with raises(errors.ModelTraceError, "TracerBoolConversionError", "traced"):
            nablax.hessian(lambda p, x: x if x[0] > 0 else -x)(M, X)

    def test_wrong_number_of_arguments(self):
        with raises(errors.ModelTraceError, "TypeError", "argument 0", "argument 1", "argument 2"):
            nablax.hessian(model)(M, X, 3.0)

    def test_error_of_nablax_inside_the_model_is_not_wrapped(self):
        inner = lambda p, x: nablax.hessian(model, strategy="forward_over_reverse", wrt=7)(p, x[None])
        with raises(errors.OptionError, "wrt=7"):
            nablax.jacobian(inner)(M, X)


@jax.custom_vjp
def _cubed(x):
    return x**3


_cubed.defvjp(lambda x: (_cubed(x), x), lambda x, g: (3 * x**2 * g,))


def _halved(x):
    return jax.lax.while_loop(lambda z: jnp.sum(z**2) > 1, lambda z: z / 2, x)


class TestStrategies:
    @pytest.mark.parametrize("strategy", ["forward_over_reverse", "forward_over_forward", "forward", "adjoint"])
    def test_custom_vjp_has_no_forward_mode(self, strategy):
        with raises(errors.StrategyError, strategy, "custom_vjp", "auto", "reverse_over_reverse"):
            nablax.hessian(lambda p, x: _cubed(p @ x), strategy=strategy)(M, X)

    @pytest.mark.parametrize("strategy", ["forward_over_reverse", "reverse_over_reverse", "adjoint"])
    def test_while_loop_has_no_reverse_mode(self, strategy):
        with raises(errors.StrategyError, strategy, "while_loop", "auto", "forward_over_forward"):
            nablax.hessian(lambda p, x: _halved(p @ x), strategy=strategy)(M, X)

    def test_first_order_too(self):
        with raises(errors.StrategyError, "forward", "custom_vjp", "reverse"):
            nablax.jacobian(lambda p, x: _cubed(p @ x), strategy="forward")(M, X)
        with raises(errors.StrategyError, "reverse", "while_loop", "forward"):
            nablax.jacobian(lambda p, x: _halved(p @ x), strategy="reverse")(M, X)

    def test_deep_inside_other_functions(self):
        deep = lambda p, x: jax.lax.scan(lambda z, _: (jax.jit(_cubed)(z), None), p @ x, None, length=2)[0]
        with raises(errors.StrategyError, "custom_vjp"):
            nablax.hessian(deep, strategy="forward_over_forward")(M, X)
        assert nablax.hessian(deep)(M, X).shape == (D, A, C, C)

    def test_none_can_serve(self):
        with raises(errors.StrategyError, "no strategy", "custom_vjp", "while_loop", "custom_jvp", "scan"):
            nablax.hessian(lambda p, x: _cubed(_halved(p @ x)))(M, X)

    def test_a_loop_over_constants_only_does_no_harm(self):
        """What does not depend on x is not differentiated."""
        f = lambda p, x: jnp.sin(_halved(_cubed(p[0])) * x)
        for strategy in ("forward_over_reverse", "reverse_over_reverse", "forward_over_forward"):
            assert nablax.hessian(f, strategy=strategy)(M, X).shape == (D, C, C, C)

    def test_reverse_is_of_first_order(self):
        with raises(errors.StrategyError, "reverse", "order"):
            nablax.hessian(model, strategy="reverse")(M, X)


class TestPartials:
    wave = staticmethod(lambda x: jnp.sin(x[0] - x[1]))
    XT = X[:, :2]

    def test_unknown_coordinate(self):
        with raises(errors.OptionError, "'u_y'", "t, x"):
            nablax.partials(self.wave, "t x", "u u_y")(self.XT)

    def test_ambiguous_name(self):
        with raises(errors.OptionError, "'u_xx'", "several ways", "separate"):
            nablax.partials(self.wave, "x xx", "u_xx")(self.XT)

    def test_order(self):
        with raises(errors.OptionError, "'u_xxxxx'", "order 5", "up to 4"):
            nablax.partials(self.wave, "t x", "u_xxxxx")(self.XT)

    @pytest.mark.parametrize("coordinates", ["", "t t", "t_0 x", ["t", 1], "t, x"])
    def test_coordinates_that_are_no_names(self, coordinates):
        with raises(errors.OptionError, "coordinates"):
            nablax.partials(self.wave, coordinates, "u")(self.XT)

    @pytest.mark.parametrize("of", ["", "u u", [None]])
    def test_of_that_is_no_names(self, of):
        with raises(errors.OptionError, "of="):
            nablax.partials(self.wave, "t x", of)(self.XT)

    def test_several_outputs_without_names(self):
        with raises(errors.OptionError, "u, v", 'outputs="u v"'):
            nablax.partials(self.wave, "t x", "u_x v_x")(self.XT)

    def test_unknown_output(self):
        with raises(errors.OptionError, "'w_x'", "'w'", "u, v"):
            nablax.partials(lambda x: x, "t x", "u_x w_x", outputs="u v")(self.XT)

    def test_number_of_coordinates(self):
        with raises(errors.OptionError, "3 coordinates", "(2,)", "(3,)"):
            nablax.partials(self.wave, "t x y", "u_t")(self.XT)

    def test_number_of_outputs(self):
        with raises(errors.OptionError, "3 outputs", "2 numbers"):
            nablax.partials(lambda x: x, "t x", "u_x", outputs="u v w")(self.XT)

    def test_input_that_is_no_vector(self):
        with raises(errors.OptionError, "coordinates", "vector"):
            nablax.partials(lambda x: jnp.sum(x), "t x", "u_t")(X[:, None, :2])

    def test_strategy_of_first_order(self):
        with raises(errors.StrategyError, "reverse", "order"):
            nablax.partials(self.wave, "t x", "u_xx", strategy="reverse")(self.XT)


class TestCheck:
    def test_unknown_want(self):
        with raises(errors.OptionError, "'curl'", "hessian"):
            nablax.check(model, "curl")(M, X)

    def test_no_want(self):
        with raises(errors.OptionError, "nothing", "hessian"):
            nablax.check(model)(M, X)

    @pytest.mark.parametrize("samples", [0, 1.5, True])
    def test_samples(self, samples):
        with raises(errors.OptionError, f"samples={samples!r}", "positive int"):
            nablax.check(model, "hessian", samples=samples)(M, X)


def test_messages_say_three_things():
    """A long enough text that ends as a sentence; the rest is tested above, one by one."""
    calls = [
        lambda: nablax.hessian(model, strategy="?")(M, X),
        lambda: nablax.hessian(model, in_axes=(None, None))(M, X),
        lambda: nablax.hessian(model)(M, X[:0]),
        lambda: nablax.hessian(model)(M, X.astype(int)),
        lambda: nablax.hessian(lambda p, x: None)(M, X),
        lambda: nablax.hessian(model)(M, X.T),
        lambda: nablax.hessian(lambda p, x: _cubed(x), strategy="forward_over_forward")(M, X),
    ]
    for call in calls:
        with pytest.raises(nablax.NablaxError) as caught:
            call()
        text = str(caught.value)
        assert len(text) > 60
        assert "\n" not in text
        assert "  " not in text


@pytest.mark.parametrize("name", ["forward_over_reverse", "reverse_over_reverse", "forward_over_forward"])
def test_jax_is_not_blamed_for_a_model_that_it_can_differentiate(name):
    """Complex outputs, and integers beside them, are no reason; a callback is."""
    strategy = next(strategy for strategy in BUILT_IN if strategy.name == name)
    served = lambda v: (jnp.exp(1j * v), (jnp.arange(3),))
    assert not refused_by_jax(served, jnp.ones(2), strategy, 2)
    refused = lambda v: (jax.pure_callback(np.sin, v, v), ())
    assert refused_by_jax(refused, jnp.ones(2), strategy, 2)
