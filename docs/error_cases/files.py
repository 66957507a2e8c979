"""Files and stores that cannot be read or written, and models that cannot be found."""

import contextlib
import shutil
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from error_cases import Case

MODEL = "import jax.numpy as jnp\n\ndef network(x):\n    return jnp.sin(x)\n\nSIZE = 3\n"
TEXTS = {
    "model.py": MODEL,
    "module.py": "import equinox, jax\n\nnet = equinox.nn.Linear(3, 2, key=jax.random.key(0))\n",
    "broken.py": MODEL.replace("import jax.numpy as jnp", "WEIGHT = jnp.ones(3)"),
    "text.csv": "age,bmi\n51,24.1\n48,unknown\n",
    "numbers.csv": "51,24.1\n48,22.9\n",
    "ragged.csv": "age,bmi\n51,24.1\n48\n",
    "header.csv": "age,bmi\n",
    "quote.csv": 'age,bmi\n51,"24.1\n' + 20000 * "48,22.9\n",
    "X.txt": "1 2 3\n",
}


class FailingDisk:
    """Samples whose store breaks while a unit is read: a folder of it becomes a file."""

    def __init__(self, X: np.ndarray, store: str) -> None:
        self.breaking = threading.Lock()  # units are read by several threads
        self.X, self.store, self.shape, self.dtype, self.ndim = X, Path(store), X.shape, X.dtype, X.ndim

    def __len__(self) -> int:
        return len(self.X)

    def __getitem__(self, index: slice) -> np.ndarray:
        with self.breaking:
            if (self.store / "jacobian").is_dir():
                (self.store / "jacobian").rename(self.store / "lost")
                (self.store / "jacobian").write_text("")
        return self.X[index]


@contextlib.contextmanager
def without(module: str) -> Iterator[None]:
    """Pretends that a module is not installed."""
    found = sys.modules.get(module)
    sys.modules[module] = None  # pyright: ignore[reportArgumentType]
    try:
        yield
    finally:
        del sys.modules[module]
        if found is not None:
            sys.modules[module] = found


def prepare(folder: Path) -> None:
    """Writes the files that the cases name."""
    for name, text in TEXTS.items():
        (folder / name).write_text(text)
    X = np.linspace(0, 1, 24, dtype=np.float32).reshape(8, 3)
    np.save(folder / "X.npy", X)
    np.save(folder / "integers.npy", np.arange(24).reshape(8, 3))
    np.save(folder / "empty.npy", X[:0])
    np.save(folder / "objects.npy", np.array([{}, None]), allow_pickle=True)
    np.savez(folder / "two.npz", train=X, test=X)
    np.savez(folder / "params.npz", **{"hidden": X, "hidden/bias": X})
    np.savez(folder / "weights.npz", W=X)
    np.savez(folder / "strings.npz", activation=np.array("tanh"))
    whole = (folder / "X.npy").read_bytes()
    (folder / "truncated.npy").write_bytes(whole[:-10])
    (folder / "latin.csv").write_bytes(b"\xe9t\xe9\n1\n")
    _prepare_tables(folder)
    _prepare_stores(folder, X)
    (folder / "notes").mkdir()
    (folder / "notes" / "todo.txt").write_text("")


def _prepare_tables(folder: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    for name, values in {
        "X": [0.5, 1.5],
        "text": ["yes", "no"],
        "null": [0.5, None],
        "identifiers": [1, 2**53 + 1],
    }.items():
        parquet.write_table(pyarrow.table({"age": [51.0, 48.0], "bmi": values}), folder / f"{name}.parquet")
    whole = (folder / "X.parquet").read_bytes()
    (folder / "truncated.parquet").write_bytes(whole[:-10])


def _prepare_stores(folder: Path, X: np.ndarray) -> None:
    import zarr

    from nablax import store

    store.run(lambda x: 2 * x, ["value"], X, folder / "d_of_X.zarr", devices=1, progress=False)
    shutil.copytree(folder / "d_of_X.zarr", folder / "no_unit.zarr")
    zarr.open_group(str(folder / "no_unit.zarr"), mode="r+").attrs["complete"] = False
    zarr.create_array(str(folder / "X.zarr"), shape=X.shape, dtype=X.dtype)[:] = X
    shutil.copytree(folder / "X.zarr", folder / "damaged.zarr")
    (folder / "damaged.zarr" / "c" / "0" / "0").write_bytes(b"")
    zarr.create_group(str(folder / "begun.zarr"), attributes={"complete": False})
    (folder / "empty.zarr").mkdir()


def names(folder: Path) -> dict:
    """What the code of these cases uses besides the rest."""
    from nablax import cli, store

    return {
        "derive": lambda line: cli.main(["derive", *line.split(), "--debug"]),
        "store": store,
        "sine": lambda x: np.pi * x,
        "pair": lambda x: (x, 2 * x),
        "F": np.linspace(0, 1, 24, dtype=np.float32).reshape(8, 3),
        "FailingDisk": FailingDisk,
        "without": without,
    }


CASES = [
    Case(
        'derive("model.py --inputs X.npy")',
        "The function in the file is not named.",
        "Write FILE.py:FUNCTION.",
    ),
    Case(
        'derive("modell.py:network --inputs X.npy")',
        "No such model file.",
        "Check the path.",
    ),
    Case(
        'derive("broken.py:network --inputs X.npy")',
        "The model file is run, and raised an exception.",
        "Run it with python to see the whole traceback, or add --debug.",
    ),
    Case(
        'derive("model.py:net --inputs X.npy")',
        "The file has no function of that name.",
        "Use one of the names in the message.",
    ),
    Case(
        'store.read_inputs("X.txt")',
        "The ending of the file is none that is read.",
        "Save the samples as .npy, .npz, .zarr, .csv or .parquet.",
    ),
    Case(
        'store.read_inputs("missing.npy")',
        "No such file.",
        "Check the path.",
    ),
    Case(
        'store.read_inputs("truncated.npy")',
        "The file is shorter than its header says, or is no NumPy file; a copy may have been cut off.",
        "Write or copy it again.",
    ),
    Case(
        'store.read_inputs("objects.npy")',
        "The array holds Python objects, which only unpickling could read.",
        "Save numbers: convert the array to a floating point dtype first.",
    ),
    Case(
        'store.read_inputs("two.npz")',
        "A .npz file with several arrays, none of them called X.",
        "Name one behind the file: two.npz:train.",
    ),
    Case(
        'store.read_inputs("empty.npy")',
        "The array has no samples, or no axis for them.",
        "Save an array whose axis 0 counts the samples.",
    ),
    Case(
        'store.read_inputs("integers.npy")',
        "Integers cannot be differentiated, and converting a large file silently would cost its memory again.",
        "Convert the file once, as the message shows.",
    ),
    Case(
        'store.read_inputs("missing.csv")',
        "No such file.",
        "Check the path.",
    ),
    Case(
        'store.read_inputs("latin.csv")',
        "The text is not in UTF-8.",
        "Save the table in UTF-8.",
    ),
    Case(
        'store.read_inputs("header.csv")',
        "There is a header and nothing below it, or the file is empty.",
        "Check how the table was written.",
    ),
    Case(
        'store.read_inputs("ragged.csv")',
        "A row is longer or shorter than the first one.",
        "Look at that row; a comma inside a number is a usual cause.",
    ),
    Case(
        'store.read_inputs("text.csv")',
        "A cell holds text, or nothing.",
        "Replace it by a number, or leave that row or column out.",
    ),
    Case(
        'store.read_inputs("quote.csv")',
        "A quotation mark is opened and never closed, so that the rest of the file is one cell.",
        "Look at that row.",
    ),
    Case(
        'store.read_inputs("numbers.csv", scratch="nowhere")',
        "The folder for temporary files does not exist, cannot be written, or is full.",
        "Give another folder: the numbers of the table need 8 bytes each.",
    ),
    Case(
        'with without("pyarrow"): store.read_inputs("X.parquet")',
        "pyarrow is not installed.",
        "Install it, or save the table in another format.",
    ),
    Case(
        'store.read_inputs("truncated.parquet")',
        "The file is no Parquet file; a copy may have been cut off.",
        "Write or copy it again.",
    ),
    Case(
        'store.read_inputs("text.parquet")',
        "A column holds text, dates, truth values or lists.",
        "Leave it out, or encode it in numbers.",
    ),
    Case(
        'store.read_inputs("null.parquet")',
        "A cell is empty.",
        "Fill it, or leave that row or column out. NaN is a number here, and is read.",
    ),
    Case(
        'store.read_inputs("identifiers.parquet")',
        "An integer is too large for float64, such as a key of 64 bits.",
        "Leave the column out; if it is a quantity, save it as floating point.",
    ),
    Case(
        'with without("zarr"): store.read_inputs("X.zarr")',
        "zarr is not installed.",
        "Install the extra that the message names.",
    ),
    Case(
        'store.read_inputs("missing.zarr")',
        "No such store.",
        "Check the path.",
    ),
    Case(
        'store.read_inputs("empty.zarr")',
        "The folder holds no zarr array or group, or its metadata is damaged.",
        "Write or copy it again.",
    ),
    Case(
        'store.read_inputs("begun.zarr")',
        "A store of derivatives that were not all written.",
        "Go on with the run that writes it.",
    ),
    Case(
        'store.read_inputs("X.zarr:train")',
        "The store is no group, so there is nothing to choose from.",
        "Leave the name out.",
    ),
    Case(
        'store.read_inputs("damaged.zarr").array[:4]',
        "A file of the store is damaged or cut off.",
        "Write or copy the store again.",
    ),
    Case(
        'store.inspect_store("missing.zarr")',
        "No such store.",
        "Check the path.",
    ),
    Case(
        'store.inspect_store("X.zarr")',
        "The folder holds something else, or files of the store are damaged or missing.",
        "Give the folder that `derive` wrote, or write it again.",
    ),
    Case(
        'with without("matplotlib.figure"): store.plot_store("d_of_X.zarr", "d.png")',
        "matplotlib is not installed.",
        "Install it.",
    ),
    Case(
        'store.plot_store("no_unit.zarr", "d.png")',
        "The run was ended before its first unit was complete.",
        "Let it go on (--resume).",
    ),
    Case(
        'store.plot_store("d_of_X.zarr", "d.docx")',
        "The picture has an ending that matplotlib does not know, or its folder cannot be written.",
        "Give another path.",
    ),
    Case(
        'store.save_parameters("p.npz", {"hidden/bias": 1.0})',
        "The sign / separates levels in the file, so a key cannot contain it.",
        "Rename the key.",
    ),
    Case(
        'store.save_parameters("p.npz", {"layers": []})',
        "An empty level leaves no trace in the file.",
        "Leave it out.",
    ),
    Case(
        'store.save_parameters("p.npz", {"activation": "tanh"})',
        "A leaf is no array of numbers.",
        "Keep the numbers only; what is no number belongs into the model file.",
    ),
    Case(
        'store.save_parameters("nowhere/p.npz", {"weight": 1.0})',
        "The folder does not exist, cannot be written, or is full.",
        "Make the folder, or give another path.",
    ),
    Case(
        'store.load_parameters("strings.npz")',
        "An array in the file holds text.",
        "Save the numbers only.",
    ),
    Case(
        'store.load_parameters("params.npz")',
        "A name in the file is an array and a level of the tree at once.",
        "Rename one of the two arrays.",
    ),
    Case(
        'store.run(sine, ["jacobian"], F, "d.zarr", unit_size=0)',
        "A unit holds at least one sample.",
        "Give a positive int, or leave unit_size out.",
    ),
    Case(
        'store.run(sine, ["jacobian"], F, "d.zarr", feature_names=["a", "b"])',
        "There are more or fewer names than entries of x.",
        "Name each entry of x.",
    ),
    Case(
        'store.run(pair, ["jacobian"], F, "d.zarr")',
        "The model returns a tuple or a dict, and the store has one array for each want.",
        "Return one array: jnp.concatenate, or one run for each output.",
    ),
    Case(
        'store.run(sine, ["jacobian"], F, "notes")',
        "The store exists.",
        "Give another path, or overwrite=True (--overwrite).",
    ),
    Case(
        'store.run(sine, ["jacobian"], F, "notes", overwrite=True)',
        "The folder exists and holds something else; it is not deleted.",
        "Give another path.",
    ),
    Case(
        'store.run(sine, ["jacobian"], F, "X.npy/d.zarr")',
        "The folder cannot be made: no permission, no space, or a file is in the way.",
        "Give a path that can be written.",
    ),
    Case(
        'store.run(sine, ["jacobian"], FailingDisk(F, "d.zarr"), "d.zarr", unit_size=4)',
        "Writing failed on the way: no space left, or the store was touched. Its attribute complete stays false.",
        "Free some space and run it again with overwrite=True.",
    ),
]
