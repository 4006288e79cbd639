"""Streams: training on rows that are read chunk by chunk, the next one while the one before trains.

An epoch visits the chunks in a new random order, and the rows of a chunk likewise. Which order that is depends on a seed,
the number of the epoch and that of the chunk alone: not on where the rows come from, on when they were read, or on what was
read before. No batch has rows of two chunks.
"""

import mmap
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from fastbp import checks
from fastbp.background import Ahead
from fastbp.kernels import gate
from fastbp.layout import CURSOR
from fastbp.training import Run, UndoneError, is_sparse

# What a chunk of a source holds of X where it is not said: what is read in one go at a disk's full speed, and stays in an L3
# cache while it is trained on. Two of them are in memory.
CHUNK_BYTES = 2**24
# Where joblib puts arrays for its workers, which are to give the same results as the arrays themselves.
JOBLIB_FOLDER = "joblib_memmapping_folder"


class RowsError(UndoneError):
    """Rows that were read in the middle of a training cannot be learnt from."""


@dataclass
class Rows:
    """Rows of inputs, the outputs that they should give, and their weights or None."""

    X: Any
    Y: np.ndarray
    weights: np.ndarray | None = None

    @property
    def dtype(self):
        """Of the inputs."""
        return self.X.dtype

    @property
    def n_out(self):
        """Number of outputs."""
        return self.Y.shape[1]

    def all_weights(self):
        """What has the sum of all weights."""
        return self.weights

    def __iter__(self):
        """Itself, the only chunk."""
        yield self


class OnFile:
    """Rows that are mapped from a file, whose slices stay valid. Labels also have `codes` and `classes`."""

    codes: Any = None
    classes: Any = ()

    def release(self, start, stop):
        """Let the system take back the memory in which it holds some rows: they stay in the file."""
        raise NotImplementedError


# --- sources ----------------------------------------------------------------------------------------------------------


def mapped(array):
    """The memory map of a file that an array is a view of, or None; not one of joblib's own."""
    while array is not None:
        if isinstance(array, np.memmap) and vars(array)["_mmap"] is not None:
            return None if JOBLIB_FOLDER in str(array.filename) else array
        array = getattr(array, "base", None)
    return None


def is_source(X):
    """Whether X is a matrix to be read slice by slice: a memory map, or an array of h5py, zarr, dask and the like."""
    if isinstance(X, np.ndarray):
        return X.ndim == 2 and mapped(X) is not None
    if not all(hasattr(X, name) for name in ("shape", "dtype", "__getitem__")) or hasattr(X, "tocsr"):
        return False
    # arrays of other libraries that are in memory say so
    return not hasattr(X, "__array_interface__") and not hasattr(X, "__dlpack__") and len(X.shape) == 2


def is_array(array):
    """Whether it is an array, in memory or to be read slice by slice; not one of pandas, whose slices are its own."""
    return hasattr(array, "shape") and hasattr(array, "dtype") and not hasattr(array, "iloc")


def slice_of(source, start, stop):
    """Rows of a source as an array, or as a sparse matrix if it is one; of as many rows, or a ValueError."""
    rows = source[start:stop]
    if not hasattr(rows, "tocsr"):
        # who makes rows when they are asked for may make the next ones in the same place
        stays = isinstance(source, (np.ndarray, OnFile))
        rows = np.asarray(rows) if stays else np.array(rows)
    if rows.shape[:1] != (stop - start,):
        raise ValueError(f"slices must have the rows that are asked for, {stop - start}, got shape {rows.shape}")
    return rows


def joined(parts):
    """Arrays or sparse matrices of one part of the rows after the other as one."""
    if len(parts) == 1:
        return parts[0]
    if hasattr(parts[0], "tocsr"):
        from scipy import sparse

        return sparse.vstack(parts, "csr")
    return np.concatenate(parts)


def length_of(name, source):
    """The number of rows of a source, which has to be known."""
    n = source.shape[0]
    if not isinstance(n, (int, np.integer)):
        raise ValueError(
            f"{name} must have a known number of rows, got shape {source.shape}: compute_chunk_sizes() finds it"
        )
    return int(n)


def rows_of_chunk(X):
    """How many rows of a source are a chunk where it is not said."""
    return max(1, CHUNK_BYTES // (max(1, int(X.shape[1])) * (4 if X.dtype == np.float32 else 8)))


def whole(source):
    """A source as an array in memory; anything else as it is."""
    if source is None or (type(source) is np.ndarray and source.base is None):
        return source
    sliced = all(hasattr(source, name) for name in ("shape", "dtype", "__getitem__")) and not hasattr(source, "__array__")
    if is_source(source) or (sliced and not hasattr(source, "tocsr")):
        return slice_of(source, 0, length_of("X", source))
    return source


def chunks_of(chunk_rows, X):
    """Rows of a chunk, and X; None and X in memory where one chunk has all rows, or chunks were not asked for."""
    if chunk_rows is not None:
        chunk_rows = checks.at_least(1, "chunk_rows", chunk_rows)
    elif not is_source(X):
        return None, X
    else:
        chunk_rows = rows_of_chunk(X)
    n = length_of("X", X) if hasattr(X, "shape") else len(X)
    return (chunk_rows, X) if n > chunk_rows else (None, whole(X))


def ranges_of(n_rows, chunk_rows):
    """First row of every chunk, and the one behind its last; the last chunk may be shorter."""
    return [(start, min(start + chunk_rows, n_rows)) for start in range(0, n_rows, chunk_rows)]


def slices_of(X):
    """Rows of a source, a chunk at a time."""
    n = length_of("X", X)
    for start, stop in ranges_of(n, rows_of_chunk(X)) if n else [(0, 0)]:
        yield slice_of(X, start, stop)
        release(X, start, stop)


def release(source, start, stop):
    """Let the system take back the memory in which it holds rows that are mapped from a file."""
    if isinstance(source, OnFile):
        source.release(start, stop)
    elif isinstance(source, np.ndarray):
        file = mapped(source)
        if file is not None and file.mode != "c":  # of which changes would be lost
            give_back(source, start, stop)


def give_back(array, start, stop):
    """Let the system take back memory in which it holds rows of an array that is mapped from a file."""
    whole: Any = array
    while whole is not None and not isinstance(whole, mmap.mmap):
        whole = whole.obj if isinstance(whole, memoryview) else getattr(whole, "base", None)
    if whole is None or not hasattr(mmap, "MADV_DONTNEED") or min(array.strides) < 0:
        return
    if array.ndim == 2 and array.strides[0] < array.strides[1]:  # column by column
        for column in array.T:
            give_back(column, start, stop)
        return
    begin = array.__array_interface__["data"][0] - np.frombuffer(whole, np.uint8).__array_interface__["data"][0]
    start, stop = (begin + number * array.strides[0] for number in (start, stop))
    start -= start % mmap.PAGESIZE
    if stop > start:
        whole.madvise(mmap.MADV_DONTNEED, start, stop - start)


# --- streams ----------------------------------------------------------------------------------------------------------


class Stream:
    """Rows that are read chunk by chunk.

    Parameters
    ----------
    ranges : list of pairs of int
        First row of every chunk, and the one behind its last. All but the last are of one length.
    n_in, n_out : int
    dtype : numpy dtype
        Of X, Y and the weights of the rows.
    read : callable
        read(start, stop) gives `Rows` of C-contiguous arrays of this type; a ValueError or TypeError if they are not sound.
    sources : sequence
        What is read, which is not needed any more where it is a memory map and its rows are over.
    weigh : callable or None
        weigh(start, stop) gives the weights of rows; None where all are 1.
    """

    def __init__(self, ranges, n_in, n_out, dtype, read: Callable[[int, int], Rows], sources=(), weigh: Any = None):
        self.ranges, self.n_in, self.n_out, self.dtype = ranges, n_in, n_out, np.dtype(dtype)
        self.read_range, self.sources, self.weigh, self.sparse = read, sources, weigh, None
        self.n_rows = sum(stop - start for start, stop in ranges)
        self.chunk_rows = max((stop - start for start, stop in ranges), default=0)
        self.weight = self.n_rows if weigh is None else float(sum(weigh(*at).sum(dtype=np.float64) for at in ranges))

    def read(self, number):
        """Rows of a chunk."""
        start, stop = self.ranges[number]
        try:
            rows = self.read_range(start, stop)
            n, sparse = stop - start, is_sparse(rows.X)
            for name, array, shape in (("X", rows.X, (n, self.n_in)), ("y", rows.Y, (n, self.n_out))):
                if array.shape != shape:
                    raise ValueError(f"{name} must have shape {shape}, got {array.shape}")
            if rows.weights is not None and rows.weights.shape != (n,):
                raise ValueError(f"sample_weight must have shape ({n},), got {rows.weights.shape}")
            self.sparse = sparse if self.sparse is None else self.sparse
            if sparse != self.sparse:
                raise ValueError("X must be sparse in all chunks or in none, got both")
            return rows
        except (ValueError, TypeError) as error:
            raise RowsError(f"rows {start} to {stop - 1}: {error}") from error

    def all_weights(self):
        """What has the sum of all weights."""
        return np.array([self.weight], self.dtype)

    def release(self, number):
        """Let go of memory that a chunk takes."""
        for source in self.sources:
            release(source, *self.ranges[number])

    def __iter__(self) -> Iterator[Rows]:
        """Rows of all chunks as they stand, the next one read ahead."""
        ahead = Ahead(self.read, 0)
        for number in range(len(self.ranges)):
            rows = ahead.result()
            if number + 1 < len(self.ranges):
                ahead = Ahead(self.read, number + 1)
            yield rows
            self.release(number)

    def without(self, share):
        """Two streams: of all but the last rows of every chunk, and of these, a share of all rows."""
        ends = [int(np.ceil(row * share)) for row in [0, *(stop for _, stop in self.ranges)]]
        counts = np.diff(ends).tolist()
        parts = (
            [(start, stop - count) for (start, stop), count in zip(self.ranges, counts, strict=True)],
            [(stop - count, stop) for (start, stop), count in zip(self.ranges, counts, strict=True)],
        )
        return tuple(self.of([(start, stop) for start, stop in part if stop > start]) for part in parts)

    def of(self, ranges):
        """A stream of other rows."""
        return Stream(ranges, self.n_in, self.n_out, self.dtype, self.read_range, self.sources, self.weigh)


def shuffled(seed, length):
    """Numbers up to a length in the order of a seed, which is a list of numbers; as they stand without one."""
    return np.arange(length) if seed is None else np.random.Generator(np.random.PCG64(seed)).permutation(length)


def row_order(seed, chunk, n_rows):
    """The order in which an epoch of this seed visits the rows of a chunk."""
    return shuffled([*seed, chunk + 1], n_rows)


class StreamRun(Run):
    """A network in training on a stream.

    Parameters
    ----------
    stream : Stream
    seed_of : callable or None
        seed_of(epoch), a list of numbers, decides on the order of chunks and rows in an epoch, and is asked for one after
        the other; None takes them as they stand.
    others
        As of `Run`.
    """

    def __init__(self, weights, biases, stream, *, seed_of=None, batch_size, **options):
        self.stream, self.seed_of, self.chunks, self.last = stream, seed_of, len(stream.ranges), 0
        self.ahead: Any = (None, None)  # the place of the chunk that is read ahead, and that
        self.drawn: Any = (None, None, None)  # an epoch, its seed, and the order of its chunks
        number, rows, order = self.fetch(*self.find(0, 0))
        # rows change from pass to pass, whatever their order
        super().__init__(
            weights, biases, rows.X, rows.Y, row_weights=rows.weights, batch_size=min(batch_size, stream.chunk_rows),
            draw=lambda count: None, **options,
        )  # fmt: skip
        self.draw, self.n_rows, self.weight = None, stream.n_rows, stream.weight
        self.visited, self.order = ((0, 0), number), order
        self.start, self.rows_over = time.perf_counter(), 0

    def find(self, epoch, place):
        """The seed of an epoch, and the number of the chunk that it visits at a place."""
        if self.drawn[0] != epoch:
            seed = None if self.seed_of is None else self.seed_of(epoch)
            self.drawn = epoch, seed, shuffled(seed, self.chunks)
        return self.drawn[1], int(self.drawn[2][place])

    def fetch(self, seed, number):
        """The number of a chunk, its rows, and their order."""
        rows = self.stream.read(number)
        n = rows.X.shape[0]
        order = np.empty((0, n), np.int64) if seed is None else row_order(seed, number, n)[np.newaxis]
        return number, rows, order

    def visit(self):
        """Let the present chunk be the one whose turn it is, and have the next one read."""
        at = divmod(self.before * self.chunks + self.passes, self.chunks)
        if self.visited[0] != at:
            place, ahead = self.ahead
            number, rows, order = ahead.result() if place == at else self.fetch(*self.find(*at))
            self.stream.release(self.visited[1])
            self.rows_over += self.X.shape[0]
            self.visited, self.order, self.ahead = (at, number), order, (None, None)
            self.take_rows(rows)
        following = divmod(at[0] * self.chunks + at[1] + 1, self.chunks)
        if following[0] < self.last and self.ahead[0] is None:
            self.ahead = following, Ahead(self.fetch, *self.find(*following))

    def take_rows(self, rows):
        """Let these be the rows of the next calls."""
        self.X, self.Y = rows.X, rows.Y
        self.row_weights = np.empty(0, rows.X.dtype) if rows.weights is None else rows.weights

    def reach(self, epochs):
        """As of `Run`, up to the end of a chunk."""
        self.visit()
        n = self.X.shape[0]
        per_pass = gate.blocks_per_epoch(n, min(self.batch_size, n), self.work.plan.block_rows)
        return per_pass - int(self.cursor[CURSOR.block]), per_pass

    def speed(self):
        """How fast rows were trained on so far."""
        speed = self.rows_over / (time.perf_counter() - self.start)
        row = (self.X.data.nbytes if is_sparse(self.X) else self.X.nbytes) / self.X.shape[0]
        return f"{speed:,.0f} rows/s, {speed * row / 1e6:,.1f} MB/s" if self.rows_over else ""

    def calls(self, epochs, each_epoch=False):
        """As of `Run`; nothing is read ahead of an epoch in which it may end."""
        self.restart()
        self.last = self.before + (1 if each_epoch else epochs)
        try:
            for _ in super().calls(epochs, each_epoch):
                self.last = self.before + (self.epochs_done + 1 if each_epoch else epochs)
                yield
        finally:
            self.ahead = (None, None)
