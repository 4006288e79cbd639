"""Measure the benches, or read what was measured, and write the report: JSON, a picture and tables.

    python bench/report.py                      measure everything, into the folder `.benchmarks`
    python bench/report.py --quick              the quick cases only
    python bench/report.py --from FILE          no measuring: the tables of an earlier run
    python bench/report.py --write              also keep the figures in bench/figures.json, and put them into README.md
    python bench/report.py --stored --write     put the figures of bench/figures.json into README.md once more

Arguments that it does not know are pytest's: `-k epoch` measures epochs.
"""

import argparse
import json
import os
import platform
import sys
from pathlib import Path

import plots
import tables

from fastbp.profiling.machine import versions

ROOT = Path(__file__).resolve().parent.parent
README, STORED, PICTURE = ROOT / "README.md", ROOT / "bench" / "figures.json", ROOT / "bench" / "figures.svg"
RESULTS = ROOT / ".benchmarks"
MARKS = "<!-- figures, written by bench/report.py -->", "<!-- end of figures -->"
BLAS_SETTINGS = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")
LIBRARIES = ("numpy", "numba", "scikit-learn", "torch", "jax")
# What README tells of, and what it tells of where there are files of it; what is stored of each bench.
PUBLISHED, ALSO = ("founding", "epoch", "fit"), ("fashion",)
KEPT = (
    "kind", "subject", "implementation", "dtype", "batch", "rows", "seconds", "samples_per_second", "epochs", "gflops",
    "fraction_of_peak", "peak_bytes", "epochs_to_87",
)  # fmt: skip


def run(bench, *arguments):
    """Run the benches of one file; one that fails ends it."""
    import pytest

    status = pytest.main([str(ROOT / "bench" / bench), "--benchmark-only", "--quiet", *arguments])
    if status != pytest.ExitCode.OK:
        sys.exit(int(status))


def measure(file, quick, others):
    """Run the cases of the table, which leave `file`."""
    run("test_table.py", f"--benchmark-json={file}", "--benchmark-columns=median,iqr,rounds", *["--quick"] * quick, *others)


def figures_of(results):
    """What pytest-benchmark wrote, as one row for each bench and where it was measured."""
    rows = [one["extra_info"] for one in results["benchmarks"] if "kind" in one["extra_info"]]
    peaks: dict = {}
    for row in rows:
        if "peak_gflops_per_core" in row:
            peaks[row["dtype"]] = max(peaks.get(row["dtype"], 0), row["peak_gflops_per_core"])
    cpu = results["machine_info"]["cpu"].get("brand_raw", platform.machine())
    blas = next((row["blas"] for row in rows if row["blas"]), "")
    found = versions()
    measured = {"Python": found["python"]} | {name: found[name] for name in LIBRARIES if name in found}
    return {"cpu": cpu, "peak_gflops": peaks, "versions": measured, "blas": blas, "rows": rows}


def published(figures):
    """What is stored: the rows that README tells of, six digits of every number."""

    def short(value):
        return float(f"{value:.6g}") if isinstance(value, float) else value

    rows = [
        {name: short(row[name]) for name in KEPT if row.get(name)}
        for row in figures["rows"]
        if row["kind"] in PUBLISHED + ALSO
    ]
    return figures | {"peak_gflops": {k: short(v) for k, v in figures["peak_gflops"].items()}, "rows": rows}


def dumped(figures):
    """JSON with one row to a line."""
    rows = ",\n    ".join(json.dumps(row) for row in figures["rows"])
    head = json.dumps({name: value for name, value in figures.items() if name != "rows"}, indent=2)
    return f'{head[:-2]},\n  "rows": [\n    {rows}\n  ]\n}}\n'


def with_figures(text, figures):
    """README's text with other figures in it."""
    return tables.between(text, MARKS, tables.readme(figures))


def store(figures):
    """Keep the figures, and put them into README."""
    if missing := set(PUBLISHED) - {row["kind"] for row in figures["rows"]}:
        raise SystemExit(f"README also shows {', '.join(sorted(missing))}, which was not measured")
    # all of it is there before any of it is kept
    texts = {STORED: dumped(figures), PICTURE: plots.lead(figures)}
    texts[README] = with_figures(README.read_text(encoding="utf-8"), figures)
    for file, text in texts.items():
        file.write_text(text, encoding="utf-8")


def parse(argv):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder for benches.json, report.md and pictures")
    parser.add_argument("--quick", action="store_true", help="a part of the cases, in two minutes")
    parser.add_argument("--from", dest="source", type=Path, help="JSON of an earlier run, instead of measuring")
    parser.add_argument("--stored", action="store_true", help="the figures that README shows, instead of measuring")
    parser.add_argument("--write", action="store_true", help="put the figures into README.md")
    arguments, others = parser.parse_known_args(argv)
    held = [name for name in BLAS_SETTINGS if name in os.environ]
    if arguments.write and held:
        parser.error(f"{' and '.join(held)} must not be set: published figures use the BLAS kernel numpy picks by itself")
    if arguments.write and arguments.quick:
        parser.error("published figures are not those of a quick run")
    return arguments, others


def main(argv=None):
    """Measure or read, then report and perhaps write."""
    arguments, others = parse(argv)
    if arguments.stored:
        figures = json.loads(STORED.read_text(encoding="utf-8"))
    else:
        arguments.output.mkdir(parents=True, exist_ok=True)
        file = arguments.source or arguments.output / "benches.json"
        if not arguments.source:
            measure(file, arguments.quick, others)
        figures = figures_of(json.loads(file.read_text(encoding="utf-8")))
        (arguments.output / "report.md").write_text(tables.report(figures), encoding="utf-8")
        plots.histograms(figures, arguments.output)
        print(f"benches.json, report.md and pictures are in {arguments.output}")
    if arguments.write:
        store(published(figures))
    if not (arguments.stored or arguments.source or arguments.quick or others):
        for bench in ("test_choice.py", "test_drawn.py"):
            run(bench, "--benchmark-columns=rounds")


if __name__ == "__main__":
    main()
