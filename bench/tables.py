"""Figures as Markdown tables: those of README, and all of them."""

BASELINE = "numpy"
PEERS = ("numpy", "scikit-learn", "torch", "jax")
COLUMNS = ("fastbp", "fastbp n_jobs=2", "one by one", "python", "numpy", "reference", "scikit-learn", "torch", "jax")
# What the time is that a kind's table shows.
TIMED = {
    "pointwise": "a function of 65,536 numbers",
    "step": "one optimiser step, each a call of its own",
    "epoch": "one optimiser step within whole epochs",
    "founding": "an epoch",
    "members": "an epoch of one of 256 networks",
    "fit": "a fit",
    "fashion": "five epochs of Fashion-MNIST",
    "predict": "a prediction of all rows",
    "start-up": "a process",
}
# What stands under "memory".
MEMORY = "the most that is taken at a time beside X, y and the weights, by fastbp unless said"


def duration(seconds):
    """Three digits and a unit."""
    units = (("s", 1), ("ms", 1e3), ("us", 1e6), ("ns", 1e9))
    unit, factor = next((pair for pair in units if seconds * pair[1] >= 1), units[-1])
    return f"{seconds * factor:.3g} {unit}" if seconds * factor < 999.5 else f"{seconds * factor:,.0f} {unit}"


def between(text, marks, new):
    """A text with a new one between two marks, which it must have."""
    before, found, rest = text.partition(marks[0])
    _, ending, after = rest.partition(marks[1])
    if not (found and ending):
        raise SystemExit(f"the text must have the marks {' and '.join(marks)}")
    return f"{before}{found}\n{new}\n{ending}{after}"


def memory_of(row):
    """The most bytes that a bench takes, with a unit, or nothing where that is not told."""
    size = row.get("peak_bytes")
    return "" if size is None else f"{size / 1e6:,.1f} MB" if size >= 1e6 else f"{size / 1e3:,.1f} kB"


def microseconds(seconds):
    """Three digits, or all before the point."""
    value = seconds * 1e6
    return f"{value:,.{2 if value < 10 else 1 if value < 100 else 0}f}"


def table(heads, rows, words=1):
    """Markdown: the first `words` columns to the left, the others to the right, but for empty ones."""
    kept = [place for place in range(len(heads)) if place < words or any(row[place] for row in rows)]
    heads, *rows = ([row[place] for place in kept] for row in (heads, *rows))
    lines = [f"| {' | '.join(heads)} |", "|---" * words + "|--:" * (len(heads) - words) + "|"]
    return "\n".join([*lines, *[f"| {' | '.join(row)} |" for row in rows]])


def grouped(figures, kind):
    """Rows of a kind by what is compared: {(subject, batch, rows, dtype): {implementation: row}}."""
    groups: dict = {}
    for row in figures["rows"]:
        if row["kind"] == kind:
            key = row["subject"], row.get("batch", 0), row.get("rows", 0), row["dtype"]
            groups.setdefault(key, {})[row["implementation"]] = row
    return groups


def columns_of(groups, among):
    return [name for name in among if any(name in group for group in groups.values())]


def conditions(figures):
    """Say where and with what the figures were measured."""
    peak = ", ".join(f"{gflops:.0f} GFLOP/s in {dtype}" for dtype, gflops in figures["peak_gflops"].items())
    versions = ", ".join(f"{name} {number}" for name, number in figures["versions"].items())
    blas = f"numpy's BLAS: {figures['blas']}"
    return f"{figures['cpu']}, one core unless said, whose peak is up to {peak}; {versions}; {blas}."


# --- README -----------------------------------------------------------------------------------------------------------


def founding(figures):
    """One row for each network and implementation, compared with the numpy loop on the same network."""
    rows, baseline = [], {}
    for (subject, _, _, _), group in grouped(figures, "founding").items():
        if BASELINE not in group and subject not in baseline:
            raise SystemExit(f"{subject} is compared with {BASELINE}, which was not measured")
        baseline.setdefault(subject, group.get(BASELINE))
        for name, row in sorted(group.items(), key=lambda pair: -pair[1]["seconds"]):
            words = f"{name.replace('numpy', 'numpy loop')} {row['dtype']}"
            speedup = baseline[subject]["seconds"] / row["seconds"]
            rate = f"{row['samples_per_second']:,.0f}"
            rows.append([subject, words, f"{row['seconds'] * 1e9:,.0f}", rate, f"{speedup:,.1f}"])
    return table(["network", "", "ns per epoch", "samples/s", "speed-up"], rows, words=2)


def networks(figures):
    """One row for each network and float type, with a column for each implementation that was measured."""
    groups = {key: group for key, group in grouped(figures, "epoch").items() if "fastbp" in group}
    columns = columns_of(groups, [name for name in COLUMNS if name not in ("python", "reference")])
    rows = []
    for (subject, batch, _, dtype), group in groups.items():
        ours, peers = group["fastbp"], [group[name]["seconds"] for name in PEERS if name in group]
        cells = [microseconds(group[name]["seconds"]) if name in group else "" for name in columns]
        lead = f"{min(peers) / ours['seconds']:.2f}" if peers else ""
        share = f"{ours['fraction_of_peak']:.0%}"
        rows.append([subject, dtype, str(batch), *cells, lead, f"{ours['gflops']:.1f}", share, memory_of(ours)])
    return table(["network", "", "batch", *columns, "lead", "GFLOP/s", "of peak", "memory"], rows, words=2)


def fits(figures):
    """One row for each data set and float type."""
    rows = []
    for (subject, _, count, dtype), group in grouped(figures, "fit").items():
        if {"fastbp", "scikit-learn"} <= group.keys():
            ours, theirs = group["fastbp"], group["scikit-learn"]
            times = [f"{one['seconds'] * 1e3:,.1f}" for one in (ours, theirs)]
            rate = f"{ours['samples_per_second']:,.0f}"
            ratio = f"{theirs['seconds'] / ours['seconds']:.1f}"
            sizes = memory_of(ours), memory_of(theirs)
            rows.append([subject, dtype, f"{count:,}", str(ours["epochs"]), *times, rate, ratio, *sizes])
    heads = ["fastbp", "scikit-learn", "samples/s", "ratio", "memory", "scikit-learn's"]
    return table(["data set", "", "rows", "epochs", *heads], rows, words=2)


def fashion(figures):
    """Seconds of each implementation for five epochs, and until it is as right as is wanted."""
    groups = grouped(figures, "fashion")
    columns = columns_of(groups, COLUMNS)
    rows = []
    for (subject, batch, _, dtype), group in groups.items():
        five = [f"{group[name]['seconds']:.2f}" if name in group else "" for name in columns]
        needed = [
            group[name]["seconds"] / 5 * group[name].get("epochs_to_87", 0) if name in group else 0 for name in columns
        ]
        rows.append([f"{subject}, batch {batch}, {dtype}", "five epochs", *five])
        rows.append(["", "to 87% of the test rows", *(f"{seconds:.2f}" if seconds else "" for seconds in needed)])
    return table(["Fashion-MNIST", "seconds", *columns], rows, words=2) if rows else ""


def readme(figures):
    """Everything between README's two marks."""
    told = any("peak_bytes" in row for row in figures["rows"])
    return "\n\n".join(
        [
            founding(figures),
            "Microseconds per step; lead, GFLOP/s and share of the peak are those of fastbp on one core:",
            networks(figures),
            "Milliseconds of a whole `fit` of `MLPClassifier` (`MLPRegressor` for diabetes) with default parameters, on "
            "standardised\ndata; `sparse` is a CSR matrix of 50 features with 1% stored values, 64 hidden units, 20 epochs:",
            fits(figures),
            *[f"Memory is {MEMORY}."] * told,
            *filter(None, [fashion(figures)]),
            "![Times of scikit-learn, numpy, torch and jax as multiples of fastbp's](bench/figures.svg)",
            conditions(figures),
        ]
    )


# --- report -----------------------------------------------------------------------------------------------------------


def times(figures, kind):
    """Times of a kind side by side, with what else is known of fastbp."""
    groups = grouped(figures, kind)
    columns = columns_of(groups, COLUMNS)
    rows = []
    for (subject, batch, count, dtype), group in groups.items():
        ours = group.get("fastbp", {})
        cells = [duration(group[name]["seconds"]) if name in group else "" for name in columns]
        rate = f"{ours['samples_per_second']:,.0f}" if "samples_per_second" in ours else ""
        gflops = f"{ours['gflops']:.1f}" if "gflops" in ours else ""
        share = f"{ours['fraction_of_peak']:.0%}" if "fraction_of_peak" in ours else ""
        sizes = [str(batch or ""), f"{count:,}" if count else ""]
        rows.append([subject, dtype, *sizes, *cells, rate, gflops, share, ours.get("kernel") or ""])
    heads = ["", "", "batch", "rows", *columns, "samples/s", "GFLOP/s", "of peak", "kernel"]
    return table(heads, rows, words=2)


def memory(figures):
    """Most bytes of every bench of which they are told; nothing where there is none."""
    rows = []
    for kind in dict.fromkeys(row["kind"] for row in figures["rows"]):
        for (subject, batch, count, dtype), group in grouped(figures, kind).items():
            cells = [memory_of(group.get(name, {})) for name in COLUMNS]
            if any(cells):
                rows.append([f"{kind} {subject}", dtype, str(batch or ""), f"{count:,}", *cells])
    return table(["", "", "batch", "rows", *COLUMNS], rows, words=2) if rows else ""


def report(figures):
    """All figures, a table for each kind."""
    kinds = dict.fromkeys(row["kind"] for row in figures["rows"])
    note = "Medians of rounds in turns; samples/s, GFLOP/s, share of the peak and kernel are those of fastbp."
    parts = ["# Benches", conditions(figures), note]
    for kind in kinds:
        parts += [f"## {kind}: {TIMED[kind]}", times(figures, kind), f"![{kind}]({kind}.svg)"]
    if sizes := memory(figures):
        parts += [f"## memory: {MEMORY}", sizes]
    return "\n\n".join(parts) + "\n"
