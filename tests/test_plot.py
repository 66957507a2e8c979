"""Pictures, by what is drawn in them."""

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import pytest
from matplotlib import pyplot

import nablax
from nablax import errors, plot

matplotlib.use("Agg")
D, A, C, H = 7, 2, 3, 5
INPUTS, OUTPUTS = ["age", "dose", "a rather long name of an input"], ["risk", "cost"]


def network(params, x):
    return params[1] @ jnp.tanh(params[0] @ x)


@pytest.fixture(scope="module")
def case():
    keys = jax.random.split(jax.random.key(4), 3)
    params = jax.random.normal(keys[0], (H, C)), jax.random.normal(keys[1], (A, H))
    return params, jax.random.normal(keys[2], (D, C))


@pytest.fixture(autouse=True)
def no_figure_is_left():
    yield
    pyplot.close("all")


def image(ax):
    return np.asarray(ax.images[0].get_array())


def texts(labels):
    return [label.get_text() for label in labels]


def test_jacobian_draws_a_mean_or_one_sample(case):
    J = nablax.jacobian(network)(*case)
    ax = plot.jacobian(J, inputs=INPUTS, outputs=OUTPUTS)
    np.testing.assert_allclose(image(ax), np.abs(J).mean(0))
    assert texts(ax.get_xticklabels())[:2] == ["age", "dose"]
    assert texts(ax.get_xticklabels())[2] == "a rather…n input"
    assert texts(ax.get_yticklabels()) == OUTPUTS
    assert ax.get_title() == "mean |Jacobian| over 7 samples"
    one = plot.jacobian(J, sample=-1)
    np.testing.assert_allclose(image(one), J[-1])
    assert one.get_title() == "Jacobian of sample 6"
    low, high = one.images[0].get_clim()
    assert high == -low == np.abs(J[-1]).max()
    scalar = plot.jacobian(J[:, 0])
    np.testing.assert_allclose(image(scalar), np.abs(J[:, :1]).mean(0))


def test_it_draws_where_it_is_told_to(case):
    J = nablax.jacobian(network)(*case)
    figure, (left, right) = pyplot.subplots(1, 2)
    assert plot.jacobian(J, ax=left) is left
    assert plot.sensitivity(J, ax=right) is right
    assert pyplot.get_fignums() == [figure.number]


def test_hessians_of_outputs_stand_beside_each_other(case):
    found = nablax.hessian(network)(*case)
    axes = plot.hessian(found, inputs=INPUTS, outputs=OUTPUTS)
    for a, ax in enumerate(axes):
        np.testing.assert_allclose(image(ax), found[:, a].mean(0), atol=1e-12)
        assert ax.get_title().endswith(f"of output {OUTPUTS[a]}")
    one = plot.hessian(found, outputs=OUTPUTS, output="cost", sample=2)
    np.testing.assert_allclose(image(one), found[2, 1])
    assert plot.hessian(found[:, 0]).get_title() == "mean Hessian over 7 samples"
    _, ax = pyplot.subplots()
    with pytest.raises(errors.OptionError, match="2 outputs are too many for one picture, name one: 0 to 1"):
        plot.hessian(found, ax=ax)


def test_complex_numbers_are_drawn_by_their_modulus():
    J = np.arange(1, 13).reshape(2, 2, 3) * (3 + 4j)
    ax = plot.jacobian(J, sample=0)
    np.testing.assert_allclose(image(ax), 5 * np.arange(1, 7).reshape(2, 3))
    assert ax.get_title() == "|Jacobian| of sample 0"


def test_what_is_not_finite_is_left_out_and_counted(case):
    J = np.array(nablax.jacobian(network)(*case))
    J[0, 1, 2] = np.nan
    J[:, 0, 0] = np.inf
    ax = plot.jacobian(J)
    assert ax.get_title() == f"mean |Jacobian| over 7 samples\n{D + 1} not finite"
    drawn = np.ma.filled(np.ma.masked_invalid(image(ax)), np.nan)
    np.testing.assert_allclose(drawn[1, 2], np.abs(J[1:, 1, 2]).mean())
    assert np.isnan(drawn[0, 0])
    assert "not finite" in plot.sensitivity(J[:, 1]).get_title()


def test_sensitivity_ranks_the_inputs(case):
    J = np.abs(nablax.jacobian(network)(*case))
    ax = plot.sensitivity(J, inputs=INPUTS, output=1, spread=(0.25, 0.75))
    order = np.argsort(-J[:, 1].mean(0))
    np.testing.assert_allclose([bar.get_width() for bar in ax.patches], J[:, 1].mean(0)[order])
    assert texts(ax.get_yticklabels())[0].startswith(INPUTS[order[0]][:8])
    lines = np.array([segment[:, 0] for segment in ax.collections[0].get_segments()])
    np.testing.assert_allclose(lines, np.quantile(J[:, 1], (0.25, 0.75), axis=0).T[order])
    both = plot.sensitivity(J, outputs=OUTPUTS, most=2)
    assert len(both.patches) == 2 * A
    assert texts(both.get_legend().get_texts()) == OUTPUTS
    assert "2 of 3 inputs" in both.get_title()


def test_fields_on_grids_in_any_order_and_on_points():
    a, b = np.linspace(0, 1, 4), np.linspace(2, 3, 5)
    X = np.stack(np.meshgrid(a, b), -1).reshape(-1, 2)
    shuffled = np.random.default_rng(0).permutation(len(X))
    f = lambda X: X[:, 0] + 10 * X[:, 1]
    mesh = plot.field(X[shuffled], f(X)[shuffled], inputs=["t", "x"], label="u").collections[0]
    np.testing.assert_allclose(np.asarray(mesh.get_array()).reshape(5, 4), a + 10 * b[:, None])
    assert mesh.axes.get_xlabel() == "t"
    points = np.random.default_rng(1).uniform(-1, 1, (50, 2))
    drawn = plot.field(points, points[:, 0]).collections[0]
    np.testing.assert_allclose(drawn.get_array(), points[:, 0])
    assert drawn.get_clim() == (-np.abs(points[:, 0]).max(), np.abs(points[:, 0]).max())  # zero is the middle
    arrows = plot.field(points, 2 * points)
    np.testing.assert_allclose(arrows.collections[0].get_array(), 2 * np.linalg.norm(points, axis=1))
    np.testing.assert_allclose(arrows.collections[1].U, 2 * points[:, 0])


def spectrum_of(ax):
    """(places, values) of all dots."""
    dots = np.concatenate([line.get_xydata() for line in ax.lines if line.get_marker() == "o"])
    return dots[np.argsort(dots[:, 0])].T


def test_spectra_are_those_of_numpy(case):
    params, X = case
    found = np.asarray(nablax.hessian(network)(params, X))
    places, values = spectrum_of(plot.spectrum(found[0, 0]))
    np.testing.assert_allclose(values, np.linalg.eigvalsh(found[0, 0])[::-1], atol=1e-12)
    np.testing.assert_array_equal(places, [1, 2, 3])
    O = nablax.parameter_jacobian(network)(params, X)
    J = np.asarray(O.dense()).reshape(D * A, -1)
    singular = np.linalg.svd(J, compute_uv=False) ** 2
    largest = [spectrum_of(plot.spectrum(m))[1][:14] for m in (O, O.gram(), O.fisher())]
    np.testing.assert_allclose(largest, [singular] * 3, rtol=1e-8, atol=1e-8 * singular[0])
    bands = plot.spectrum(found)
    np.testing.assert_allclose(
        spectrum_of(bands)[1], np.median(np.linalg.eigvalsh(found).reshape(-1, C), axis=0)[::-1], atol=1e-12
    )
    assert bands.get_title() == f"median of {D * A} matrices"


def test_both_matrices_of_a_complex_jacobian_have_one_spectrum():
    theta = jnp.exp(1j * jnp.arange(6.0)).reshape(2, 3)
    f = lambda theta, x: jnp.tanh(theta @ x) * theta[:, 0].conj()
    few, many = (nablax.parameter_jacobian(f)(theta, jnp.linspace(0, 1, 3 * n).reshape(n, 3)) for n in (2, 40))
    assert "J J^H" in plot.spectrum(few).get_title()
    assert "J^H J" in plot.spectrum(many).get_title()
    kernel = spectrum_of(plot.spectrum(few))[1]
    fisher = np.linalg.eigvalsh(few.fisher())[::-1][: len(kernel)]
    np.testing.assert_allclose(kernel[:4], fisher[:4], rtol=1e-8)


@pytest.mark.parametrize(
    "draw, message",
    [
        (lambda: plot.jacobian([1.0]), "J is a list; give an array"),
        (lambda: plot.jacobian(np.ones(3)), r"J has the shape \(3,\)"),
        (lambda: plot.jacobian(np.ones((3, 2), int)), "dtype int64"),
        (lambda: plot.jacobian(np.full((3, 2), np.nan)), "no entry of J is finite"),
        (lambda: plot.jacobian(np.ones((3, 2)), sample=3), "sample=3 is none of the 3 samples"),
        (lambda: plot.hessian(np.ones((3, 2, 4))), "last two axes"),
        (lambda: plot.hessian(np.ones((3, 5, 2, 2)), output=5), "0 to 4"),
        (lambda: plot.sensitivity(np.ones((3, 2)), spread=(0.5, 0.5)), "quantiles"),
        (lambda: plot.sensitivity(np.ones((3, 2)), inputs=["a"]), "inputs has 1 names, and there are 2"),
        (lambda: plot.field(np.ones((3, 3)), np.ones(3)), r"\(3, 3\) and values \(3,\)"),
        (lambda: plot.field(np.eye(2), np.array([1.0, np.nan])), "1 of 2 points have a finite value"),
        (lambda: plot.field(np.arange(8.0).reshape(4, 2), np.ones(4)), "span no triangle"),
        (lambda: plot.spectrum(np.ones((3, 2))), "square"),
        (lambda: plot.spectrum(np.triu(np.ones((3, 3)))), "not Hermitian"),
        (lambda: plot.spectrum(np.ones((2, 2, 2, 2))), "may be a kernel"),
    ],
)
def test_what_cannot_be_drawn_is_an_error(draw, message):
    with pytest.raises((errors.OptionError, errors.InputTypeError), match=message):
        draw()


def test_names_that_differ_in_the_middle_keep_their_numbers(case):
    J = nablax.jacobian(network)(*case)
    names = [f"concentration of substance {k} in mol per litre" for k in range(C)]
    ax = plot.jacobian(J, inputs=names, outputs=OUTPUTS)
    assert texts(ax.get_xticklabels()) == [f"{k}: concentr…r litre" for k in range(C)]
    assert plot.sensitivity(J, inputs=names, outputs=OUTPUTS).get_legend().get_texts()[1].get_text() == "cost"


def test_arrows_of_many_points_are_thinned_out():
    X = np.stack(np.meshgrid(np.linspace(0, 1, 50), np.linspace(-3, 3, 60)), -1).reshape(-1, 2)
    ax = plot.field(X, X)
    (arrows,) = [found for found in ax.collections if hasattr(found, "U")]
    assert arrows.N == 20 * 20
