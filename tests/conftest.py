"""Settings of the whole suite: float64, no silent broadcasting between ranks, and a compiler that does not try hard."""

import collections
import gc
import os

# XLA remarks on every program that it finds in the cache of compiled ones; tests read what commands say.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import jax
import pytest
from hypothesis import HealthCheck, Phase, settings

from nablax.graph import inline

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_num_cpu_devices", 4)  # to shard over; a machine with one core has them too
# A library has to work for people who made this an error in their own programs.
jax.config.update("jax_numpy_rank_promotion", "raise")

# Nearly all of the time goes into compiling programs that then run for microseconds: with these settings it is a
# quarter of what it would be.
jax.config.update("jax_disable_most_optimizations", True)
flags = ["--xla_cpu_parallel_codegen_split_count=1"]
if jax.__version_info__ < (0, 11):  # later versions end the process over a flag that they do not know
    flags.append("--xla_cpu_use_fusion_emitters=false")
os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), *flags])

# Loops in tests are short; they stay loops, but where it is tested that short ones are written out (test_short_loops).
inline.SHORT = 0

# Programs and graphs are many and stay: looking through all of them for garbage as often as usual takes its time.
gc.set_threshold(50_000, 20, 50)

# The same examples in every run; a time limit for one example would only measure the compiler, and making a failing
# example smaller compiles a hundred more of them.
settings.register_profile(
    "nablax",
    derandomize=True,
    database=None,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
settings.load_profile("nablax")


def pytest_addoption(parser):
    parser.addoption(
        "--one-in", type=int, default=1, metavar="N", help="of the cases of each parametrized test only one in N"
    )


def pytest_collection_modifyitems(config, items):
    seen = collections.Counter()
    kept, left_out = [], []
    for item in items:
        name = item.nodeid.partition("[")[0]
        (left_out if seen[name] % config.getoption("one_in") else kept).append(item)
        seen[name] += 1
    config.hook.pytest_deselected(items=left_out)
    items[:] = kept


@pytest.fixture
def float32():
    """JAX as it is out of the box: without float64."""
    with jax.enable_x64(False):
        yield
