"""Models that cannot be derived as asked, and derivatives that a check does not confirm."""

from error_cases import Case

CASES = [
    Case(
        "nablax.jacobian(model)(M, X.T)",
        "The model does not accept one sample. Mostly the samples are on another axis than in_axes says, "
        "or the model is written for a whole batch.",
        "Compare the shapes in the message with what the model expects; name the sample axis with in_axes.",
    ),
    Case(
        "nablax.jacobian(lambda M, x: jnp.argmax(M @ x))(M, X)",
        "The model returns integers or booleans.",
        "Return the real numbers that they are computed from; return what needs no derivative as aux.",
    ),
    Case(
        "nablax.jacobian(lambda M, x: jax.new_ref(M @ x)[...])(M, X)",
        "The model stores values in a mutable array, from where derivatives do not follow them.",
        "Return the value, or carry it through the loop.",
    ),
    Case(
        "nablax.jacobian(lambda M, x: None)(M, X)",
        "The model returns nothing; a return statement may be missing.",
        "Return the value to differentiate.",
    ),
    Case(
        'nablax.jacobian(lambda M, x: {"y": M @ x, "name": "sine"})(M, X)',
        "The output contains something that is no array.",
        "Return arrays only.",
    ),
    Case(
        "nablax.jacobian(lambda M, x: (M @ x)[:0])(M, X)",
        "The output is an array without entries.",
        "Check the slices inside the model for one sample.",
    ),
    Case(
        "nablax.jacobian(model, has_aux=True)(M, X)",
        "With has_aux=True a model returns a pair.",
        "Return (y, aux), or leave has_aux out.",
    ),
    Case(
        'nablax.jacobian(lambda M, x: (M @ x, {"name": "sine"}), has_aux=True)(M, X)',
        "The aux contains something that is no array.",
        "Return arrays and numbers only; names belong outside of the model.",
    ),
    Case(
        "nablax.divergence(model)(M, X)",
        "Only a vector field has a divergence: as many outputs as inputs.",
        "Use nablax.laplacian for second derivatives, nablax.jacobian for all first ones.",
    ),
    Case(
        "nablax.hessian(lambda M, x: jax.lax.igamma(1 + x**2, x**2))(M, X)",
        "The model calls a function that has no derivative in JAX, or none of the order asked for.",
        "Give it a rule with jax.custom_jvp, or keep what it is called with independent of x.",
    ),
    Case(
        'nablax.check(wrong_rule, "jacobian", samples=2)(M, X).raise_if_failed()',
        "A derivative differs from a reference by more than rounding; here a custom_jvp with a wrong rule.",
        "Where only finite differences differ, look for a custom rule or a kink in the model at the worst sample.",
    ),
]
