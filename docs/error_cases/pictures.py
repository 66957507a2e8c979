"""What `nablax.plot` cannot draw."""

from error_cases import Case

CASES = [
    Case(
        'nablax.plot.jacobian({"t": X})',
        "The result is a tree.",
        "Draw its arrays one by one.",
    ),
    Case(
        "nablax.plot.jacobian(X[0])",
        "It has been cut, or is something else.",
        "The result of a whole batch.",
    ),
    Case(
        "nablax.plot.jacobian(X + np.nan)",
        "Nothing can be drawn.",
        "Find out where NaN comes from.",
    ),
    Case(
        'nablax.plot.jacobian(X, inputs=["a", "b"])',
        "There are more or fewer names than inputs.",
        "One for each.",
    ),
    Case(
        "nablax.plot.jacobian(X, sample=8)",
        "Samples are counted from 0.",
        "A number below D.",
    ),
    Case(
        "nablax.plot.hessian(nablax.jacobian(model)(M, X)[None])",
        "It is no Hessian.",
        "What nablax.hessian returns.",
    ),
    Case(
        "nablax.plot.hessian(np.ones((8, 5, 3, 3)))",
        "There are too many outputs to draw all of them, or none of this name.",
        "Say which: `output=0`.",
    ),
    Case(
        "nablax.plot.sensitivity(X, spread=(0.9, 0.1))",
        "Quantiles are out of order.",
        "The lower one first.",
    ),
    Case(
        "nablax.plot.field(X, X[:, 0])",
        "The points do not have two coordinates, or there is not one value for each.",
        "Points (D, 2) and values (D,) or (D, 2).",
    ),
    Case(
        "nablax.plot.field(T, np.array([1.0, 2.0] + 6 * [np.nan]))",
        "Too few points have a value.",
        "At least three.",
    ),
    Case(
        "nablax.plot.spectrum(X)",
        "The matrix is not square.",
        "A Hessian, a Gram or a Fisher matrix.",
    ),
    Case(
        "nablax.plot.spectrum(np.triu(np.ones((3, 3))))",
        "The matrix has complex eigenvalues.",
        "Of a Jacobian J, look at J J^H, or at singular values.",
    ),
    Case(
        "nablax.plot.spectrum(np.diag([1.0, np.nan]))",
        "The matrix has no eigenvalues.",
        "Find out where NaN comes from.",
    ),
    Case(
        "nablax.plot.spectrum(np.ones((3, 3, 3, 3)))",
        "The shape fits two things.",
        "Reshape it to three or two axes.",
    ),
    Case(
        'with without("matplotlib"): nablax.plot.jacobian(X)',
        "matplotlib is not installed.",
        '`pip install "nablax[all]"`.',
    ),
]
