"""Measure every bench in one run and print the tables of figures; with --write, put them into README.md."""

import argparse
import json
import os
import platform
import sys
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
START, END = "<!-- figures, written by bench/report.py -->", "<!-- end of figures -->"
BLAS_SETTINGS = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")
BASELINE = "numpy-float64"
PEERS = ("numpy", "scikit-learn", "torch", "jax")
COLUMNS = ("fastbp", "fastbp n_jobs=2", *PEERS)


def measure() -> dict:
    """Run the benches and return what pytest-benchmark wrote about them."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "benches.json"
        files = [str(ROOT / "bench" / name) for name in ("test_founding.py", "test_networks.py")]
        status = pytest.main([*files, "--benchmark-only", f"--benchmark-json={file}"])
        if status != pytest.ExitCode.OK:
            sys.exit(int(status))
        return json.loads(file.read_text())


def rows_of(results: dict, bench: str) -> list[dict]:
    """What the benches of one file noted."""
    return [one["extra_info"] for one in results["benchmarks"] if f"{bench}.py" in one["fullname"]]


def conditions(results: dict) -> str:
    """Say where and with what the figures were measured."""
    rows = rows_of(results, "test_networks")
    cpu = results["machine_info"]["cpu"].get("brand_raw", platform.machine())
    versions = [f"Python {platform.python_version()}"]
    for name in ("numpy", "numba", "scikit-learn", "torch", "jax"):
        try:
            versions.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    peaks = {row["dtype"]: 0.0 for row in rows}
    for row in rows:
        peaks[row["dtype"]] = max(peaks[row["dtype"]], row["peak_gflops_per_core"])
    peak = ", ".join(f"{gflops:.0f} GFLOP/s in {dtype}" for dtype, gflops in peaks.items())
    return f"{cpu}, one core unless said, whose peak is {peak}; {', '.join(versions)}; numpy's BLAS: {rows[0]['blas']}."


def founding_table(results: dict) -> str:
    """Format one row for each network and implementation, compared with the numpy loop on the same network."""
    rows = rows_of(results, "test_founding")
    baseline = {row["network"]: row for row in rows if row["implementation"] == BASELINE}
    lines = ["| network | | ns per epoch | samples/s | speed-up |", "|---|---|--:|--:|--:|"]
    for row in sorted(rows, key=lambda row: (list(baseline).index(row["network"]), -row["nanoseconds_per_epoch"])):
        speedup = baseline[row["network"]]["nanoseconds_per_epoch"] / row["nanoseconds_per_epoch"]
        name = row["implementation"].replace("-", " ").replace("numpy", "numpy loop")
        figures = f"{row['nanoseconds_per_epoch']:,.0f} | {row['samples_per_second']:,.0f} | {speedup:,.1f}"
        lines.append(f"| {row['network']} | {name} | {figures} |")
    return "\n".join(lines)


def microseconds(value: float) -> str:
    """Three digits, or all before the point."""
    return f"{value:,.{2 if value < 10 else 1 if value < 100 else 0}f}"


def network_table(results: dict) -> str:
    """Format one row for each network and float type, with a column for each implementation that was measured."""
    groups: dict = {}
    for row in rows_of(results, "test_networks"):
        groups.setdefault((row["network"], row["batch"], row["dtype"]), {})[row["implementation"]] = row
    columns = [name for name in COLUMNS if any(name in group for group in groups.values())]
    heads = ["network", "batch", "", *columns, "lead", "GFLOP/s", "of peak"]
    lines = [f"| {' | '.join(heads)} |", "|---|--:|---" + "|--:" * (len(heads) - 3) + "|"]
    for key, group in groups.items():
        times = {name: row["microseconds_per_step"] for name, row in group.items()}
        cells = [*map(str, key), *[microseconds(times[name]) if name in times else "" for name in columns]]
        lead = min(times[name] for name in PEERS if name in times) / times["fastbp"]
        ours = group["fastbp"]
        cells += [f"{lead:.2f}", f"{ours['gflops']:.1f}", f"{ours['fraction_of_peak']:.0%}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Measure, print and perhaps write."""
    parser = argparse.ArgumentParser(description="Measure every bench and show the tables of README.md.")
    parser.add_argument("--write", action="store_true", help="put the tables into README.md")
    arguments = parser.parse_args()
    held = [name for name in BLAS_SETTINGS if name in os.environ]
    if arguments.write and held:
        parser.error(f"{' and '.join(held)} must not be set: published figures use the BLAS kernel numpy picks by itself")
    results = measure()
    note = "Microseconds per step; lead, GFLOP/s and share of the peak are those of fastbp on one core:"
    figures = f"{founding_table(results)}\n\n{note}\n\n{network_table(results)}\n\n{conditions(results)}"
    print(figures)
    if arguments.write:
        readme = ROOT / "README.md"
        text = readme.read_text(encoding="utf-8")
        before, rest = text.split(START)
        readme.write_text(f"{before}{START}\n{figures}\n{END}{rest.split(END)[1]}", encoding="utf-8")


if __name__ == "__main__":
    main()
