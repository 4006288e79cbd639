"""Tables larger than memory, made into a file once."""

import errno
import gzip
import multiprocessing
import os
import threading
import warnings
from pathlib import Path
from types import SimpleNamespace

import draws
import numpy as np
import pandas
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import fastbp
from fastbp import columnwise, datasets, sources
from fastbp.datasets import TableFile
from fastbp.estimators import recipe
from fastbp.estimators.columns import Columns

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")
pd = pytest.importorskip("pandas")

pytestmark = pytest.mark.no_kernel


@pytest.fixture(autouse=True)
def folder(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "user"))


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    """Everything happens in many steps."""
    monkeypatch.setattr(columnwise, "CHUNK_ROWS", 7)
    monkeypatch.setattr(sources, "BLOCK_BYTES", 500)
    monkeypatch.setattr(recipe, "BLOCK", 16)
    monkeypatch.setattr(recipe, "SAMPLE", 16)


def said(function, *arguments, **options):
    """What a call returns, and its warnings."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = function(*arguments, **options)
    return result, sorted(str(one.message) for one in caught)


def by_frame(frame, target, task="auto", ignore=(), dtype="float32", **options):
    """What `rows` has to give, by a whole table in memory."""
    table = SimpleNamespace(path="t", spelled=lambda words: words)
    filled = frame[target].notna().to_numpy()
    X = frame.drop(columns=[target, *ignore])[filled]
    cells = frame[target].map(datasets.text_of, na_action="ignore")
    y, classes = datasets._targets(table, cells, task)
    columns = Columns(**options)
    Z = columns.fit_transform(X).astype(dtype)
    return Z, y, classes, columns


def same(rows, expected):
    Z, y, classes, columns = expected
    assert sources._state(rows.columns) == sources._state(columns)
    assert rows.shape == Z.shape
    assert rows.dtype == Z.dtype
    assert np.asarray(rows).tobytes() == Z.tobytes()
    assert rows.y.classes == classes
    assert np.asarray(rows.y).tolist() == y.tolist()
    assert rows.y.dtype == y.dtype


def drawn(seed, n=120):
    """A table of some columns of all kinds, and a target of some kind."""
    rng = np.random.default_rng(seed)

    def gaps(values, share=0.1):
        return pd.Series(values, dtype=object).mask(rng.random(n) < share)

    makers = {
        "float": lambda: pd.Series(rng.normal(size=n) * 10.0 ** rng.integers(-3, 4)).mask(rng.random(n) < 0.1),
        "single": lambda: pd.Series(rng.normal(size=n).astype("float32")).mask(rng.random(n) < 0.1).astype("float32"),
        "skewed": lambda: pd.Series(rng.standard_cauchy(size=n).astype("float32")),
        "int": lambda: pd.Series(rng.integers(-5, 1000, n)),
        "int8": lambda: pd.Series(rng.integers(0, 9, n, dtype="i1")),
        "int_gaps": lambda: pd.Series(rng.integers(0, 9, n)).where(rng.random(n) < 0.9).astype("Int64"),
        "flag": lambda: pd.Series(rng.random(n) < 0.5),
        "flag_gaps": lambda: gaps(rng.random(n) < 0.5),
        "word": lambda: gaps(rng.choice(["red", "blue", "grün", "a,b", 'say "x"', "two\nlines"], n)),
        "category": lambda: gaps(rng.choice(["s", "m", "l"], n)).astype("category"),
        "text_number": lambda: pd.Series(np.where(rng.random(n) < 0.05, "?", rng.integers(0, 99, n).astype(str))),
        "constant": lambda: pd.Series(np.full(n, 3.5)),
        "zeros": lambda: pd.Series(rng.choice([0.0, -0.0, 1.0], n)),
        "empty": lambda: pd.Series([None] * n, dtype="float64"),
        "ids": lambda: pd.Series([f"user {i} of {seed}" for i in range(n)]),
        "id": lambda: pd.Series(np.arange(n)),
        "many": lambda: pd.Series(rng.integers(0, 40, n)).map(lambda i: f"w{i}"),
    }
    chosen = rng.permutation(list(makers))[: rng.integers(2, 9)]
    if not {*chosen} - {"ids", "id", "empty"}:
        chosen = [*chosen, "float"]
    target = [
        lambda: gaps(rng.choice(["yes", "no", "perhaps"], n)),
        lambda: pd.Series(rng.normal(size=n)).mask(rng.random(n) < 0.05),
        lambda: pd.Series(rng.integers(0, 3, n)),
        lambda: pd.Series(rng.integers(0, 2, n)).astype(float).mask(rng.random(n) < 0.05),
        lambda: pd.Series(rng.integers(0, 5000, n)),
        lambda: pd.Series(rng.random(n) < 0.5),
        lambda: pd.Series(rng.normal(size=n).astype("float32")),
    ][rng.integers(7)]()
    frame = pd.DataFrame({str(name): makers[name]() for name in chosen})
    frame.insert(int(rng.integers(len(chosen) + 1)), "y", target)
    return frame


random = settings(
    max_examples=draws.examples(80), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
seeds = st.integers(0, 2**32 - 1)


@pytest.mark.filterwarnings("ignore:.*left out.*", "ignore:.*taken for missing.*")
@random
@given(seeds)
def test_parquet_is_what_the_frame_is(seed):
    drawn(seed).to_parquet("t.parquet", row_group_size=17)
    frame = TableFile("t.parquet").read().frame
    dtype = ("float32", "float64")[seed % 2]
    expected, warned = said(by_frame, frame, "y", dtype=dtype, max_categories=30)
    Path("t.parquet.fastbp").unlink(missing_ok=True)
    rows, told = said(fastbp.rows, "t.parquet", "y", dtype=dtype, max_categories=30)
    same(rows, expected)
    assert [one for one in told if "because 'y' is missing" not in one] == warned
    again, told = said(fastbp.rows, "t.parquet", "y", dtype=dtype, max_categories=30)
    same(again, expected)
    assert not told
    assert not list(Path().glob(".*"))


@pytest.mark.filterwarnings("ignore:.*left out.*", "ignore:.*taken for missing.*")
@random
@given(seeds)
def test_a_folder_is_one_table(seed):
    frame = drawn(seed)
    Path("parts").mkdir(exist_ok=True)
    for number, part in enumerate(np.array_split(np.arange(len(frame)), 4)):
        frame.iloc[part].reset_index(drop=True).to_parquet(f"parts/{number}.parquet", row_group_size=11)
    whole = pd.read_parquet("parts")
    same(fastbp.rows("parts", "y", cache="c"), by_frame(whole, "y"))


@pytest.mark.filterwarnings("ignore:.*left out.*", "ignore:.*taken for missing.*")
@random
@given(seeds)
def test_csv_is_what_train_reads(seed):
    frame = drawn(seed)
    separator, decimal = [(",", "."), (";", ","), ("\t", ".")][seed % 3]
    encoding = ["utf-8", "cp1252", "utf-16"][seed // 3 % 3]
    frame.to_csv("t.csv", index=False, sep=separator, decimal=decimal, encoding=encoding)
    table = TableFile("t.csv", decimal).read(("y",), None, ("y",))
    X, filled = table.frame.drop(columns="y"), table.frame["y"].notna()
    y, classes = datasets._targets(table, table.frame["y"], "auto")
    columns = Columns()
    Z = columns.fit_transform(X[filled]).astype("float32")
    same(fastbp.rows("t.csv", "y", decimal=decimal), (Z, y, classes, columns))


@pytest.mark.filterwarnings("ignore:.*left out.*", "ignore:.*taken for missing.*")
@random
@given(seeds)
def test_new_files_are_read_as_the_others(seed):
    frame = drawn(seed)
    frame.to_parquet("old.parquet")
    old = fastbp.rows("old.parquet", "y")
    frame.iloc[::2].drop(columns="y").reset_index(drop=True).to_parquet("new.parquet")
    new = fastbp.rows("new.parquet", columns=old.columns)
    expected = old.columns.transform(TableFile("new.parquet").read().frame).astype("float32")
    assert np.asarray(new).tobytes() == expected.tobytes()
    assert new.y is None
    with_targets = fastbp.rows("old.parquet", "y", columns=old.columns, cache="other")
    assert np.asarray(with_targets).tobytes() == np.asarray(old).tobytes()


@random
@given(seeds)
def test_quartiles_are_those_of_numpy(seed):
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 3000))
    values = [rng.normal(size=n), rng.integers(0, 5, n).astype(float), np.sort(rng.standard_cauchy(n)), np.full(n, 7.5)][
        seed % 4
    ]
    values = values.astype([np.float32, np.float64][seed // 4 % 2])
    values[rng.random(n) < 0.2] = np.nan
    expected = np.zeros(5) if np.isnan(values).all() else np.nanquantile(values.astype(float), (0, 0.25, 0.5, 0.75, 1))
    assert recipe.quartiles(values).tobytes() == expected.tobytes()


@random
@given(seeds)
def test_standardised_is_clipped(seed):
    rng = np.random.default_rng(seed)
    values = rng.normal(size=3000).astype([np.float32, np.float64][seed % 2]) * values_like(rng)
    values[rng.random(3000) < 0.1] = np.nan
    center, factor = rng.normal(), 10.0 ** rng.integers(-200, 200)
    with np.errstate(over="ignore"):
        expected = recipe.clipped(values.astype(float), center, factor)
    for dtype in ("float32", "float64"):
        found = b"".join(part.tobytes() for part in recipe.standardised(values, center, factor, dtype))
        assert found == expected.astype(dtype).tobytes()


def values_like(rng):
    return np.float32(10.0 ** rng.integers(-38, 30))


def table(name="t.parquet", n=40):
    frame = pd.DataFrame({"x": np.arange(n) % 7 / 2, "c": ["a", "b"] * (n // 2), "y": np.arange(n) % 3})
    frame.to_parquet(name)
    return frame


def test_rows_are_views_of_the_file():
    table()
    rows = fastbp.rows("t.parquet", "y")
    assert (rows.shape, rows.ndim, len(rows), rows.dtype) == ((40, 3), 2, 40, np.float32)
    part = rows[3:9]
    assert type(part) is np.ndarray
    assert part.flags.c_contiguous
    assert not part.flags.writeable
    assert not part.flags.owndata
    assert rows.path == Path("t.parquet.fastbp").resolve()
    assert (rows.y.shape, rows.y.ndim, len(rows.y), rows.y.classes) == ((40,), 1, 40, ("0", "1", "2"))
    assert rows.y[3:6].tolist() == ["0", "1", "2"]
    assert rows.y._stored.dtype == np.uint8
    assert "40 rows of 3 inputs, float32" in repr(rows)
    np.testing.assert_array_equal(rows.columns.transform(pd.read_parquet("t.parquet")).astype("f4"), rows)
    values = fastbp.rows("t.parquet", "y", task="regression").y
    assert (values.dtype, values.classes, values[:4].tolist()) == (np.float64, (), [0, 1, 2, 0])


def count_conversions(monkeypatch):
    made, call = [], sources._Conversion.__call__
    monkeypatch.setattr(sources._Conversion, "__call__", lambda self, *how: made.append(1) or call(self, *how))
    return made


def test_a_cache_is_made_once_and_anew_when_anything_differs(monkeypatch):
    made = count_conversions(monkeypatch)
    table()
    first = fastbp.rows("t.parquet", "y")
    fastbp.rows("t.parquet", "y")
    assert len(made) == 1
    os.utime("t.parquet", ns=(1, 1))
    fastbp.rows("t.parquet", "y")
    assert len(made) == 2
    for options in (
        {"dtype": "float64"},
        {"task": "regression"},
        {"ignore": "c"},
        {"max_categories": 1},
        {"columns": first.columns},
    ):
        before = len(made)
        fastbp.rows("t.parquet", "y", **options)
        fastbp.rows("t.parquet", "y", **options)
        assert len(made) == before + 1, options
    np.testing.assert_array_equal(first, fastbp.rows("t.parquet", "y"))  # an old map outlives its file


def test_a_damaged_cache_is_made_anew(monkeypatch):
    made = count_conversions(monkeypatch)
    table()
    expected = np.array(fastbp.rows("t.parquet", "y"))
    whole = Path("t.parquet.fastbp").read_bytes()
    damages = [b"", whole[:-1], whole[:100], whole[1:], whole + b"x", whole[: len(whole) - 200], b"x" * 500]
    damages += [
        whole[:-place] + bytes([whole[-place] ^ 1]) + whole[len(whole) - place + 1 :] for place in (1, 20, 45, 60, 200)
    ]
    for content in damages:
        Path("t.parquet.fastbp").write_bytes(content)
        before = len(made)
        np.testing.assert_array_equal(fastbp.rows("t.parquet", "y"), expected)
        assert len(made) == before + 1
        assert Path("t.parquet.fastbp").read_bytes() == whole


def test_one_cache_of_two_sources_is_each_one_s_in_turn():
    """Files of one name, size and time, as archives unpack them."""
    for folder, first in (("d1", 1), ("d2", 2)):
        Path(folder).mkdir()
        pandas.DataFrame({"a": np.arange(100.0), "y": np.arange(100) % 7 + first / 2}).to_csv(f"{folder}/t.csv", index=False)
        os.utime(f"{folder}/t.csv", (1e9, 1e9))
    for folder, first in (("d1", 0.5), ("d2", 1.0), ("d1", 0.5)):
        assert float(fastbp.rows(f"{folder}/t.csv", "y", cache="cache").y[0]) == first


def test_filters_of_warnings_are_as_before_whatever_threads_read():
    rng = np.random.default_rng(0)
    for number in range(3):
        columns = {"a": rng.normal(size=20_000), "b": rng.choice(["x", "y"], 20_000), "y": rng.normal(size=20_000)}
        pandas.DataFrame(columns).to_csv(f"t{number}.csv", index=False)
    fastbp.rows("t0.csv", "y", cache="first")
    before = list(warnings.filters)
    for attempt in range(4):
        calls = [(f"t{number}.csv", {"cache": f"{attempt} {number}"}) for number in range(3)]
        threads = [threading.Thread(target=fastbp.rows, args=(name, "y"), kwargs=options) for name, options in calls]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert warnings.filters == before


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_what_is_no_cache_is_not_overwritten():
    table()
    Path("notes.txt").write_text("not to be lost")
    with pytest.raises(ValueError, match=r"cache must name a file that fastbp.rows has written, .* got notes.txt"):
        fastbp.rows("t.parquet", "y", cache="notes.txt")
    assert Path("notes.txt").read_text() == "not to be lost"
    Path("notes.txt").write_bytes(b"")
    assert fastbp.rows("t.parquet", "y", cache="notes.txt").path.name == "notes.txt"
    Path("run").mkdir()
    Path("t.parquet").rename("run/t.parquet")
    fastbp.MLPRegressor(max_iter=1).fit(np.eye(3), [1.0, 2, 3], checkpoint="run.fastbp")
    kept = Path("run.fastbp").read_bytes()
    assert fastbp.rows("run", "y").path.resolve() != Path("run.fastbp").resolve()
    assert Path("run.fastbp").read_bytes() == kept


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left on device"), MemoryError()])
@pytest.mark.parametrize("where", ["write_rows", "targets"])
def test_a_failure_leaves_nothing(monkeypatch, error, where):
    table()
    whole = fastbp.rows("t.parquet", "y").path.read_bytes()

    def fail(stream, *rest):
        if where == "write_rows":
            stream.write(b"half")
        raise error

    monkeypatch.setattr(sources, where, fail)
    for kept in (True, False):
        if not kept:
            Path("t.parquet.fastbp").unlink()
        with pytest.raises(type(error)) as caught:
            fastbp.rows("t.parquet", "y", dtype="float64")
        if isinstance(error, OSError):
            assert "No space left for the cache" in str(caught.value)
            assert "t.parquet.fastbp" in str(caught.value)
        assert sorted(os.listdir()) == ["t.parquet"] + ["t.parquet.fastbp"] * kept
        assert not kept or Path("t.parquet.fastbp").read_bytes() == whole


def test_a_full_disk_is_no_fault_of_the_file(monkeypatch):
    Path("t.csv").write_text("x,y\n" + "".join(f"{i},{i}\n" for i in range(50)))
    full = OSError(errno.ENOSPC, "No space left on device")

    def split(self, table):
        raise full

    monkeypatch.setattr(sources.Csvs, "split", split)
    with pytest.raises(OSError, match="No space left for the cache, which cache= puts elsewhere"):
        fastbp.rows("t.csv", "y")


def test_an_interrupt_in_the_middle_of_columns(monkeypatch):
    pd.DataFrame({f"x{i}": np.arange(50.0) for i in range(30)} | {"y": np.arange(50.0)}).to_parquet("t.parquet")
    read, column = [], sources.Parquets.column

    def interrupted(self, name, **options):
        read.append(name)
        if name == "x3":
            raise KeyboardInterrupt
        return column(self, name, **options)

    monkeypatch.setattr(sources.Parquets, "column", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fastbp.rows("t.parquet", "y")
    assert os.listdir() == ["t.parquet"]


def test_a_source_that_changes_meanwhile_is_no_cache(monkeypatch):
    table()
    write = sources.write_rows
    monkeypatch.setattr(sources, "write_rows", lambda *how: os.utime("t.parquet", ns=(1, 1)) or write(*how))
    with pytest.raises(ValueError, match="source t.parquet has changed while it was read"):
        fastbp.rows("t.parquet", "y")
    assert os.listdir() == ["t.parquet"]


def convert(barrier, results, options):
    barrier.wait()
    rows = fastbp.rows("t.parquet", "y", **options)
    results.put((options, np.array(rows)))


def test_processes_that_convert_at_once_are_all_right():
    table(n=2000)
    expected = {dtype: np.array(fastbp.rows("t.parquet", "y", cache=dtype, dtype=dtype)) for dtype in ("float32", "float64")}
    context = multiprocessing.get_context("fork" if "fork" in multiprocessing.get_all_start_methods() else "spawn")
    barrier, results = context.Barrier(4), context.Queue()
    all_options = [{}, {}, {"dtype": "float64"}, {"dtype": "float64"}]
    workers = [context.Process(target=convert, args=(barrier, results, options)) for options in all_options]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # that forks have threads
        for worker in workers:
            worker.start()
    found = [results.get(timeout=60) for _ in workers]
    for worker in workers:
        worker.join()
    for options, rows in found:
        np.testing.assert_array_equal(rows, expected[options.get("dtype", "float32")])
    assert not [name for name in os.listdir() if name.startswith(".")]


def test_where_the_cache_is(monkeypatch, tmp_path):
    table()
    assert fastbp.rows("t.parquet", "y", cache="here/c").path == (tmp_path / "here" / "c")
    allowed = os.access
    monkeypatch.setattr(os, "access", lambda path, how: Path(path) != tmp_path and allowed(path, how))
    path = fastbp.rows("t.parquet", "y").path
    assert path.parent == tmp_path / "user" / "fastbp"
    assert path.name.endswith("-t.parquet.fastbp")
    assert fastbp.rows("t.parquet", "y").path == path


# ---- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": None}, "target must be the name of a column, or columns those of other rows, got None for both"),
        ({"columns": "x"}, "columns must be those of other rows, got 'x'"),
        ({"task": "guess"}, "task must be one of 'auto', 'classification', 'regression', got 'guess'"),
        ({"target": 1}, "target must be the name of a column, got 1"),
        ({"ignore": [1]}, "ignore must be the name of a column, got 1"),
        ({"header": "yes"}, "header must be True, False or None, got 'yes'"),
        ({"decimal": None}, "decimal must be one character that marks decimals, got None"),
        ({"decimal": "x1"}, "decimal must be one character that marks decimals, got 'x1'"),
        ({"dtype": "int8"}, "dtype must be 'float32' or 'float64', got 'int8'"),
        ({"max_categories": 0}, "max_categories must be >= 1, got 0"),
        ({"target": "z"}, r"target must be a column of t.parquet \(x, c, y\), got 'z'"),
        ({"ignore": ["cc"]}, r"ignore must be a column of t.parquet .*, got 'cc': did you mean 'c'\?"),
        ({"cache": "./t.parquet"}, "cache must not be a file of the source, got ./t.parquet"),
        ({"ignore": ["c", "x"]}, "t.parquet has no column but the target 'y'"),
    ],
)
def test_arguments(options, message):
    table()
    with pytest.raises(ValueError, match=message):
        fastbp.rows("t.parquet", **{"target": "y"} | options)
    assert os.listdir() == ["t.parquet"]


def test_files_that_are_none(monkeypatch):
    with pytest.raises(FileNotFoundError):
        fastbp.rows("none.parquet", "y")
    Path("folder").mkdir()
    with pytest.raises(ValueError, match="source must be a folder of .parquet or .csv files, got folder without any"):
        fastbp.rows("folder", "y")
    Path("cut.parquet").write_bytes(b"PAR1" + bytes(100))
    with pytest.raises(ValueError, match="cut.parquet is not a Parquet file"):
        fastbp.rows("cut.parquet", "y")
    Path("one.csv").write_text("x y\n1 2\n3 4\n")
    with pytest.raises(ValueError, match="one.csv has one column, and spaces in it"):
        fastbp.rows("one.csv", "y")
    Path("short.csv").write_text("x,z,y\n" + "1,2,3\n" * 20 + "4,5\n" + "1,2,3\n")
    with pytest.raises(ValueError, match="short.csv line 22 has 2 cells, expected 3"):
        fastbp.rows("short.csv", "y")
    Path("long.csv").write_text("x,z,y\n" + "1,2,3\n" * 20 + "4,5,6,7\n" + "1,2,3\n")
    with pytest.raises(ValueError, match="long.csv line 22 has 4 cells, expected 3"):
        fastbp.rows("long.csv", "y")


def test_files_of_a_folder_have_the_same_columns():
    Path("f").mkdir()
    table("f/1.parquet")
    table("f/2.parquet").rename(columns={"x": "other"}).to_parquet("f/2.parquet")
    with pytest.raises(ValueError, match="f/2.parquet must have the columns of f/1.parquet, but has no column 'x'"):
        fastbp.rows("f", "y")
    table("f/2.parquet").assign(more=1).to_parquet("f/2.parquet")
    with pytest.raises(ValueError, match="f/2.parquet must have the columns of f/1.parquet, but has a column 'more'"):
        fastbp.rows("f", "y")
    table("f/2.parquet").assign(x="word").to_parquet("f/2.parquet")
    with pytest.raises(ValueError, match="f/2.parquet must have columns of the types of f/1.parquet"):
        fastbp.rows("f", "y")


def test_csv_files_of_a_folder():
    Path("f").mkdir()
    frame = pd.DataFrame({"x": np.arange(40), "c": ["a", "b"] * 20, "y": np.arange(40) / 3})
    frame[:10].to_csv("f/1.csv", index=False)
    frame[10:30][["y", "x", "c"]].to_csv("f/2.csv", index=False, sep=";")
    with gzip.open("f/3.csv", "wt") as stream:
        frame[30:].to_csv(stream, index=False)
    same(fastbp.rows("f", "y"), by_frame(frame, "y"))
    Path("f/2.csv").write_text("x,y\n1,2\n")
    with pytest.raises(ValueError, match="f/2.csv must have the columns of f/1.csv, but has no column 'c'"):
        fastbp.rows("f", "y")


def test_the_line_of_a_wrong_cell_is_named():
    frame = table()
    frame["x"] = frame["x"].astype(float)
    frame.loc[30, "x"] = 1e200
    frame.to_parquet("t.parquet")
    with pytest.raises(
        ValueError, match="t.parquet row 31, column 'x': expected a finite number of at most 1e.150, got 1e.200"
    ):
        fastbp.rows("t.parquet", "y")
    Path("f").mkdir()
    frame[:20].to_csv("f/1.csv", index=False)
    frame[20:].to_csv("f/2.csv", index=False)
    with pytest.raises(ValueError, match=r"f/2.csv line 12, column 'x': expected a finite number"):
        fastbp.rows("f", "y")


def test_an_infinite_target_is_refused():
    pd.DataFrame({"x": np.arange(50.0), "y": np.append(np.arange(49.0), np.inf)}).to_parquet("t.parquet")
    with pytest.raises(ValueError, match="t.parquet row 50, column 'y': expected a finite number"):
        fastbp.rows("t.parquet", "y")
    pd.DataFrame({"x": np.arange(50.0), "y": np.ones(50)}).to_parquet("t.parquet")
    with pytest.raises(ValueError, match="target column 'y' of t.parquet has the same value in every row"):
        fastbp.rows("t.parquet", "y")


def test_targets_that_are_codes_are_no_values():
    pd.DataFrame({"x": np.arange(50.0), "y": 10**16 + np.arange(50) % 22}).to_parquet("t.parquet")
    with pytest.raises(
        ValueError, match="target column 'y' of t.parquet has 22 different words in 50 rows: it looks like ids"
    ):
        fastbp.rows("t.parquet", "y")
    assert fastbp.rows("t.parquet", "y", task="classification").y[:2].tolist() == [str(10**16), str(10**16 + 1)]


def test_an_index_with_a_name_is_a_column():
    frame = table().set_index("x")
    frame.to_parquet("t.parquet")
    same(fastbp.rows("t.parquet", "y"), by_frame(frame.reset_index(), "y"))
    frame = table().set_index(pd.RangeIndex(3, 43, name="place"))
    frame.to_parquet("t.parquet")
    expected = TableFile("t.parquet").read().frame
    assert "place" in expected
    same(fastbp.rows("t.parquet", "y"), by_frame(expected, "y"))
    frame.set_axis(np.arange(40) % 3 * 7).set_index(["x", "c"], append=True).to_parquet("t.parquet")
    with pytest.raises(ValueError, match="t.parquet has an index without a name, but not as its only one"):
        fastbp.rows("t.parquet", "y")


def test_columns_that_are_not_there(tmp_path):
    table()
    columns = fastbp.rows("t.parquet", "y").columns
    table().drop(columns="c").to_parquet("t.parquet")
    with pytest.raises(ValueError, match="t.parquet must have the columns x, c, got none called 'c'"):
        fastbp.rows("t.parquet", columns=columns)


def test_pyarrow_is_asked_for(monkeypatch):
    import sys

    table()
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ImportError, match=r"fastbp.rows needs pyarrow: pip install 'fastbp\[stream\]'"):
        fastbp.rows("t.parquet", "y")
    assert os.listdir() == ["t.parquet"]


# ---- odd files --------------------------------------------------------------------------------------------------------


def test_more_columns_than_files_may_be_open():
    resource = pytest.importorskip("resource")
    rng, limits = np.random.default_rng(0), resource.getrlimit(resource.RLIMIT_NOFILE)
    frame = pandas.DataFrame(rng.normal(size=(20, 300)), columns=[f"c{number}" for number in range(300)])
    frame["y"] = frame.c0
    frame.to_parquet("wide.parquet")
    frame.to_csv("wide.csv", index=False)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, limits[1]))
    try:
        found = [fastbp.rows(name, "y", dtype="float64") for name in ("wide.parquet", "wide.csv")]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert [one.shape for one in found] == [(20, 300)] * 2
    np.testing.assert_allclose(*found, rtol=1e-9)


def test_whole_numbers_in_one_file_and_others_in_the_next():
    Path("shards").mkdir()
    pandas.DataFrame({"a": [2**60, 2**60 + 1], "y": [1.0, 2.0]}).to_parquet("shards/0.parquet")
    pandas.DataFrame({"a": [0.5, None], "y": [1.0, 3.0]}).to_parquet("shards/1.parquet")
    whole = pandas.concat([pandas.read_parquet(f"shards/{number}.parquet") for number in (0, 1)])
    whole.to_parquet("whole.parquet", index=False)
    np.testing.assert_array_equal(fastbp.rows("shards", "y"), fastbp.rows("whole.parquet", "y"))


def test_types_that_do_not_go_together_are_named():
    Path("shards").mkdir()
    pandas.DataFrame({"a": [1, 2], "y": [1.0, 2.0]}).to_parquet("shards/0.parquet")
    pandas.DataFrame({"a": np.array([2**63 + 5, 1], np.uint64), "y": [1.0, 3.0]}).to_parquet("shards/1.parquet")
    with pytest.raises(ValueError, match="column 'a' must have one type in all files, got uint64 and int64"):
        fastbp.rows("shards", "y")


def test_a_file_without_rows_among_others():
    Path("shards").mkdir()
    frame = pandas.DataFrame({"a": [1.5, 2.5, 0.5], "y": [1.0, 2.0, 4.5]})
    frame.to_csv("shards/0.csv", index=False)
    frame[:0].to_csv("shards/1.csv", index=False)
    assert fastbp.rows("shards", "y").shape == (3, 1)
    Path("shards/0.csv").unlink()
    with pytest.raises(ValueError, match="shards has a header but no rows"):
        fastbp.rows("shards", "y")


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_classes_are_of_one_type_however_many_chunks_there_are():
    pandas.DataFrame({"a": np.arange(60.0), "y": ["no", "yes", "perhaps"] * 20}).to_parquet("t.parquet")
    rows = fastbp.rows("t.parquet", "y")
    fits = [fastbp.MLPClassifier(3, max_iter=1).fit(rows, rows.y, chunk_rows=chunk_rows) for chunk_rows in (None, 25)]
    assert fits[0].classes_.dtype == fits[1].classes_.dtype
    assert list(fits[0].classes_) == list(fits[1].classes_)
