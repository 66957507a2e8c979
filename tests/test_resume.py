"""Runs that are killed, interrupted, or shared by several processes: the store is that of one run in peace."""

import functools
import itertools
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import zarr

from nablax import store
from nablax.errors import DataError, OptionError
from nablax.store.records import FOLDER, Records
from nablax.store.streaming import RunInterrupted

MODEL = """
import jax.numpy as jnp

def network(params, x):
    for W in params["W"]:
        x = jnp.tanh(x @ W)
    return x
"""
D, UNIT = 1220, 20

shared = pytest.mark.xdist_group("resume")  # one worker for all tests that need these stores


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A model of which a unit takes some hundredths of a second, and a store that was written in peace."""
    return prepared(tmp_path_factory.mktemp("resume"), D)


@pytest.fixture(scope="module")
def many_files(tmp_path_factory):
    """The same with units enough for 30 kills, each of which finds some more of them complete."""
    return prepared(tmp_path_factory.mktemp("resume_long"), 6 * D)


def prepared(folder: Path, samples: int) -> Path:
    rng = np.random.default_rng(0)
    (folder / "model.py").write_text(MODEL)
    sizes = [6, 256, 256, 6]
    W = [rng.normal(size=pair) / pair[0] ** 0.5 for pair in itertools.pairwise(sizes)]
    store.save_parameters(folder / "p.npz", {"W": W})
    np.save(folder / "X.npy", rng.normal(size=(samples, 6)).astype(np.float32))
    wait(start(folder, "peace.zarr"))
    return folder


def start(folder: Path, out: str, *options: str) -> subprocess.Popen[str]:
    line = [sys.executable, "-m", "nablax.cli", "derive", "model.py:network", "--params", "p.npz", "--inputs", "X.npy"]
    line += ["--of", "jacobian", "hessian", "--out", out, "--unit-size", str(UNIT), "--quiet", "--resume"]
    # XLA remarks on every program that it finds in the cache of compiled ones; that is not what is tested here.
    environment = {key: value for key, value in os.environ.items() if key != "XLA_FLAGS"} | {
        "TF_CPP_MIN_LOG_LEVEL": "3"
    }
    devices = [] if "--devices" in options else ["--devices", "1"]
    return subprocess.Popen(
        [*line, *devices, *options],
        cwd=folder,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def wait(*processes: subprocess.Popen[str]) -> list[str]:
    """What the processes said; all must end well."""
    said = [process.communicate(timeout=300) for process in processes]
    for process, (_, errors) in zip(processes, said, strict=True):
        assert process.returncode == 0, errors
    return [out for out, _ in said]


def wait_for_units(path: Path, count: int) -> None:
    end = time.monotonic() + 120
    while len(Records(path).numbers()) < count:
        assert time.monotonic() < end
        time.sleep(0.01)


def results(path: Path) -> dict[str, bytes]:
    """Every file with results."""
    return {
        str(file.relative_to(path)): file.read_bytes()
        for want in ("jacobian", "hessian")
        for file in sorted((path / want).rglob("*"))
        if file.is_file()
    }


def complete_files(path: Path) -> dict[str, tuple[int, int]]:
    """Which file, and when it was written, for every result of a complete unit."""
    found = {}
    for number in Records(path).numbers() if path.exists() else ():
        for key in (f"jacobian/c/{number}/0/0", f"hessian/c/{number}/0/0/0"):
            about = (path / key).stat()
            found[key] = about.st_ino, about.st_mtime_ns
    return found


def same(one: Path, other: Path) -> None:
    """Bit for bit, and nothing is left over."""
    assert results(one) == results(other)
    names = lambda path: {str(file.relative_to(path)) for file in path.rglob("*")}
    assert names(one) == names(other)
    assert not list(one.parent.glob(f".{one.name}*"))
    assert zarr.open_group(str(one), mode="r").attrs["complete"] is True


@shared
@pytest.mark.parametrize(("where", "kills"), [("files", 2), pytest.param("many_files", 30, marks=pytest.mark.slow)])
def test_killed_at_random_the_result_is_that_of_a_run_in_peace(where, kills, request):
    files = request.getfixturevalue(where)
    units = len(np.load(files / "X.npy")) // UNIT
    out, dice, known, killed = files / f"killed{kills}.zarr", random.Random(kills), {}, 0
    while killed < kills:
        process = start(files, out.name)
        if dice.random() < 0.3:
            time.sleep(dice.uniform(0.1, 3.0))  # while it imports, compiles, or creates the store
        else:
            wait_for_units(out, min(len(known) // 2 + 1, units - 1))
            time.sleep(dice.uniform(0, 0.05))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        killed += process.returncode == -signal.SIGKILL
        now = complete_files(out)
        assert {key: now[key] for key in known} == known, "what was complete has been computed or written again"
        known = now
    assert 0 < len(known) < 2 * units
    (said,) = wait(start(files, out.name))
    assert f"{len(known) // 2} of {units} units were complete before" in said
    written = {key: ((out / key).stat().st_ino, (out / key).stat().st_mtime_ns) for key in known}
    assert written == known
    same(out, files / "peace.zarr")


@shared
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow)]
)
def test_an_interrupted_run_completes_its_units_and_says_how_to_go_on(files, number, code):
    out = files / f"signal{code}.zarr"
    process = start(files, out.name)
    wait_for_units(out, 3)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == code
    done = len(Records(out).numbers())
    assert errors == (
        f"nablax: {signal.Signals(number).name}: {done} of 61 units are complete in {out.name}; give the same command "
        "with resume=True (--resume) to go on.\n"
    )
    assert not list(out.rglob("*.partial"))
    wait(start(files, out.name))
    same(out, files / "peace.zarr")


@shared
def test_two_processes_share_one_store(files, alone):
    wait(*pair(files, files / "two.zarr"))
    same(files / "two.zarr", alone)


@shared
@pytest.mark.slow
def test_one_of_two_processes_is_killed(files, alone):
    out = files / "half.zarr"
    one, other = pair(files, out)
    wait_for_units(out, 4)
    other.kill()
    other.communicate()
    one.kill()  # what runs the jobs of a cluster ends what is left of one
    one.communicate()
    before = complete_files(out)
    assert 4 <= len(before) // 2 < 61
    wait(*pair(files, out))
    assert {key: ((out / key).stat().st_ino, (out / key).stat().st_mtime_ns) for key in before} == before
    same(out, alone)


@pytest.fixture(scope="module")
def alone(files):
    """The store of one process with two devices."""
    wait(start(files, "alone.zarr", "--devices", "2"))
    return files / "alone.zarr"


def pair(files: Path, out: Path) -> list[subprocess.Popen[str]]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = ["--distributed", "--coordinator", f"127.0.0.1:{port}", "--processes", "2", "--devices", "2"]
    return [start(files, out.name, *address, "--process-id", str(number)) for number in (0, 1)]


# ------------------------------------------------------------------------------------------------------ in this process

X = np.random.default_rng(1).normal(size=(23, 3))


def square(params, x):
    return params["W"] @ x**2


PARAMS = {"W": np.arange(6.0).reshape(2, 3)}


def begin(out: Path, units: int = 3, **options) -> None:
    """A run that ends after some units."""

    class Ending(np.ndarray):
        def __getitem__(self, index):
            if isinstance(index, slice) and index.start >= 4 * units:
                raise DataError("the end of the begin")
            return super().__getitem__(index)

    with pytest.raises(DataError, match="end of the begin"):
        go(out, X=X.view(Ending), **options)


def go(out: Path, model=square, wants=("jacobian", "value"), X=X, params=PARAMS, **options):
    options = {"unit_size": 4, "devices": 1, "progress": False} | options
    return store.run(model, list(wants), X, out, params=params, **options)


def right(path: Path) -> None:
    np.testing.assert_allclose(zarr.open_group(str(path))["value"][:], (X**2) @ PARAMS["W"].T, rtol=1e-14)


def test_resume_keeps_what_is_complete(tmp_path):
    begin(tmp_path / "d.zarr")
    report = go(tmp_path / "d.zarr", resume=True, unit_size=None, devices=None)  # taken over from the store
    assert (report.units, report.units_kept) == (6, 3)
    assert "3 of 6 units were complete before" in str(report)
    right(tmp_path / "d.zarr")
    again = go(tmp_path / "d.zarr", resume=True)
    assert again.units_kept == 6
    assert again.rows == report.rows


def other_square(params, x):
    return params["W"] @ x**3


@pytest.mark.parametrize(
    ("changed", "named"),
    {
        "model": ({"model": other_square}, r"other model"),
        "parameters": ({"params": {"W": np.ones((2, 3))}}, "other parameters"),
        "inputs": ({"X": X + 1}, "other inputs"),
        "a sample": ({"X": np.where(np.arange(23)[:, None] == 11, 0, X)}, "other inputs"),
        "wants": ({"wants": ("value", "hessian")}, r"wants: jacobian, value there, value, hessian here"),
        "strategy": ({"strategy": "reverse", "wants": ("jacobian", "value")}, r"strategy: auto there, reverse here"),
        "chunk": ({"chunk_size": 2}, r"chunk_size: auto there, 2 here"),
        "unit": ({"unit_size": 5}, r"unit_size: 4 there, 5 here"),
        "devices": ({"devices": 2}, r"devices: 1 there, 2 here"),
    }.values(),
)
def test_another_run_is_refused_and_named(tmp_path, changed, named):
    begin(tmp_path / "d.zarr")
    before = results(tmp_path / "d.zarr") if "wants" not in changed else None
    with pytest.raises(DataError, match=rf"belongs to another run .*{named}"):
        go(tmp_path / "d.zarr", resume=True, **changed)
    if before is not None:
        assert before == results(tmp_path / "d.zarr")


def test_another_version_is_refused(tmp_path, monkeypatch):
    begin(tmp_path / "d.zarr")
    monkeypatch.setattr("nablax.__version__", "77.7")
    with pytest.raises(DataError, match=r"nablax: .* there, 77\.7 here"):
        go(tmp_path / "d.zarr", resume=True)


def test_comments_and_names_of_a_model_are_no_difference(tmp_path):
    begin(tmp_path / "d.zarr")

    def renamed(parameters, sample):  # with a comment
        return parameters["W"] @ sample**2

    assert go(tmp_path / "d.zarr", resume=True, model=renamed).units_kept == 3


def test_resuming_what_is_no_store(tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("years of work")
    with pytest.raises(DataError, match="no store of nablax"):
        go(tmp_path / "thesis", resume=True)
    zarr.create_group(str(tmp_path / "other.zarr"))
    with pytest.raises(DataError, match="no store of nablax"):
        go(tmp_path / "other.zarr", resume=True)


def test_options_that_exclude_each_other(tmp_path):
    with pytest.raises(OptionError, match="exclude"):
        go(tmp_path / "d.zarr", resume=True, overwrite=True)
    with pytest.raises(OptionError, match=r'on_nonfinite.*"warn"'):
        go(tmp_path / "d.zarr", on_nonfinite="ignore")
    with pytest.raises(OptionError, match=r"devices=9.*from 1 to 4"):
        go(tmp_path / "d.zarr", devices=9)
    with pytest.raises(OptionError, match="derivatives by parameters"):
        store.run(lambda x: x, ["gram"], X, tmp_path / "d.zarr")
    assert not (tmp_path / "d.zarr").exists()


def test_an_interrupt_in_a_library_call(tmp_path, request):
    # What a shell has started in the background ignores the signal.
    request.addfinalizer(functools.partial(signal.signal, signal.SIGINT, signal.getsignal(signal.SIGINT)))
    signal.signal(signal.SIGINT, signal.default_int_handler)

    class Pressing(np.ndarray):
        def __getitem__(self, index):
            if isinstance(index, slice) and index.start == 12:
                os.kill(os.getpid(), signal.SIGINT)
            return super().__getitem__(index)

    with pytest.raises(RunInterrupted, match=r"SIGINT: \d of 6 units are complete") as caught:
        go(tmp_path / "d.zarr", X=X.view(Pressing))
    assert isinstance(caught.value, KeyboardInterrupt)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    report = go(tmp_path / "d.zarr", resume=True)
    assert 0 < report.units_kept < 6
    right(tmp_path / "d.zarr")


@pytest.mark.parametrize("devices", [2, 4])
def test_devices_share_units_and_ask_each_other_nothing(tmp_path, devices, monkeypatch):
    texts, original = [], store.streaming.Job.programs

    def programs(*arguments):
        found = original(*arguments)
        texts.extend(found.texts)
        return found

    monkeypatch.setattr(store.streaming.Job, "programs", programs)
    wants = ("hessian", "squared_norms", "gram")
    report = go(tmp_path / "d.zarr", wants=wants, devices=devices, unit_size=6, chunk_size=2)
    assert report.devices == devices
    assert f"on {devices} devices" in str(report)
    go(tmp_path / "e.zarr", wants=wants, devices=1, unit_size=8)
    for want in wants:
        one, other = (zarr.open_group(str(tmp_path / name))[want][:] for name in ("d.zarr", "e.zarr"))
        np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-13)
    assert len(texts) == 4
    assert not re.findall(r"all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter", "".join(texts))


def test_the_fastest_number_of_devices_is_measured_where_it_matters(tmp_path, monkeypatch):
    monkeypatch.setattr("nablax.store.job.WORTH_MEASURING", 0.0)
    assert go(tmp_path / "d.zarr", devices=None).devices in (1, 4)
    monkeypatch.setattr("nablax.store.job.Programs.seconds", lambda self, unit: 1.0 / self.layout.devices)
    assert go(tmp_path / "e.zarr", devices=None).devices == 4
    monkeypatch.setattr("nablax.store.job.Programs.seconds", lambda self, unit: 1.0)
    assert go(tmp_path / "f.zarr", devices=None).devices == 1


def test_wants_of_parameters(tmp_path):
    import nablax

    model = lambda params, x: jnp.tanh(params["W"] @ x)
    wants = ["parameter_jacobian", "squared_norms", "gram", "laplacian"]
    store.run(model, wants, X, tmp_path / "d.zarr", params=PARAMS, unit_size=5, progress=False)
    group = zarr.open_group(str(tmp_path / "d.zarr"))
    operator = nablax.parameter_jacobian(model)(PARAMS, X)
    for want, expected in {
        "parameter_jacobian": operator.dense(),
        "squared_norms": operator.squared_norms(),
        "gram": operator.gram(),
        "laplacian": nablax.laplacian(model)(PARAMS, X),
    }.items():
        np.testing.assert_allclose(group[want][:], expected, rtol=1e-12, atol=1e-12)
    axes = {want: group[want].metadata.dimension_names for want in wants}
    assert axes["parameter_jacobian"] == ("sample", "output", "parameter")
    assert axes["gram"] == ("sample", "output", "sample_2", "output_2")
    assert group["gram"].chunks == (5, 2, 5, 2)


def test_a_complex_gram_is_hermitian_on_disk_too(tmp_path):
    model = lambda params, x: jnp.exp(1j * (params["W"] @ x))
    store.run(model, ["gram"], X, tmp_path / "d.zarr", params=PARAMS, unit_size=5, progress=False)
    K = zarr.open_group(str(tmp_path / "d.zarr"))["gram"][:]
    assert np.abs(K.imag).max() > 0.1
    np.testing.assert_array_equal(K, K.transpose(2, 3, 0, 1).conj())


def test_a_device_without_memory_halves_the_chunk_and_says_so_once(tmp_path, monkeypatch):
    """What a device without memory says is made up; that the run goes on with half of the samples at once is not."""
    original = store.job.Program._compile
    chunks = []

    def compile_(self):
        compiled = original(self)
        chunks.append(self.chunk)
        assert jax.config.jax_numpy_rank_promotion == "allow"  # as around the call, in whatever thread this is

        def run(*arguments):
            if self.chunk > 4:
                raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 1 TiB.")
            return compiled(*arguments)

        return run

    monkeypatch.setattr(store.job.Program, "_compile", compile_)
    with jax.numpy_rank_promotion("allow"):
        report = go(tmp_path / "d.zarr", unit_size=16, chunk_size=16)
    assert chunks == [16, 8, 4]
    assert str(report).count("ran out of memory") == 1
    assert report.halved == (4,)
    right(tmp_path / "d.zarr")


def test_a_store_is_created_as_a_whole_or_not_at_all(tmp_path, monkeypatch):
    monkeypatch.setattr("nablax.store.zarr_store.os.replace", lambda *_: (_ for _ in ()).throw(OSError("no")))
    with pytest.raises(DataError, match="cannot be written"):
        go(tmp_path / "d.zarr")
    assert list(tmp_path.iterdir()) == []


def test_half_written_files_are_removed(tmp_path):
    begin(tmp_path / "d.zarr")
    (tmp_path / "d.zarr" / "value" / "c" / "5.abc.partial").write_text("half")
    (tmp_path / "d.zarr" / FOLDER / "000005.json.partial").write_text("{")
    go(tmp_path / "d.zarr", resume=True)
    assert not list(tmp_path.rglob("*.partial"))


def test_no_room(tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=100))
    with pytest.raises(DataError, match=r"results take 1\.4 KiB, and the disk has 100 B left"):
        go(tmp_path / "d.zarr")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def small_disk(tmp_path):
    """A disk of a mebibyte."""
    place = tmp_path / "disk"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", place], capture_output=True).returncode:
        pytest.skip("this user may not mount anything")
    yield place
    subprocess.run(["umount", place], check=True)


def test_a_full_disk(small_disk):
    """Room was there at the beginning, and somebody else took it."""
    out, filler = small_disk / "d.zarr", small_disk / "filler"

    class Filling(np.ndarray):
        def __getitem__(self, index):
            if isinstance(index, slice) and index.start == 16000:
                with suppress(OSError), filler.open("wb", buffering=0) as file:
                    while True:
                        file.write(bytes(1024))
            return super().__getitem__(index)

    X = np.random.default_rng(2).normal(size=(20000, 3))
    options = {"wants": ("value",), "unit_size": 2000}
    with pytest.raises(DataError, match=r"writing unit \d+ of 10 failed .*No space left.*resume=True"):
        go(out, X=X.view(Filling), **options)
    done = Records(out).numbers()
    assert 4 <= len(done) < 10
    assert not list(out.rglob("*.partial"))
    with pytest.raises(DataError, match="No space left"):
        go(out, X=X, resume=True, **options)
    filler.unlink()
    report = go(out, X=X, resume=True, **options)
    assert report.units_kept >= len(done)
    np.testing.assert_allclose(zarr.open_group(str(out))["value"][:], (X**2) @ PARAMS["W"].T, rtol=1e-12)
