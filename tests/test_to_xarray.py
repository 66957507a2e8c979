"""Results with named axes: what xarray selects by name is what stands there by number."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray

import nablax
from nablax import errors, store

D, A, C = 5, 2, 3
INPUTS, OUTPUTS = ["age", "dose", "weight"], ["risk", "cost"]


@pytest.fixture
def arguments():
    keys = jax.random.split(jax.random.key(3), 2)
    return jax.random.normal(keys[0], (A, C)), jax.random.normal(keys[1], (D, C))


def model(M, x):
    return jnp.tanh(M @ x)


def test_names_select_what_numbers_do(arguments):
    found = nablax.derivatives(model, "value", "jacobian", "hessian", "hessian_diagonal", "laplacian")(*arguments)
    data = nablax.to_xarray(found, names={"input": INPUTS, "output": OUTPUTS, "sample": range(10, 10 + D)})
    assert {name: data[name].dims for name in data} == {
        "value": ("sample", "output"),
        "jacobian": ("sample", "output", "input"),
        "hessian": ("sample", "output", "input", "input_2"),
        "hessian_diagonal": ("sample", "output", "input"),
        "laplacian": ("sample", "output"),
    }
    here = data.sel(sample=12, output="cost", input="weight")
    np.testing.assert_array_equal(here.jacobian, found["jacobian"][2, 1, 2])
    np.testing.assert_array_equal(here.hessian.sel(input_2="age"), found["hessian"][2, 1, 2, 0])
    assert data.jacobian.attrs["long_name"] == "dy/dx"


def test_names_are_those_of_a_store(arguments, tmp_path):
    wants = ["jacobian", "hessian", "divergence", "parameter_jacobian", "squared_norms", "gram"]
    square = lambda M, x: jnp.tanh(M.T @ (M @ x))
    M, X = arguments
    store.run(square, wants, np.asarray(X), tmp_path / "d.zarr", params=M, feature_names=INPUTS, output_names=INPUTS)
    stored = xarray.open_zarr(tmp_path / "d.zarr")
    O = nablax.parameter_jacobian(square)(M, X)
    found = nablax.derivatives(square, "jacobian", "hessian", "divergence")(M, X)
    found |= {"parameter_jacobian": O.dense(), "squared_norms": O.squared_norms(), "gram": O.gram()}
    data = nablax.to_xarray(found, names={"input": INPUTS, "output": INPUTS})
    assert {name: data[name].dims for name in data} == {name: stored[name].dims for name in stored}
    for axis in ("input", "input_2", "output"):
        assert list(data[axis].values) == list(stored[axis].values)
    for name in data:
        np.testing.assert_allclose(data[name], stored[name], atol=1e-12)


def test_matrices_scalars_and_samples_last():
    X = jnp.arange(D * 2 * C, dtype=float).reshape(D, 2, C) / 10
    energy = lambda x: jnp.sum(jnp.sin(x))
    data = nablax.to_xarray({"hessian": nablax.hessian(energy)(X)}, input_rank=2)
    assert data.hessian.dims == ("sample", "input0", "input1", "input0_2", "input1_2")
    last = nablax.jacobian(jnp.sin, in_axes=-1, out_axes=-1)(X[:, 0].T)
    data = nablax.to_xarray({"jacobian": last}, names={"input": INPUTS}, out_axes=-1)
    assert data.jacobian.dims == ("output", "input", "sample")
    np.testing.assert_allclose(data.jacobian.sel(input="dose").isel(output=1), np.cos(X[:, 0, 1]))
    number = nablax.derivatives(jnp.sin, "value", "jacobian")(X[:, 0, 0])
    assert nablax.to_xarray(number, input_rank=0).jacobian.dims == ("sample",)


def test_partial_derivatives_by_name():
    T = jnp.ones((D, 2))
    u = nablax.partials(lambda x: jnp.sin(x[1] - 2 * x[0]), coordinates="t x", of="u u_tt u_xx")(T)
    data = nablax.to_xarray(u)
    assert data.u_tt.dims == ("sample",)
    np.testing.assert_allclose(data.u_tt, 4 * data.u_xx)


def test_parameters_are_called_by_their_paths():
    params = {"layers": [{"w": jnp.ones((2, 3)) + 0j}, {"b": jnp.ones(())}]}
    f = lambda params, x: jnp.abs(params["layers"][0]["w"] @ x) ** 2 + params["layers"][1]["b"]
    O = nablax.parameter_jacobian(f)(params, jnp.ones((4, 3)))
    data = nablax.to_xarray({"parameter_jacobian": O})
    assert data.sizes == {"sample": 4, "output": 2, "parameter": 13}
    assert list(data.parameter.values[[0, 5, 6, 12]]) == [
        "re layers/0/w[0,0]",
        "re layers/0/w[1,2]",
        "im layers/0/w[0,0]",
        "layers/1/b",
    ]
    np.testing.assert_allclose(data.parameter_jacobian.sel(parameter="layers/1/b"), 1.0)
    np.testing.assert_allclose(data.parameter_jacobian.sel(parameter="re layers/0/w[1,0]", output=1), 6.0)
    bare = nablax.parameter_jacobian(lambda M, x: M @ x)(jnp.ones((2, 3)), jnp.ones((4, 3)))
    assert bare.parameter_names[-1] == "p[1,2]"
    assert len(bare.parameter_names) == bare.shape[-1]


def test_arrays_are_not_copied(arguments):
    J = np.asarray(nablax.jacobian(model)(*arguments))
    assert np.shares_memory(nablax.to_xarray({"jacobian": J}).jacobian.values, J)


@pytest.mark.parametrize(
    "results, options, error, message",
    [
        (np.ones((D, A)), {}, errors.InputTypeError, "an array; give a dict"),
        ({}, {}, errors.InputTypeError, "a dict; give a dict"),
        ({"jacobian": {"t": np.ones(D)}}, {}, errors.InputTypeError, "'jacobian' is a dict"),
        ({"jacobain": np.ones((D, C))}, {}, errors.OptionError, "did you mean 'jacobian'"),
        ({"u": np.ones((D, A, C))}, {}, errors.OptionError, r"\(5, 2, 3\), which does not fit"),
        ({"hessian": np.ones((C, C))}, {}, errors.OptionError, "does not fit the axes sample, input, input_2"),
        ({"value": np.ones(())}, {}, errors.OptionError, "does not fit"),
        ({"gram": np.ones((D, A, D))}, {}, errors.OptionError, "does not fit"),
        ({"value": np.ones(D), "u": np.ones(6)}, {}, errors.OptionError, "sample has 5 places in 'value' and 6"),
        ({"value": np.ones(D)}, {"names": {"input": "ab"}}, errors.OptionError, "the results have sample"),
        ({"value": np.ones(D)}, {"names": {"sample": "ab"}}, errors.OptionError, "has 2 names, and the axis has 5"),
        ({"value": np.ones(D)}, {"input_rank": -1}, errors.OptionError, "input_rank=-1"),
        ({"value": np.ones(D)}, {"out_axes": 1}, errors.OptionError, "out_axes=1"),
    ],
)
def test_what_does_not_fit_is_an_error(results, options, error, message):
    with pytest.raises(error, match=message):
        nablax.to_xarray(results, **options)
