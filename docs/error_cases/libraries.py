"""Models of other libraries that `from_model` cannot take as they are given."""

import os

from error_cases import Case

os.environ.setdefault("KERAS_BACKEND", "jax")

CASES = [
    Case(
        "nablax.from_model(model)",
        "It is a function already, or a model of a library that nablax does not know.",
        "Pass a function of one sample to the transforms; wrap one of a batch in nablax.per_sample.",
    ),
    Case(
        "from flax import nnx\nnablax.from_model(nnx.Linear(4, 2, rngs=nnx.Rngs(0)), {})",
        "Modules of Flax NNX, Equinox, Keras and PyTorch hold their parameters.",
        "Leave the variables out.",
    ),
    Case(
        "from flax import linen\nnablax.from_model(linen.Dense(2))",
        "Modules of Flax Linen and functions of Haiku do not hold parameters.",
        "Pass what model.init(key, X) returns.",
    ),
    Case(
        'from flax import linen\nnablax.from_model(linen.Dense(2), {"kernel": M.T, "bias": jnp.zeros(2)})',
        "Only the collection of parameters was given, or something else.",
        "Pass all variables, as model.init(key, X) returned them.",
    ),
    Case(
        'from flax import linen\nnablax.from_model(linen.Dense(2), {"params": {"kernel": np.ones((4, 2))}})',
        "The parameters are more precise than what JAX computes in.",
        "Switch float64 on before anything is computed, or convert the parameters to float32.",
    ),
    Case(
        'from flax import nnx\nnablax.from_model(nnx.Dropout(0.5, rngs=nnx.Rngs(0)), rngs="dropout")',
        "No layer of the module has a stream of this name.",
        "Name one of those that the message lists.",
    ),
    Case(
        'from flax import linen\nnablax.from_model(linen.Dense(2), {"params": {}}, rngs="dropout", batched=True)',
        "A mask for the whole batch makes samples depend on their position.",
        "Leave batched out: every sample gets a key.",
    ),
    Case(
        'import haiku\nnablax.from_model(haiku.transform(lambda x: x), {}, rngs=("a", "b"))',
        "Haiku has one source of random numbers.",
        "Name one stream; haiku.next_rng_key() splits its key as often as it is called.",
    ),
    Case(
        "import haiku\nnablax.from_model(haiku.transform_with_state(lambda x: x), {})",
        "A function with a state was given its parameters alone.",
        "Pass the pair (params, state).",
    ),
    Case(
        "import haiku\nnablax.from_model(haiku.initializers.Constant(1.0), {})",
        "It is something else of Haiku than a transformed function.",
        "Pass what haiku.transform(f) returns, f being the function that makes the modules.",
    ),
    Case(
        "import keras\nfrom unittest import mock\n"
        'with mock.patch("keras.backend.backend", lambda: "torch"): nablax.from_model(keras.layers.Dense(2))',
        "Keras was imported with another backend.",
        "Set KERAS_BACKEND=jax in the environment, or in os.environ before keras is imported.",
    ),
    Case(
        "import keras\nnablax.from_model(keras.layers.Dense(2))",
        "Keras makes weights when it first sees an input.",
        "Build the model, or call it once.",
    ),
    Case(
        'import keras\nnablax.from_model(keras.layers.Dense(2), rngs="dropout")',
        "Layers of Keras and PyTorch cannot be given a key for each sample.",
        "Leave rngs out; models are called for evaluation.",
    ),
    Case(
        'derive("module.py:net --params weights.npz --inputs X.npy")',
        "The file names a module that has parameters, and parameters were given besides.",
        "Leave --params out, or write a function that calls the module with parameters.",
    ),
]
