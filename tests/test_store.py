"""Derivatives on disk: what is written is what the transforms return, in steady memory, and readable by xarray."""

import itertools
import pickle
import pkgutil
import subprocess
import sys
import time
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray
import zarr

import nablax
from nablax import store
from nablax.errors import BatchSizeError, DataError, ModelTraceError, NonFiniteError, OptionError
from nablax.store.samples import Samples

C, H, A, D = 5, 7, 3, 23


def network(params, x):
    return jnp.tanh(params["hidden"][0] @ x + params["hidden"][1]) @ params["out"]


@pytest.fixture
def params():
    rng = np.random.default_rng(1)
    return {"hidden": [rng.normal(size=(H, C)), rng.normal(size=H)], "out": rng.normal(size=(H, A))}


@pytest.fixture
def X():
    return np.random.default_rng(2).normal(size=(D, C))


def test_store_holds_what_the_transforms_return(tmp_path, params, X):
    wants = ["value", "jacobian", "hessian", "laplacian"]
    report = store.run(network, wants, X, tmp_path / "d.zarr", params=params, unit_size=4, progress=False)
    group = zarr.open_group(str(tmp_path / "d.zarr"), mode="r")
    expected = nablax.derivatives(network, *wants)(params, X)
    for want in wants:
        np.testing.assert_allclose(group[want][:], expected[want], rtol=1e-12, atol=1e-14)
        assert group[want].chunks[0] == 4
    assert group.attrs["complete"] is True
    assert group.attrs["wants"] == wants
    assert [row.name for row in report.rows] == wants
    row = report.rows[1]
    assert (row.lowest, row.highest) == (np.min(expected["jacobian"]), np.max(expected["jacobian"]))
    assert "23x3x5" in str(report)


def test_store_opens_in_xarray_with_names_and_without_warnings(tmp_path, params, X):
    features = [f"feature {k}" for k in range(C)]
    store.run(
        network,
        ["hessian"],
        X,
        tmp_path / "d.zarr",
        params=params,
        feature_names=features,
        output_names=["a", "b", "c"],
        progress=False,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data = xarray.open_zarr(tmp_path / "d.zarr")
    assert data["hessian"].dims == ("sample", "output", "input", "input_2")
    assert list(data["input_2"].values) == features
    assert data["hessian"].sel(output="b", input="feature 1").shape == (D, C)


def test_scalar_outputs_matrices_and_complex_numbers_have_the_right_axes(tmp_path):
    X = np.random.default_rng(3).normal(size=(6, 2, 3))
    report = store.run(lambda x: jnp.exp(1j * jnp.sum(x**2)), ["hessian"], X, tmp_path / "c.zarr", progress=False)
    array = zarr.open_group(str(tmp_path / "c.zarr"))["hessian"]
    assert array.shape == (6, 2, 3, 2, 3)
    assert array.metadata.dimension_names == ("sample", "input0", "input1", "input0_2", "input1_2")
    assert np.isnan(array.fill_value)
    expected = jax.vmap(nablax.hessian(lambda x: jnp.exp(1j * jnp.sum(x**2)), in_axes=(0,)))(X[:, None])[:, 0]
    np.testing.assert_allclose(array[:], expected)
    assert report.rows[0].highest == pytest.approx(np.max(np.abs(expected)))


def test_zeros_are_stored_and_are_no_gaps(tmp_path, X):
    store.run(lambda x: 2 * x, ["hessian"], X, tmp_path / "z.zarr", unit_size=5, progress=False)
    assert np.all(zarr.open_group(str(tmp_path / "z.zarr"))["hessian"][:] == 0)


def root(x):
    return jnp.sqrt(x)


def test_nonfinite_entries_end_the_run_before_they_are_written(tmp_path):
    X, out = np.array([[1.0], [4.0], [2.0], [0.0], [4.0]]), tmp_path / "n.zarr"
    with pytest.raises(NonFiniteError, match=r"1 in jacobian.*sample.*3.*on_nonfinite='warn'"):
        store.run(root, ["jacobian"], X, out, unit_size=2, progress=False)
    assert np.isnan(zarr.open_group(str(out))["jacobian"][2:4]).all()
    with pytest.warns(RuntimeWarning):
        report = store.run(root, ["jacobian"], X, out, unit_size=2, on_nonfinite="warn", resume=True, progress=False)
    assert report.units_kept in (1, 2)  # the unit after it may have been computed and written already
    assert report.rows[0].nonfinite == 1


def test_nonfinite_entries_are_counted_once(tmp_path):
    X = np.array([[1.0], [0.0], [4.0], [9.0], [0.0]])
    # The second unit of three samples is filled up with its last sample, which must not be counted for that.
    with pytest.warns(RuntimeWarning, match="2 in jacobian, from samples 1, 4"):
        report = store.run(root, ["jacobian"], X, tmp_path / "n.zarr", unit_size=3, on_nonfinite="warn", progress=False)
    assert report.rows[0].nonfinite == 2
    assert report.rows[0].first_nonfinite == (1, 4)
    assert "jacobian is not finite in samples 1, 4" in str(report)
    assert report.rows[0].highest == 0.5


@pytest.mark.parametrize("chunk_bytes", [2**20, 16])  # a chunk in a file, and several
def test_results_that_are_nan_are_written_too(tmp_path, monkeypatch, chunk_bytes):
    monkeypatch.setattr("nablax.store.zarr_store.CHUNK_BYTES", chunk_bytes)
    X = np.ones((7, 2))
    options = {"unit_size": 4, "progress": False, "on_nonfinite": "warn"}
    with pytest.warns(RuntimeWarning, match="14 in value"):
        report = store.run(lambda x: x * np.nan, ["value"], X, tmp_path / "n.zarr", **options)
    files = [path for path in (tmp_path / "n.zarr" / "value" / "c").rglob("*") if path.is_file()]
    assert len(files) == 2  # one for each unit: what was not computed has none
    assert report.rows[0].nonfinite == 14
    assert np.isnan(report.rows[0].highest)
    assert str(report).splitlines()[1].split()[-3:] == ["-", "-", "14"]


def test_one_program_serves_every_unit(tmp_path, params, X):
    traces = itertools.count()  # no list: what a model captures is watched, and a list that grows is a new model

    def counted(params, x):
        next(traces)
        return network(params, x)

    store.run(counted, ["jacobian"], X, tmp_path / "d.zarr", params=params, unit_size=4, progress=False)
    once = next(traces)
    store.run(counted, ["jacobian"], X, tmp_path / "e.zarr", params=params, unit_size=2, progress=False)
    # One sample and one unit to find the shapes, one unit to compile: no matter how many units there are.
    assert once <= 3
    assert next(traces) - once - 1 <= 3


def test_units_are_bounded_by_inputs_and_results_and_are_about_equally_full(tmp_path, monkeypatch):
    monkeypatch.setattr("nablax.store.job.UNIT_BYTES", 2000)
    monkeypatch.setattr("nablax.store.zarr_store.CHUNK_BYTES", 40)
    read = []

    class Recorded(np.ndarray):
        def __getitem__(self, index):
            read.append(index)
            return super().__getitem__(index)

    X = np.random.default_rng(6).normal(size=(103, 6)).view(Recorded)  # 48 bytes in and 8 out: 35 samples in 2000 bytes
    monkeypatch.setattr("nablax.store.job.digest", lambda samples: "")  # which reads them too
    store.run(lambda x: jnp.sum(x**2), ["value"], X, tmp_path / "d.zarr", devices=1, progress=False)
    assert [(index.start, index.stop) for index in read] == [(0, 48), (48, 96), (96, 103)]  # 35 rounded up to 16s
    array = zarr.open_group(str(tmp_path / "d.zarr"))["value"]
    assert (array.shards, array.chunks) == ((48,), (3,))
    np.testing.assert_allclose(array[:], np.sum(np.asarray(X) ** 2, axis=1), rtol=1e-12)


def test_a_memory_mapped_file_does_not_stay_in_memory(tmp_path):
    X = np.random.default_rng(7).normal(size=(3000, 1000))
    np.save(tmp_path / "X.npy", X)
    mapped = store.read_inputs(tmp_path / "X.npy").array
    assert isinstance(mapped, np.memmap)
    samples = Samples(mapped, np.float32)
    before = _mapped_kibibytes(tmp_path / "X.npy")
    pieces = [samples[k : k + 100] for k in range(0, 3000, 100)]
    assert _mapped_kibibytes(tmp_path / "X.npy") == before == 0
    np.testing.assert_array_equal(np.concatenate(pieces), X.astype(np.float32))
    assert mapped.sum() != 0
    assert _mapped_kibibytes(tmp_path / "X.npy") > 20_000  # the measure works: all 24 MB are in memory now


def _mapped_kibibytes(path):
    """Resident memory of this process that is pages of a file."""
    maps = Path("/proc/self/smaps")
    if not maps.exists():
        pytest.skip("only Linux says what is in memory")
    lines = iter(maps.read_text().splitlines())
    return sum(int(next(r for r in lines if r.startswith("Rss:")).split()[1]) for line in lines if str(path) in line)


def test_changes_to_a_copy_on_write_map_are_not_lost(tmp_path):
    np.save(tmp_path / "X.npy", np.zeros((4, 3)))
    mapped = np.load(tmp_path / "X.npy", mmap_mode="c")
    mapped[1] = 5
    samples = Samples(mapped)
    assert samples[1:2].sum() == samples[1:2].sum() == 15


def test_other_byte_orders_run(tmp_path, params, X):
    store.run(network, ["value"], X.astype(">f8"), tmp_path / "d.zarr", params=params, progress=False)
    expected = jax.vmap(network, (None, 0))(params, X)
    np.testing.assert_allclose(zarr.open_group(str(tmp_path / "d.zarr"))["value"][:], expected, rtol=1e-12)


def test_compiling_is_not_counted_as_time_of_a_sample(tmp_path):
    def slow_to_trace(x):
        time.sleep(0.2)
        return jnp.sin(x)

    report = store.run(slow_to_trace, ["value"], np.ones((10, 2)), tmp_path / "d.zarr", progress=False)
    assert report.compile_seconds > 0.2
    assert report.microseconds * 10 * 1e-6 == pytest.approx(report.seconds - report.compile_seconds)


def test_the_function_is_not_hidden_by_a_module_of_its_name():
    assert not {module.name for module in pkgutil.iter_modules(store.__path__)} & set(store.__all__)


def test_no_samples_is_an_error_and_no_empty_store(tmp_path):
    with pytest.raises(BatchSizeError):
        store.run(lambda x: x, ["value"], np.ones((0, 2)), tmp_path / "d.zarr", progress=False)
    assert not (tmp_path / "d.zarr").exists()


def test_a_store_that_exists_is_kept_unless_asked(tmp_path, params, X):
    out = tmp_path / "d.zarr"
    store.run(network, ["value"], X, out, params=params, progress=False)
    with pytest.raises(DataError, match=r"exists already.*overwrite"):
        store.run(network, ["value"], X, out, params=params, progress=False)
    store.run(network, ["jacobian"], X, out, params=params, overwrite=True, progress=False)
    assert set(zarr.open_group(str(out)).array_keys()) == {"jacobian"}


def test_a_folder_that_is_no_store_is_never_overwritten(tmp_path, params, X):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("years of work")
    with pytest.raises(DataError, match="no zarr group"):
        store.run(network, ["value"], X, tmp_path / "thesis", params=params, overwrite=True, progress=False)
    assert (tmp_path / "thesis" / "chapter.txt").read_text() == "years of work"


def test_a_run_that_fails_leaves_nothing_that_looks_complete(tmp_path, params):
    class Failing(np.ndarray):
        def __getitem__(self, index):
            if isinstance(index, slice) and (index.start or 0) >= 8:
                raise DataError("the disk is gone")
            return super().__getitem__(index)

    X = np.random.default_rng(4).normal(size=(D, C)).view(Failing)
    with pytest.raises(DataError, match="disk is gone"):
        store.run(network, ["value"], X, tmp_path / "d.zarr", params=params, unit_size=4, progress=False)
    group = zarr.open_group(str(tmp_path / "d.zarr"), mode="r")
    assert group.attrs["complete"] is False
    assert np.isnan(group["value"][8:]).all()
    assert not np.isnan(group["value"][:8]).any()


def test_names_must_fit_the_axes(tmp_path, params, X):
    with pytest.raises(OptionError, match=r"feature_names has 2 names, but x has the shape \(5,\)"):
        store.run(network, ["jacobian"], X, tmp_path / "d.zarr", params=params, feature_names=["a", "b"])
    with pytest.raises(OptionError, match=r"output_names has 2 names, but y has the shape \(\)"):
        store.run(lambda x: x @ x, ["hessian"], X, tmp_path / "d.zarr", output_names=["a", "b"])
    assert not (tmp_path / "d.zarr").exists()


def test_a_model_of_the_wrong_shape_writes_nothing(tmp_path, params):
    with pytest.raises(ModelTraceError, match=r"argument 1: float64\[4\]"):
        store.run(network, ["jacobian"], np.zeros((3, 4)), tmp_path / "d.zarr", params=params)
    assert not (tmp_path / "d.zarr").exists()


def test_a_killed_run_does_not_look_complete_and_can_be_written_again(tmp_path):
    code = f"""
import os, numpy as np
from nablax import store
class Killing(np.ndarray):
    def __getitem__(self, index):
        if isinstance(index, slice) and index.start:
            os.kill(os.getpid(), 9)
        return super().__getitem__(index)
store.run(lambda x: 2 * x, ["value"], np.ones((9, 2)).view(Killing), {str(tmp_path / "d.zarr")!r}, unit_size=4)
"""
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == -9
    assert zarr.open_group(str(tmp_path / "d.zarr"), mode="r").attrs["complete"] is False
    store.run(lambda x: 2 * x, ["value"], np.ones((9, 2)), tmp_path / "d.zarr", overwrite=True, progress=False)
    group = zarr.open_group(str(tmp_path / "d.zarr"), mode="r")
    assert group.attrs["complete"] is True
    assert np.all(group["value"][:] == 2)


def test_parameters_round_trip(tmp_path, params):
    tree = {"layers": [params["hidden"], {"scale": np.float32(2)}], "out": params["out"]}
    store.save_parameters(tmp_path / "p.npz", tree)
    back = store.load_parameters(tmp_path / "p.npz")
    assert jax.tree.structure(back) == jax.tree.structure(tree)
    jax.tree.map(np.testing.assert_array_equal, back, tree)
    store.save_parameters(tmp_path / "one.npz", {"value": params["out"]})
    assert list(store.load_parameters(tmp_path / "one.npz")) == ["value"]
    store.save_parameters(tmp_path / "bare.npz", params["out"])
    np.testing.assert_array_equal(store.load_parameters(tmp_path / "bare.npz"), params["out"])
    assert not list(tmp_path.glob("*.partial"))


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"a/b": np.ones(2)}, "keys must be strings without '/'"),
        ({"a": {3: np.ones(2)}}, "a has the key 3; keys must be strings"),
        ({"a": [np.ones(2), ()]}, r"a/1 is empty \(\(\)\)"),
        ({"a": {"0": np.ones(2), "1": np.ones(2)}}, "a has the keys 0, 1, which would come back as a list"),
        ({"a": None}, "a is a NoneType; the file takes arrays of numbers"),
        ({"a": jnp.ones(2, jnp.bfloat16)}, "a is an array of bfloat16"),
    ],
)
def test_parameters_that_would_not_come_back_are_refused(tmp_path, tree, message):
    with pytest.raises(DataError, match=message):
        store.save_parameters(tmp_path / "p.npz", tree)
    assert not (tmp_path / "p.npz").exists()


def test_parameters_that_cannot_be_read_or_written(tmp_path):
    with pytest.raises(DataError, match="cannot be written"):
        store.save_parameters(tmp_path / "nowhere" / "p.npz", np.ones(2))
    np.savez(tmp_path / "text.npz", **{"out/W": np.array(["one"])})
    with pytest.raises(DataError, match="'out/W' has dtype <U3; parameters must be numbers"):
        store.load_parameters(tmp_path / "text.npz")
    np.savez(tmp_path / "inside.npz", **{"W/b": np.ones(2), "W": np.ones(3)})
    with pytest.raises(DataError, match="'W/b' lies inside 'W', which is an array itself"):
        store.load_parameters(tmp_path / "inside.npz")


def test_csv_with_and_without_header(tmp_path):
    (tmp_path / "h.csv").write_text("age,bmi\n1,2.5\n3,-4e1\n")
    inputs = store.read_inputs(tmp_path / "h.csv")
    assert inputs.names == ("age", "bmi")
    np.testing.assert_array_equal(inputs.array, [[1, 2.5], [3, -40]])
    (tmp_path / "n.csv").write_text("1,2\n3,4\n5,6\n")
    inputs = store.read_inputs(tmp_path / "n.csv")
    assert inputs.names is None
    assert inputs.array.shape == (3, 2)


def test_npz_by_name(tmp_path):
    np.savez(tmp_path / "two.npz", train=np.zeros((2, 3)), test=np.ones((4, 3)))
    assert store.read_inputs(f"{tmp_path}/two.npz:test").array.shape == (4, 3)
    with pytest.raises(DataError, match="holds the arrays train, test"):
        store.read_inputs(tmp_path / "two.npz")


def _bad_files(folder):
    np.save(folder / "integers.npy", np.arange(6).reshape(2, 3))
    np.save(folder / "empty.npy", np.zeros((0, 3)))
    np.save(folder / "pickled.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    np.save(folder / "whole.npy", np.zeros((100, 3)))
    (folder / "truncated.npy").write_bytes((folder / "whole.npy").read_bytes()[:500])
    (folder / "garbage.npy").write_bytes(b"garbage" * 20)
    (folder / "bare.npy").write_bytes(pickle.dumps([1.0]))
    (folder / "nothing.npy").write_bytes(b"")
    (folder / "gap.csv").write_text("1,,3\n4,5,6\n")
    (folder / "mixed.csv").write_text("1,2,oops\n4,5,6\n")
    (folder / "index.csv").write_text(",a\n0,1.5\n")
    (folder / "semicolons.csv").write_text("a;b\n1;2\n")
    (folder / "underscore.csv").write_text("a\n1_000\n")
    (folder / "latin.csv").write_bytes(b"\xe9t\xe9\n1\n")
    (folder / "text.csv").write_text("a,b\n1,2\n3,four\n")
    (folder / "ragged.csv").write_text("1,2\n3\n")
    (folder / "header.csv").write_text("a,b\n")
    (folder / "model.pkl").write_bytes(b"\x80\x04N.")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("integers.npy", "dtype int64; derivatives need real floating point"),
        ("empty.npy", "at least one sample"),
        ("pickled.npy", "pickled Python objects, which are never loaded"),
        ("truncated.npy", "damaged, cut off"),
        ("garbage.npy", "damaged, cut off, or no NumPy file .'it begins like no file of NumPy"),
        ("bare.npy", "pickled Python objects, which are never loaded"),
        ("nothing.npy", "damaged, cut off"),
        ("gap.csv", "row 1, column 2 holds '', which is not a number; a header must name every column"),
        ("mixed.csv", "row 1, column 3 holds 'oops', which is not a number; a header must name"),
        ("index.csv", "row 1, column 1 holds '', which is not a number; a header must name"),
        ("semicolons.csv", r"row 2, column 1 \(a;b\) holds '1;2', .* separated by commas"),
        ("underscore.csv", r"row 2, column 1 \(a\) holds '1_000'"),
        ("latin.csv", "cannot be read as text"),
        ("text.csv", r"row 3, column 2 \(b\) holds 'four'"),
        ("ragged.csv", "row 2 has 1 columns; 2 are expected"),
        ("header.csv", "no rows of numbers"),
        ("missing.npy", "no such file"),
        ("missing.csv", "no such file"),
        ("model.pkl", "files of kind '.pkl' are not read"),
    ],
)
def test_bad_files_are_named_errors(tmp_path, name, message):
    _bad_files(tmp_path)
    with pytest.raises(DataError, match=message):
        store.read_inputs(tmp_path / name)
