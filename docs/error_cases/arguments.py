"""Arguments that do not fit: axes, numbers of samples, types."""

from error_cases import Case

CASES = [
    Case(
        "nablax.jacobian(model)()",
        "The transformed function was called with nothing.",
        "Call it with the arguments of the model, batched.",
    ),
    Case(
        "nablax.jacobian(model, in_axes=None, wrt=1)(M, X[0, 0])",
        "The argument with the samples has no axis.",
        "Give a single sample an axis, x[None], or share a number between samples with None in in_axes.",
    ),
    Case(
        "nablax.jacobian(model, in_axes=(None, 2))(M, X)",
        "The axis that in_axes names is not there.",
        "Count the axes of the batched argument from 0, or from the end with negative numbers.",
    ),
    Case(
        "nablax.jacobian(model, in_axes=(None, None))(M, X)",
        "Every argument is shared, so there is no sample axis.",
        "Name the sample axis of at least one argument; for a single sample use x[None].",
    ),
    Case(
        "nablax.jacobian(model, in_axes=(None, 0, 0))(M, X)",
        "in_axes has more entries than the call has arguments.",
        "One entry for each argument; entries that are missing at the end mean None.",
    ),
    Case(
        "nablax.jacobian(model, in_axes=({'w': None}, 0))(M, X)",
        "A tree in in_axes does not fit the tree of its argument.",
        "Use an int or None for the whole argument, or a tree of the same structure.",
    ),
    Case(
        "nablax.jacobian(model, in_axes=(None, 0.5))(M, X)",
        "An entry of in_axes is no axis.",
        "Use ints and None.",
    ),
    Case(
        "nablax.jacobian(model, out_axes=3)(M, X)",
        "The result has fewer axes than out_axes asks for.",
        "The samples can go to axis 0 up to the rank of the result; -1 is the last one.",
    ),
    Case(
        "nablax.jacobian(model, out_axes={'mean': 0})(M, X)",
        "A tree in out_axes does not fit the tree of the result.",
        "Use an int for all results, or a tree of the structure of the result.",
    ),
    Case(
        "nablax.jacobian(scaled, in_axes=(None, 0, 0))(M, X, jnp.ones(5))",
        "Two batched arguments hold different numbers of samples.",
        "Check the sample axes; give None to an argument that all samples share.",
    ),
    Case(
        "nablax.jacobian(model)(M, X[:0])",
        "An empty batch.",
        "Skip the call, or check the selection that left no samples.",
    ),
    Case(
        "nablax.jacobian(model)(M, jnp.arange(32).reshape(8, 4))",
        "Integers (or booleans) have no derivative.",
        "Convert to float32 or float64 first.",
    ),
    Case(
        "nablax.jacobian(model)(M, X + 1j)",
        "Complex inputs: a derivative by a complex number needs a convention.",
        "Make the real and imaginary parts two real inputs, and build the complex number inside the model.",
    ),
    Case(
        "nablax.jacobian(model)(M, X[:, :0])",
        "One sample has no entries.",
        "Check in_axes and wrt: the sample axis may be the wrong one.",
    ),
    Case(
        'nablax.jacobian(model)({"w": M, "activation": "tanh"}, X)',
        "A leaf of an argument is no array; the message names its path.",
        "Bind it beforehand: functools.partial(model, activation='tanh'), or a closure.",
    ),
]
