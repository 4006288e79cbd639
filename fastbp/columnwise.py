"""Tables in Parquet and CSV files, of which a column at a time is in memory: as pandas has it of the whole table."""

import contextlib
import functools
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fastbp import datasets
from fastbp.datasets import CellError, TableFile, pandas

# Rows that are read at a time.
CHUNK_ROWS = 1 << 16


class Reader:
    """A table of which a column at a time is in memory, in one or more files."""

    is_parquet = has_header = threads = True
    files: list[tuple[TableFile, int]]  # with the numbers of their rows

    def __init__(self, source: Path) -> None:
        self.path, self.names, self.files = str(source), list[str](), []

    @property
    def n(self) -> int:
        """Number of rows."""
        return sum(n for _, n in self.files)

    def column(self, name: str, labels: bool = False) -> Any:
        """The cells, as pandas has them of the whole table, but that `labels` stay whole numbers where some are missing."""
        raise NotImplementedError

    def head(self) -> Any:
        """An empty DataFrame with these columns, or all of a single one."""
        only = len(self.names) == 1
        return self.column(self.names[0]).to_frame() if only else pandas().DataFrame(columns=self.names)

    def spelled(self, words: Any) -> Any:
        """See `TableFile`."""
        return self.files[0][0].spelled(words)

    @contextlib.contextmanager
    def naming_lines(self, known: np.ndarray | None = None) -> Iterator[None]:
        """See `TableFile`; of rows, only the known ones may be counted."""
        try:
            yield
        except CellError as error:
            row = error.row if known is None else int(np.flatnonzero(known)[error.row])
            for table, n in self.files:
                if row < n:
                    with table.naming_lines():
                        raise CellError(error.column, row, error.problem) from None
                row -= n
            raise

    def check_names(self, path: str, names: Sequence[str]) -> None:
        """Take the names of the first file; a ValueError where those of another are not the same."""
        self.names = self.names or list(names)
        differs = [*(name for name in self.names if name not in names), *(name for name in names if name not in self.names)]
        if differs:
            verb = "has no" if differs[0] in self.names else "has a"
            first = self.files[0][0].path
            raise ValueError(f"{path} must have the columns of {first}, but {verb} column {differs[0]!r}")


class Parquets(Reader):
    """Parquet files."""

    def __init__(self, source: Path, paths: Sequence[Path]) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        super().__init__(source)
        self.kept = threading.local()
        self.opened: list[Callable[[], Any]] = []
        self.schema: Any = None
        for path in paths:
            table = TableFile(path)
            table.sniff()
            again = table.binary if table.opener else functools.partial(Path, path)
            try:
                file = pq.ParquetFile(again(), memory_map=True)
                frame = file.schema_arrow.empty_table().to_pandas()
            except (ValueError, OSError) as error:
                raise ValueError(f"{path} is not a Parquet file: {error}") from None
            frame = frame if frame.index.names == [None] else frame.reset_index()
            self.check_names(str(path), datasets.names_of(str(path), list(map(str, frame.columns))))
            schemas = [self.schema or file.schema_arrow, file.schema_arrow]
            try:
                self.schema = pa.unify_schemas(schemas, promote_options="permissive")
            except pa.ArrowException as error:
                raise ValueError(f"{path} must have columns of the types of {paths[0]}: {error}") from None
            if unnamed := [name for name in self.names if name not in self.schema.names]:
                raise ValueError(f"{path} has an index without a name, but not as its only one: {unnamed[0]!r} of pandas")
            self.files.append((table, file.metadata.num_rows))
            self.opened.append(functools.partial(_reopened, again, file.metadata))
        if not self.n:
            raise ValueError(f"{source} has no rows")
        # pandas keeps row numbers with a name without writing them; of several files it loses them
        indices = (self.schema.pandas_metadata or {}).get("index_columns", []) if len(paths) == 1 else []
        self.numbered = {str(index["name"]): range(index["start"], index["stop"], index["step"])
                         for index in indices if isinstance(index, dict) and index["name"] is not None}  # fmt: skip
        self.names = [*self.numbered, *self.names]

    def column(self, name: str, labels: bool = False) -> Any:
        """See `Reader`; a column of numbers stands where the thread's last one did."""
        import pyarrow as pa

        if name in self.numbered:
            return pandas().Series(self.numbered[name], name=name)
        field = self.schema.field(name)
        try:
            if pa.types.is_floating(field.type) or pa.types.is_integer(field.type):
                values = self.numbers(field)
                if values is not None:
                    return pandas().Series(values, name=name, copy=False)
            parts = [_cast(one().read(columns=[name], use_threads=False).column(name), field) for one in self.opened]
        except (pa.ArrowException, OSError) as error:
            raise ValueError(f"{self.path} is not a Parquet file: {error}") from None
        cells = pa.chunked_array([chunk for part in parts for chunk in part.chunks], field.type)
        # of which pandas' own would make floats of labels that were its index
        metadata = None if labels and pa.types.is_integer(field.type) else self.schema.metadata
        frame: Any = pa.Table.from_arrays([cells], schema=pa.schema([field], metadata))
        frame = frame.to_pandas(integer_object_nulls=labels)
        return (frame if frame.shape[1] else frame.reset_index()).iloc[:, 0].reset_index(drop=True).rename(name)

    def numbers(self, field: Any) -> np.ndarray | None:
        """A column of numbers, or None where it is of whole ones, of which some are missing.

        Memory that was in use is had in a fraction of the time of new one, so there is a column's for each thread.
        """
        dtype = np.dtype(field.type.to_pandas_dtype())
        size, start = dtype.itemsize * self.n, 0
        if len(getattr(self.kept, "bytes", b"")) < size:
            self.kept.bytes = np.empty(size, np.uint8)
        values = self.kept.bytes[:size].view(dtype)
        for one in self.opened:
            for batch in one().iter_batches(CHUNK_ROWS, columns=[field.name], use_threads=False):
                cells = _cast(batch.column(batch.schema.get_field_index(field.name)), field)
                if cells.null_count and dtype.kind != "f":
                    return None
                values[start : start + len(cells)] = cells.to_numpy(zero_copy_only=False)
                start += len(cells)
        return values


def _cast(cells: Any, field: Any) -> Any:
    """Cells in the type of all files, as pandas makes floats of whole numbers; a ValueError where they have no such type."""
    import pyarrow as pa

    try:
        return cells.cast(field.type, safe=not (pa.types.is_integer(cells.type) and pa.types.is_floating(field.type)))
    except pa.ArrowException as error:
        types = f"{cells.type} and {field.type}"
        raise ValueError(f"column {field.name!r} must have one type in all files, got {types}: {error}") from None


def _reopened(again: Callable[[], Any], metadata: Any) -> Any:
    """A Parquet file, whose metadata are known, for a thread of its own."""
    from pyarrow import parquet

    return parquet.ParquetFile(again(), metadata=metadata, memory_map=True, pre_buffer=False)


class Csvs(Reader):
    """CSV files, whose columns are written into a file each, which is read as the whole table would be."""

    is_parquet = threads = False  # pandas sets filters of warnings, which are those of all threads

    def __init__(self, source, paths, decimal, text, mixed, with_header, room):
        super().__init__(source)
        self.decimal, self.text, self.mixed, self.room, self.end = decimal, text, mixed, Path(room), []
        for path in paths:
            table = TableFile(path, decimal)
            table.read(text=text, by=self.split, **with_header)
            self.has_header = table.has_header
        if not self.n:
            raise ValueError(f"{source} has a header but no rows")

    def split(self, table):
        """Append the cells of another file to the columns."""
        from pyarrow import csv, lib

        if not self.files:  # another encoding may have been tried before
            self.names, self.end = [], []
        self.check_names(table.path, table.names)
        self.end = self.end or [0] * len(self.names)
        for place, end in enumerate(self.end):  # nor is what it has left wanted
            with self.place(place).open("ab") as stream:
                stream.truncate(end)
        options = csv.WriteOptions(include_header=False)

        def append(chunks):
            n, missing = 0, False
            for chunk in chunks:
                n, missing = n + len(chunk), missing or chunk[table.names[-1]].isna().any()
                for place, name in enumerate(self.names):
                    cells = lib.Table.from_arrays([lib.array(chunk[name], lib.string(), from_pandas=True)], ["cells"])
                    with self.place(place).open("ab") as stream:
                        csv.write_csv(cells, stream, options)
            return n, missing

        n, missing = table.parse(append, dtype=str, chunksize=CHUNK_ROWS)
        table.check_last(missing)
        self.end = [self.place(place).stat().st_size for place in range(len(self.names))]
        self.files.append((table, n))

    def place(self, number):
        """File of a column."""
        return self.room / f"{number}.csv"

    def column(self, name, labels=False):
        """See `Reader`."""
        pd = pandas()
        place, kind = self.place(self.names.index(name)), str if name in (*self.text, *self.mixed) else None
        for low_memory in (True, False):
            with contextlib.suppress(pd.errors.DtypeWarning), datasets.filters, warnings.catch_warnings():
                warnings.simplefilter("error", pd.errors.DtypeWarning)
                frame = pd.read_csv(place, sep="\t", header=None, names=[name], skip_blank_lines=False, dtype=kind,
                                    decimal=self.decimal, low_memory=low_memory)  # fmt: skip
                break
        return datasets.stripped(frame, self.text, self.decimal, self.mixed)[name]
