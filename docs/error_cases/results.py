"""Results that `to_xarray` cannot name the axes of."""

from error_cases import Case

CASES = [
    Case(
        "nablax.to_xarray(nablax.hessian(model)(M, X))",
        "An array does not say what it is.",
        'Give it a name: `{"hessian": H}`.',
    ),
    Case(
        'nablax.to_xarray({"jacobian": nablax.jacobian(lambda p: p["t"])({"t": T})})',
        "x or y of the model is a tree, and so is the result.",
        "Take its arrays one by one.",
    ),
    Case(
        'nablax.to_xarray({"hesian": nablax.hessian(model)(M, X)})',
        "The name of the result is misspelt.",
        "The message has the right one.",
    ),
    Case(
        'nablax.to_xarray({"hessian": nablax.hessian(model)(M, X)[0, 0]})',
        "The result has been cut, or x has another number of axes than input_rank says.",
        "Give results of whole batches, and `input_rank`.",
    ),
    Case(
        'nablax.to_xarray({"jacobian": X}, input_rank=-1)',
        "There is no such number of axes.",
        "0 for a model of single numbers, 1 for vectors, 2 for matrices.",
    ),
    Case(
        'nablax.to_xarray({"jacobian": nablax.jacobian(model)(M, X)}, out_axes=3)',
        "The result does not have so many axes.",
        "What `out_axes` was in the call that made it.",
    ),
    Case(
        'nablax.to_xarray({"value": np.ones((8, 2)), "jacobian": np.ones((8, 3, 4))})',
        "The results are of several models or batches, or their samples are on another axis.",
        "Results of one call; `out_axes` as it was.",
    ),
    Case(
        'nablax.to_xarray({"jacobian": nablax.jacobian(model)(M, X)}, names={"inputs": list("abcd")})',
        "There is no axis of this name.",
        "One of those in the message.",
    ),
    Case(
        'nablax.to_xarray({"jacobian": nablax.jacobian(model)(M, X)}, names={"input": list("abc")})',
        "There are more or fewer names than places along the axis.",
        "One name for each.",
    ),
    Case(
        'with without("xarray"): nablax.to_xarray({"value": X})',
        "xarray is not installed.",
        '`pip install "nablax[all]"`.',
    ),
]
