"""Measure every bench in one run, on one core, and print the table of figures; with --write, put it into README.md."""

import argparse
import json
import os
import platform
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

import numpy  # noqa: F401  threadpoolctl sees only what is loaded
import pytest
from threadpoolctl import threadpool_info

ROOT = Path(__file__).resolve().parent.parent
START, END = "<!-- figures, written by bench/report.py -->", "<!-- end of figures -->"
BLAS_SETTINGS = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")
BASELINE = "numpy-float64"


def measure() -> dict:
    """Run the benches and return what pytest-benchmark wrote about them."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "benches.json"
        status = pytest.main([str(ROOT / "bench"), "--benchmark-only", f"--benchmark-json={file}"])
        if status != pytest.ExitCode.OK:
            sys.exit(int(status))
        return json.loads(file.read_text())


def conditions(results: dict) -> str:
    """Say where and with what the figures were measured."""
    blas = ", ".join(f"{pool['internal_api']} {pool.get('architecture', '')}".strip() for pool in numpy_blas())
    cpu = results["machine_info"]["cpu"].get("brand_raw", platform.machine())
    versions = ", ".join(f"{name} {version(name)}" for name in ("numpy", "numba"))
    return f"One core of {cpu}; Python {platform.python_version()}, {versions}, numpy's BLAS: {blas}."


def numpy_blas() -> list[dict]:
    """The BLAS that numpy calls; scipy brings another one, in a folder of its own."""
    return [pool for pool in threadpool_info() if pool["user_api"] == "blas" and "scipy.libs" not in pool["filepath"]]


def table(results: dict) -> str:
    """Format one row for each network and implementation, compared with the numpy loop on the same network."""
    rows = [bench["extra_info"] for bench in results["benchmarks"]]
    baseline = {row["network"]: row for row in rows if row["implementation"] == BASELINE}
    lines = ["| network | | ns per epoch | samples/s | speed-up |", "|---|---|--:|--:|--:|"]
    for row in sorted(rows, key=lambda row: (list(baseline).index(row["network"]), -row["nanoseconds_per_epoch"])):
        speedup = baseline[row["network"]]["nanoseconds_per_epoch"] / row["nanoseconds_per_epoch"]
        name = row["implementation"].replace("-", " ").replace("numpy", "numpy loop")
        figures = f"{row['nanoseconds_per_epoch']:,.0f} | {row['samples_per_second']:,.0f} | {speedup:,.1f}"
        lines.append(f"| {row['network']} | {name} | {figures} |")
    return "\n".join(lines)


def main() -> None:
    """Measure, print and perhaps write."""
    parser = argparse.ArgumentParser(description="Measure every bench and show the table of README.md.")
    parser.add_argument("--write", action="store_true", help="put the table into README.md")
    arguments = parser.parse_args()
    held = [name for name in BLAS_SETTINGS if name in os.environ]
    if arguments.write and held:
        parser.error(f"{' and '.join(held)} must not be set: published figures use the BLAS kernel numpy picks by itself")
    results = measure()
    figures = f"{table(results)}\n\n{conditions(results)}"
    print(figures)
    if arguments.write:
        readme = ROOT / "README.md"
        text = readme.read_text(encoding="utf-8")
        before, rest = text.split(START)
        readme.write_text(f"{before}{START}\n{figures}\n{END}{rest.split(END)[1]}", encoding="utf-8")


if __name__ == "__main__":
    main()
