"""Inputs of every format: the same samples, in memory that does not grow with the file, and errors for the rest."""

import csv
import json
import os
import pickle
import shutil
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pyarrow
import pytest
import zarr
from pyarrow import parquet

from nablax.errors import DataError
from nablax.store import inputs, read_inputs, tables
from nablax.store.inputs import digest
from nablax.store.samples import Samples

C, D = 3, 20
X = np.random.default_rng(1).normal(size=(D, C))
NAMES = ("age", "bmi", "bp, mean")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_csv(path, rows, names=None, **options):
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file, **options).writerows([*([names] if names else []), *(map(repr, row) for row in rows)])


def write_zarr(path, values=X, **options):
    zarr.create_array(path, shape=values.shape, dtype=values.dtype, **options)[...] = values


def write_parquet(path, columns):
    names = [f"c{k}" for k in range(len(columns))] if isinstance(columns, list) else None
    parquet.write_table(pyarrow.table(columns, names=names), path)


def write_npy(path, header, body=b"\0" * 48):
    """A .npy file with any text as its header."""
    header += " " * (63 - (10 + len(header)) % 64) + "\n"
    Path(path).write_bytes(b"\x93NUMPY\x01\0" + struct.pack("<H", len(header)) + header.encode() + body)


class TestSamples:
    """What is read is what was written."""

    def test_every_format_holds_the_same_samples(self, folder):
        np.save("X.npy", X)
        np.savez("X.npz", X)
        np.savez("two.npz", X=X, y=X[:, 0])
        write_csv("X.csv", X.tolist(), NAMES)
        write_parquet("X.parquet", dict(zip(NAMES, X.T, strict=True)))
        write_zarr("three.zarr", chunks=(6, 2))
        write_zarr("two.zarr", chunks=(6, 2), zarr_format=2)
        group = zarr.create_group("group.zarr")
        group.create_array("only", shape=X.shape, dtype=X.dtype)[:] = X
        group.create_array("input", shape=(C,), dtype=str)[:] = np.array(NAMES, dtype=object)
        group = zarr.create_group("deep.zarr")
        group.create_array("test", shape=(2, 2), dtype="f8")
        group.create_group("train").create_array("X", shape=X.shape, dtype=X.dtype)[:] = X
        numpy, stores = ("X.npy", "X.npz", "two.npz"), ("three.zarr", "two.zarr", "group.zarr", "deep.zarr:train/X")
        for name in (*numpy, *stores, "X.csv", "X.parquet"):
            read = read_inputs(name)
            assert read.array.shape == (D, C) == (len(read.array), C), name
            assert read.array.dtype == np.float64
            np.testing.assert_array_equal(read.array[4:11], X[4:11], err_msg=name)
            assert type(Samples(read.array, np.float32)[4:11]) is np.ndarray
            np.testing.assert_array_equal(read.array[np.array([3, 17])], X[[3, 17]], err_msg=name)  # as `check` reads
            assert read.names == (NAMES if name in ("X.csv", "X.parquet") else None)
            assert digest(read.array) == digest(X)

    def test_tables_are_mapped_for_reading_and_leave_nothing_behind(self, folder):
        (folder / "scratch").mkdir()
        write_csv("X.csv", X.tolist())
        write_parquet("X.parquet", list(X.T))
        for name in ("X.csv", "X.parquet"):
            read = read_inputs(name, scratch=folder / "scratch").array
            assert isinstance(read, np.memmap)
            assert read.mode == "r"
            assert not os.listdir("scratch")  # although it is in use: nothing is left after a SIGKILL either
            np.testing.assert_array_equal(read, X)

    @pytest.mark.parametrize("piece", [1, 40, 2**20])
    def test_pieces_do_not_show(self, folder, monkeypatch, piece):
        monkeypatch.setattr(tables, "PIECE", piece)
        write_csv("X.csv", X.tolist(), NAMES)
        write_parquet("X.parquet", list(X.T))
        for name in ("X.csv", "X.parquet"):
            np.testing.assert_array_equal(read_inputs(name).array, X)


class TestCsv:
    @pytest.mark.parametrize("piece", [1, 2**20])
    @pytest.mark.parametrize(
        ("text", "names", "rows"),
        [
            (b"1,2\r\n3,4\r\n", None, [[1, 2], [3, 4]]),
            (b"a,b\r1,2\r3,4", ("a", "b"), [[1, 2], [3, 4]]),
            (b"\xef\xbb\xbf a ,b\n1,2\n", ("a", "b"), [[1, 2]]),
            (b"\n\na,b\n\n1,2\n\n\n3,4\n\n", ("a", "b"), [[1, 2], [3, 4]]),
            (b'"a","b,c"\n"1","2"\n', ("a", "b,c"), [[1, 2]]),
            (b'"a\nb",c\n1,2\n', ("a\nb", "c"), [[1, 2]]),
            (b'a\n"1\n"\n2\n', ("a",), [[1], [2]]),
            (b"a\n1\n\n2", ("a",), [[1], [2]]),
            (b"1, 2\n 3 ,4\n", None, [[1, 2], [3, 4]]),
            (b"nan,inf\n-inf,NaN\nInfinity,+1.\n", None, [[np.nan, np.inf], [-np.inf, np.nan], [np.inf, 1]]),
            (b"1e400,-.5e-3\n", None, [[np.inf, -0.0005]]),
            ("größe,x\n\uff11,2\n3,4\n".encode(), ("größe", "x"), [[1, 2], [3, 4]]),  # digits that only Python reads
            (b"#a,b\n1,2\n", ("#a", "b"), [[1, 2]]),
            (b"a,a\n1,2\n", ("a", "a"), [[1, 2]]),
        ],
    )
    def test_tables_as_programs_write_them(self, folder, monkeypatch, text, names, rows, piece):
        monkeypatch.setattr(tables, "PIECE", piece)
        (folder / "X.csv").write_bytes(text)
        read = read_inputs("X.csv")
        assert read.names == names
        np.testing.assert_array_equal(read.array, rows)

    @pytest.mark.parametrize("piece", [1, 2**20])
    @pytest.mark.parametrize(
        ("text", "message"),
        [
            (b"", "no rows of numbers"),
            (b"\n\n", "no rows of numbers"),
            (b"a,b\n", "no rows of numbers"),
            (b"a,b\n1,2\n3,x\n", r"row 3, column 2 \(b\) holds 'x', which is not a number"),
            (b"a,b\n\n1,2\n\n3,1_000\n", r"row 5, column 2 \(b\) holds '1_000'"),
            (b"1,2\n3\n", "row 2 has 1 columns; 2 are expected"),
            (b"1,2\n3,4,5\n", "row 2 has 3 columns; 2 are expected"),
            (b"1,2\n   \n", "row 2 has 1 columns"),
            (b"1,2,\n", "row 1, column 3 holds '', which is not a number; a header must name every column"),
            (b"a,b\n1,\n", r"row 2, column 2 \(b\) holds ''"),
            (b"a;b\n1;2\n", "columns must be separated by commas"),
            (b"1,2#c\n", "column 2 holds '2#c'"),
            (b"0x10,1\n", "column 1 holds '0x10'"),
            (b"a\n1+2j\n", r"column 1 \(a\) holds '1\+2j'"),
            (b'a,b\n1,2\n3,"4\n5,6\n', r"row 3, column 2 \(b\) holds"),
            (b"1,2\0\n", "row 1, column 2 holds"),
            (b"\xff\xfea\0", "cannot be read as text"),
            (b"1,2\n\xe9,4\n", "cannot be read as text"),
            (b"a\n" + b"x" * 99, r"holds '" + "x" * 40 + r"'\.\.\., which is not"),
            (b'a\n1\n"' + b"2\n" * 70_000, r"row 3 cannot be split into columns \(field larger .* quotation mark"),
        ],
    )
    def test_what_is_no_number_is_named_by_row_and_column(self, folder, monkeypatch, text, message, piece):
        monkeypatch.setattr(tables, "PIECE", piece)
        (folder / "X.csv").write_bytes(text)
        with pytest.raises(DataError, match=rf"X.csv: .*{message}"):
            read_inputs("X.csv")

    def test_a_fault_far_behind_is_found(self, folder, monkeypatch):
        monkeypatch.setattr(tables, "PIECE", 1000)
        (folder / "X.csv").write_text("a,b\n" + "1.5,2\n" * 5000 + "3,four\n" + "1.5,2\n" * 100)
        with pytest.raises(DataError, match=r"row 5002, column 2 \(b\) holds 'four'"):
            read_inputs("X.csv")


class TestParquet:
    def test_types_of_columns(self, folder):
        f4, i2, i8 = X[:, 0].astype("f4"), np.arange(D, dtype="i2"), np.arange(D) * 2**48
        for columns, dtype in (([f4, f4], "f4"), ([f4, X[:, 1]], "f8"), ([f4, i2], "f8"), ([i2, -i8], "f8")):
            write_parquet("X.parquet", columns)
            read = read_inputs("X.parquet").array
            assert read.dtype == dtype
            np.testing.assert_array_equal(read, np.stack([c.astype("f8") for c in columns], axis=1))

    def test_a_column_of_vectors(self, folder, monkeypatch):
        monkeypatch.setattr(tables, "PIECE", 8 * C * 7)
        vectors = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(X.ravel()), C)
        write_parquet("X.parquet", {"embedding": vectors})
        read = read_inputs("X.parquet")
        assert read.names is None
        np.testing.assert_array_equal(read.array, X)

    def test_an_index_of_pandas_is_no_feature(self, folder):
        pandas = pytest.importorskip("pandas")
        pandas.DataFrame(X, columns=NAMES, index=np.arange(D)[::-1].copy()).to_parquet("X.parquet")
        read = read_inputs("X.parquet")
        assert read.names == NAMES
        np.testing.assert_array_equal(read.array, X)

    def test_nan_is_a_number(self, folder):
        write_parquet("X.parquet", [pyarrow.array([0.5, float("nan")])])
        np.testing.assert_array_equal(read_inputs("X.parquet").array, [[0.5], [np.nan]])

    @pytest.mark.parametrize(
        ("columns", "message"),
        [
            ({"a": [1.0], "b": ["x"]}, r"column 2 \(b\) holds values of type string, which are no numbers"),
            ({"a": [True]}, r"column 1 \(a\) holds values of type bool"),
            ({"a": [[1.0], [2.0]]}, r"column 1 \(a\) holds values of type list"),
            ({"a": np.array(["2026-01-01"], "M8[s]")}, "holds values of type timestamp"),
            ({"a": [0.5, 1.5], "b": [3, None]}, r"row 2, column 2 \(b\) is empty \(null\)"),
            (
                {"a": [0.5, 1.5], "b": [2**53 + 1, 2]},
                r"row 1, column 2 \(b\) holds 9007199254740993, .* beyond 2\*\*53",
            ),
            ({"a": [0, -(2**63)]}, r"row 2, column 1 \(a\) holds -9223372036854775808"),
            ({"a": np.array([2**64 - 1], "u8")}, r"row 1, column 1 \(a\) holds 18446744073709551615"),
            ({"a": np.zeros(0)}, "no rows of numbers"),
            ({}, "no rows of numbers"),
        ],
    )
    def test_what_is_no_number_is_named(self, folder, columns, message):
        write_parquet("X.parquet", columns)
        with pytest.raises(DataError, match=rf"X.parquet: .*{message}"):
            read_inputs("X.parquet")

    def test_the_row_is_counted_over_all_pieces(self, folder, monkeypatch):
        monkeypatch.setattr(tables, "PIECE", 80)
        write_parquet("X.parquet", {"a": [0.5] * 99 + [None]})
        with pytest.raises(DataError, match=r"row 100, column 1 \(a\)"):
            read_inputs("X.parquet")
        entries = pyarrow.array([0.5] * 98 + [None, 0.5])
        write_parquet("X.parquet", {"a": pyarrow.FixedSizeListArray.from_arrays(entries, 2)})
        with pytest.raises(DataError, match=r"row 50, entry 1 is empty"):
            read_inputs("X.parquet")

    def test_damaged_files(self, folder):
        write_parquet("whole.parquet", list(X.T))
        whole = Path("whole.parquet").read_bytes()
        for bad in (
            b"",
            b"PAR1",
            whole[:-9],
            whole[60:],
            b"garbage" * 30,
            b"PAR1" + bytes(len(whole) - 8) + whole[-4:],
        ):
            Path("X.parquet").write_bytes(bad)
            with pytest.raises(DataError, match=r"X.parquet: the file is damaged, cut off, or no Parquet file"):
                read_inputs("X.parquet")

    def test_without_pyarrow(self, folder, monkeypatch):
        write_parquet("X.parquet", list(X.T))
        monkeypatch.setitem(sys.modules, "pyarrow", None)
        with pytest.raises(DataError, match=r'pip install "nablax\[parquet\]"'):
            read_inputs("X.parquet")


class TestZarr:
    @pytest.fixture(autouse=True)
    def stores(self, folder):
        write_zarr("X.zarr", chunks=(5, C))
        zarr.create_group("two.zarr")
        for name in ("train", "test"):
            write_zarr(f"two.zarr/{name}")
        zarr.create_group("none.zarr")
        zarr.create_group("begun.zarr", attributes={"complete": False})
        write_zarr("begun.zarr/X")
        write_zarr("integers.zarr", np.arange(6).reshape(2, 3))
        write_zarr("complex.zarr", 1j * X)
        write_zarr("empty.zarr", X[:0])
        write_zarr("scalar.zarr", X[0, 0])
        for name, text in (("cut", '{"zarr_format": 3, "node'), ("thin", '{"zarr_format": 3, "node_type": "array"}')):
            Path(f"{name}.zarr").mkdir()
            Path(f"{name}.zarr", "zarr.json").write_text(text)
        Path("folder.zarr").mkdir()
        Path("file.zarr").write_text("")

    @pytest.mark.parametrize(
        ("name", "message"),
        [
            ("two.zarr", "two.zarr: it holds the arrays test, train; name one of them as two.zarr:NAME"),
            ("two.zarr:valid", "holds the arrays test, train, but none named 'valid'"),
            ("none.zarr", r"holds the arrays \(none\)"),
            ("X.zarr:train", "the store is an array and holds none named 'train'"),
            ("begun.zarr", "not complete"),
            ("integers.zarr", "dtype int64; derivatives need real floating point"),
            ("complex.zarr", r"dtype complex128; .*np.concatenate\(\[X.real, X.imag\]"),
            ("empty.zarr", r"shape \(0, 3\); axis 0 must count at least one sample"),
            ("scalar.zarr", r"shape \(\); axis 0 must count at least one sample"),
            ("cut.zarr", "no zarr store, or a damaged one"),
            ("thin.zarr", "no zarr store, or a damaged one"),
            ("folder.zarr", "no zarr store, or a damaged one"),
            ("file.zarr", "no such store; a zarr store is a folder"),
            ("missing.zarr", "no such store"),
        ],
    )
    def test_stores_that_hold_no_samples(self, name, message):
        with pytest.raises(DataError, match=message):
            read_inputs(name)

    def test_a_damaged_chunk_is_named_when_it_is_read(self):
        shutil.copytree("X.zarr", "damaged.zarr")
        chunk = Path("damaged.zarr/c/2/0")
        chunk.write_bytes(chunk.read_bytes()[:20])
        read = read_inputs("damaged.zarr").array
        np.testing.assert_array_equal(read[:10], X[:10])
        with pytest.raises(DataError, match=r"damaged.zarr: samples of the store cannot be read"):
            read[10:15]

    @pytest.mark.parametrize("codec", ["filters", "compressor"])
    @pytest.mark.parametrize("dtype", ["<f8", "|O"])
    def test_a_pickle_in_a_store_is_never_loaded(self, folder, monkeypatch, codec, dtype):
        pickled = {"id": "pickle", "protocol": 5}
        metadata = {"zarr_format": 2, "shape": [2], "chunks": [2], "dtype": dtype, "fill_value": 0, "order": "C"}
        codecs = {"filters": [pickled], "compressor": None} if codec == "filters" else {"filters": None, codec: pickled}
        Path("evil.zarr").mkdir()
        Path("evil.zarr", ".zarray").write_text(json.dumps(metadata | codecs))
        Path("evil.zarr", "0").write_bytes(pickle.dumps(Trap(folder)))
        with pytest.raises(DataError, match=r"evil.zarr"):
            read_inputs("evil.zarr").array[:]
        assert not (folder / "sprung").exists()

    def test_without_zarr(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "zarr", None)
        with pytest.raises(DataError, match=r'pip install "nablax\[cli\]"'):
            read_inputs("X.zarr")


class Trap:
    """Makes a file when it is unpickled."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return (open, (str(self.folder / "sprung"), "w"))


class TestFiles:
    """What is said of a file before, or instead of, its numbers."""

    @pytest.mark.parametrize("ending", ["npy", "npz", "csv", "parquet"])
    def test_files_that_cannot_be_opened(self, folder, monkeypatch, ending):
        Path(f"folder.{ending}").mkdir()
        with pytest.raises(DataError, match="it is a folder"):
            read_inputs(f"folder.{ending}")
        for missing in (f"missing.{ending}", f"nowhere/X.{ending}"):
            with pytest.raises(DataError, match=rf"{missing}: there is no such file"):
                read_inputs(missing)
        for odd in (f"a\0b.{ending}", f"{'x' * 300}.{ending}"):
            with pytest.raises(DataError, match="it cannot be opened"):
                read_inputs(odd)
        os.mkfifo(f"pipe.{ending}")  # opening it would wait for somebody to write
        with pytest.raises(DataError, match="it is no file"):
            read_inputs(f"pipe.{ending}")
        Path(f"secret.{ending}").write_text("1,2\n")

        def refuse(*_, **__):
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(Path, "open", refuse)  # root may read everything
        with pytest.raises(DataError, match=r"it cannot be opened .*Permission denied.*who may read it"):
            read_inputs(f"secret.{ending}")

    def test_a_full_or_missing_folder_for_the_copy(self, folder, monkeypatch):
        write_csv("X.csv", X.tolist())
        with pytest.raises(DataError, match=r"temporary file in nowhere \(No such file.*scratch.*TMPDIR"):
            read_inputs("X.csv", scratch="nowhere")

        class FullDisk:
            close = lambda _: None

            def write(self, _):
                raise OSError(28, "No space left on device")

        monkeypatch.setattr(tables.tempfile, "TemporaryFile", lambda **_: FullDisk())
        with pytest.raises(DataError, match=r"No space left on device.*give a folder with enough space"):
            read_inputs("X.csv")

    @pytest.mark.parametrize(
        ("name", "value", "message"),
        [
            ("i.npy", np.arange(6).reshape(2, 3), "dtype int64; derivatives need real floating point"),
            ("c.npy", 1j * X, r"dtype complex128.*np.concatenate\(\[X.real, X.imag\]"),
            ("b.npy", X > 0, "dtype bool"),
            ("r.npy", np.zeros(3, [("a", "f8")]), "dtype .*'a'"),
            ("s.npy", np.array(["a"]), "dtype <U1"),
            ("zero.npy", X[:0], r"shape \(0, 3\); axis 0 must count at least one sample"),
            ("scalar.npy", X[0, 0], r"shape \(\); axis 0"),
            ("o.npy", np.array([{}, None]), "pickled Python objects, which are never loaded"),
        ],
    )
    def test_arrays_that_cannot_be_differentiated(self, folder, name, value, message):
        np.save(name, value, allow_pickle=True)
        with pytest.raises(DataError, match=message):
            read_inputs(name)

    @pytest.mark.parametrize(
        ("header", "message"),
        [
            ("{'descr':'<f8','fortran_order':False,'shape':(1000,3)}", "mmap length is greater than file size"),
            ("{'descr':'<f8','fortran_order':False,'shape':(-1,3)}", "negative dimensions"),
            ("{'descr':'<f8','fortran_order':False,'shape':(10000000000000000000000,3)}", "too large"),
            ("{'descr':'<q9','fortran_order':False,'shape':(2,3)}", "descr is not a valid dtype"),
            ("{'descr':'<f8','fortran_order':False,'shape':(10**3,3)}", "malformed"),
            ("(" * 3000, "(EOF|too many nested)"),
            ("", ""),
        ],
    )
    def test_damaged_headers(self, folder, header, message):
        write_npy("X.npy", header)
        with pytest.raises(DataError, match=f"X.npy: the file is damaged, cut off, or no NumPy file .*{message}"):
            read_inputs("X.npy")

    def test_damaged_archives(self, folder):
        np.savez_compressed("whole.npz", X=X)
        whole = Path("whole.npz").read_bytes()
        for bad in (whole[:-50], whole[:90] + bytes(30) + whole[120:], b"PK\x03\x04" + bytes(99)):
            Path("X.npz").write_bytes(bad)
            with pytest.raises(DataError, match=r"X.npz: the file is damaged"):
                read_inputs("X.npz")
        with zipfile.ZipFile("X.npz", "w") as archive:
            archive.writestr("X.npy", b"no array")
        with pytest.raises(DataError, match=r"X.npz"):
            read_inputs("X.npz")

    @pytest.mark.parametrize("name", ["X.txt", "X", "X.pkl", "X.csv.gz"])
    def test_other_kinds(self, folder, name):
        Path(name).write_text("1 2\n")
        with pytest.raises(DataError, match=r"are not read; give a .npy, .npz, .zarr, .csv or .parquet file"):
            read_inputs(name)


class TestDigest:
    def test_it_depends_on_shape_dtype_and_content_alone(self, folder):
        same = [X, X.astype(">f8"), np.asfortranarray(X), np.repeat(X, 2, axis=0)[::2]]
        assert len({digest(array) for array in same}) == 1
        changed = X.copy()
        changed[7, 1] = np.nextafter(changed[7, 1], 1)
        others = [X, changed, X.reshape(C, D), X.astype("f4"), X[:-1], X[::-1], X[0, 0], X[:0], np.zeros((0, 4))]
        assert len({digest(array) for array in others}) == len(others)
        assert len(digest(X)) == 32
        assert int(digest(X), 16)

    @pytest.mark.parametrize("chunks", [None, (20, 40)])
    def test_of_a_large_array_it_reads_pieces_of_all_of_it(self, monkeypatch, chunks):
        monkeypatch.setattr(inputs, "DIGEST_BYTES", 2**16)
        monkeypatch.setattr(inputs, "DIGEST_PIECES", 16)
        read = []

        class Recorded:
            shape, dtype = (1001, 40), np.dtype("f8")

            def __getitem__(self, index):
                read.append(index)
                return np.zeros((len(range(*index.indices(1001))), 40))

        recorded = Recorded()
        if chunks:
            recorded.chunks = chunks  # pyright: ignore
        digest(recorded)
        assert (read[0].start, read[-1].stop) == (0, 1001)
        sizes, gaps = {piece.stop - piece.start for piece in read}, np.diff([piece.start for piece in read])
        assert max(gaps) - min(gaps) <= 1
        assert (sizes, len(read)) == (({20}, 10) if chunks else ({12}, 16))
        assert sum(sizes) * len(read) * 320 <= 2**16


MEASURE = """
import re, sys
from nablax.store import read_inputs
from nablax.store.samples import Samples

def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) / 1024

for name in sys.argv[1:]:
    array = read_inputs(name).array
    samples, total = Samples(array), 0.0
    for begin in range(0, len(array), 10_000):
        total += samples[begin : begin + 10_000].sum()
    print(name, array.shape[0], total, peak())
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux says how much memory was used")
def test_memory_does_not_grow_with_a_table(folder):
    width, few, many = 16, 160_000, 640_000  # 20 and 82 MB of numbers
    values = np.random.default_rng(2).random((many, width))
    for name, rows in (("small", few), ("large", many)):
        table = pyarrow.table(list(values[:rows].T), names=[f"c{k}" for k in range(width)])
        parquet.write_table(table, f"{name}.parquet", row_group_size=rows)
        Path(f"{name}.csv").write_text(("0.5," * (width - 1) + "1\n") * (rows // 2))
    files = ["small.csv", "large.csv", "small.parquet", "large.parquet"]
    done = subprocess.run([sys.executable, "-c", MEASURE, *files], capture_output=True, text=True, check=True)
    lines = map(str.split, done.stdout.splitlines())
    found = {name: (int(rows), float(total), float(peak)) for name, rows, total, peak in lines}
    assert found["large.csv"][:2] == (many // 2, many // 2 * 8.5)
    assert found["large.parquet"][1] == pytest.approx(values.sum())
    assert found["large.csv"][2] - found["small.csv"][2] < 10  # of 31 MB more
    assert found["large.parquet"][2] - found["small.parquet"][2] < 20  # of 61 MB more
