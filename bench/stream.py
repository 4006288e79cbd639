"""An epoch over more rows than one wants in memory: from a memory map, a Parquet file, and from memory, in a process each.

``python bench/stream.py [--rows 20000000] [--hidden 64,64]`` writes the rows into a temporary folder, 84 bytes each, and
with pyarrow twice; Linux tells how much memory a process has taken.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np

COLUMNS, ROWS_AT_ONCE, TURNS = 20, 500_000, 3


def write(folder, rows):
    """A matrix and a target, as plain files and as a Parquet file where pyarrow is installed."""
    rng, weights = np.random.default_rng(0), np.linspace(-1, 1, COLUMNS, dtype=np.float32)
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq

        names = [f"x{number}" for number in range(COLUMNS)] + ["y"]
        writer = pq.ParquetWriter(folder / "rows.parquet", pa.schema([(name, pa.float32()) for name in names]))
    except ImportError:
        writer = None
    with open(folder / "X", "wb") as X_file, open(folder / "y", "wb") as y_file:
        for start in range(0, rows, ROWS_AT_ONCE):
            X = rng.standard_normal((min(ROWS_AT_ONCE, rows - start), COLUMNS), dtype=np.float32)
            y = np.sin(X @ weights)
            X.tofile(X_file)
            y.tofile(y_file)
            if writer:
                writer.write_table(pa.table([*X.T, y], names=names))
    if writer:
        writer.close()


def memory(which):
    """Bytes that this process has taken: "VmRSS" now, "VmHWM" at most."""
    with open("/proc/self/status") as status:
        return int(next(line for line in status if line.startswith(which)).split()[1]) * 1024


def measure(kind, folder, rows, hidden):
    """Seconds of an epoch, and bytes beyond those of an interpreter that has trained a little before."""
    from fastbp import MLPRegressor

    def fit(X, y):
        start = time.perf_counter()
        est = MLPRegressor(hidden_layer_sizes=hidden, max_iter=1, random_state=0).fit(X, y)
        return time.perf_counter() - start, est.loss_

    found = {}
    fit(np.zeros((1000, COLUMNS), np.float32), np.zeros(1000, np.float32))
    fit(np.zeros((1000, COLUMNS), np.float32), np.zeros(1000, np.float32))
    before = memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the most so far is forgotten
    if kind == "parquet":
        import fastbp

        start = time.perf_counter()
        source = fastbp.rows(folder / "rows.parquet", target="y")
        found |= {"converting": time.perf_counter() - start, "converting_bytes": memory("VmHWM") - before}
        before = memory("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")
        X, y = source, source.y
    else:
        X = np.memmap(folder / "X", np.float32, "r", shape=(rows, COLUMNS))
        y = np.memmap(folder / "y", np.float32, "r", shape=(rows,))
        if kind == "memory":
            X, y = np.array(X), np.array(y)
    epochs = [fit(X, y) for _ in range(TURNS)]
    found |= {"seconds": min(seconds for seconds, _ in epochs), "loss": epochs[0][1]}
    return found | {"bytes": memory("VmHWM") - before}


def check(folder, rows, hidden):
    """Raise an AssertionError unless the first rows give the same weights from the file and from memory."""
    from fastbp import MLPRegressor

    n = min(rows, ROWS_AT_ONCE)
    X = np.memmap(folder / "X", np.float32, "r", shape=(rows, COLUMNS))[:n]
    y = np.fromfile(folder / "y", np.float32, n)
    est = [MLPRegressor(hidden_layer_sizes=hidden, max_iter=1, random_state=0).fit(one, y, chunk_rows=n // 3 + 1)
           for one in (X, np.array(X))]  # fmt: skip
    for mine, theirs in zip(*(one.coefs_ + one.intercepts_ for one in est), strict=True):
        np.testing.assert_array_equal(mine, theirs)


def read_parquet(folder):
    """Seconds in which pyarrow reads the file, a batch after the other."""
    import pyarrow.parquet as pq

    start = time.perf_counter()
    for _ in pq.ParquetFile(folder / "rows.parquet").iter_batches(1 << 16):
        pass
    return time.perf_counter() - start


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=20_000_000)
    parser.add_argument("--hidden", default="64,64")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    hidden = tuple(int(size) for size in options.hidden.split(","))
    warnings.simplefilter("ignore")
    if options.measure:
        print(json.dumps(measure(options.measure, options.folder, options.rows, hidden)))
        return
    with tempfile.TemporaryDirectory() as name:
        folder, command = Path(name), [sys.executable, __file__, "--rows", str(options.rows), "--hidden", options.hidden]
        write(folder, options.rows)
        check(folder, options.rows, hidden)
        kinds = ["map", "parquet", "memory"] if (folder / "rows.parquet").exists() else ["map", "memory"]
        found = {}
        for kind in kinds:
            result = subprocess.run([*command, "--measure", kind, "--folder", name], check=True, stdout=subprocess.PIPE)
            found[kind] = json.loads(result.stdout)
        per_row = found["memory"]["seconds"] / options.rows
        for kind, one in found.items():
            seconds = one["seconds"] / options.rows
            print(f"{kind:8} {seconds * 1e9:8.1f} ns a row, {seconds / per_row:.2f} times memory's; "
                  f"{one['bytes'] / 1e6:6.0f} MB beyond the interpreter; loss {one['loss']:.6f}")  # fmt: skip
        if "parquet" in found:
            seconds = read_parquet(folder)
            ours = found["parquet"]
            print(f"converting Parquet {ours['converting']:.1f} s with {ours['converting_bytes'] / 1e6:.0f} MB, "
                  f"pyarrow's reading {seconds:.1f} s")  # fmt: skip


if __name__ == "__main__":
    main()
