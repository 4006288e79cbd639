"""Compare fastbp's benches with those of a saved run, and fail where one takes longer than chance explains, or more memory.

    python bench/compare.py SAVED.json              measure the same cases now
    python bench/compare.py SAVED.json NEW.json     compare two runs

What is compared is the median of a bench's rounds. Both runs also time code that is not fastbp's and is the same in both:
numpy loops, scikit-learn, torch, jax. Its benches are repeated runs of the same code, and they say two things.

- The median of their ratios new / saved is how much slower, or faster, the machine itself was: every ratio is divided by it.
- Their spread about it is the spread of repeated runs: `between`, 1.4826 times the median absolute deviation of the
  logarithms, which is a standard deviation that a few outliers do not move.

To it comes, for each bench, how well its own rounds tell the median: `within`, 1.2533 s / sqrt(n) for n rounds of standard
deviation s of their logarithms, of both runs. A bench fails where its logarithm exceeds Z * sqrt(between**2 + within**2),
and at least that of LEAST. With Z = 4, chance alone fails one run of 300 benches in a hundred.

Peak bytes of memory depend on the length of a processor's vectors, but hardly on its speed: they may grow by BYTES, and by
BYTES_APART whatever they are.
"""

import argparse
import json
import math
import statistics
import sys
from pathlib import Path

Z = 4.0
# Where code and data come to lie in memory alone moves a median by some percent.
LEAST = 1.05
# Orders of the rows are drawn for all epochs of a call, whose number is a matter of time: peaks of fits differed by 8%.
BYTES = 1.1
# What a small network takes is mostly objects of Python: a version of Python or numpy changes it by some hundred bytes each.
BYTES_APART = 4096
MEMORY = ", memory"
# With a larger spread, a slowdown by half would pass: such a comparison has no result, and status 2.
NOISY = 0.1
# Benches of unchanged code that it takes to know a spread.
ENOUGH = 5


class NothingToSayError(ValueError):
    """Two runs cannot be compared."""


def benches(results):
    """What is compared of a run, by name."""
    found = {one["name"]: one["extra_info"] for one in results["benchmarks"] if "kind" in one["extra_info"]}
    for name, bench in found.items():
        for figure in [bench["seconds"], *bench["rounds"], bench.get("peak_bytes", 1)]:
            if not 0 < figure < math.inf:
                raise NothingToSayError(f"{name} must have figures above 0, got {figure}")
    return found


def is_ours(bench):
    return bench["implementation"].startswith("fastbp")


def log_ratio(saved, new):
    return math.log(new["seconds"] / saved["seconds"])


def within(bench):
    """Standard error of the logarithm of a bench's median."""
    logs = [math.log(seconds) for seconds in bench["rounds"]]
    return 1.2533 * statistics.stdev(logs) / math.sqrt(len(logs)) if len(logs) > 1 else 0.0


def machine(saved, new):
    """Median and spread of the logarithms of the ratios of unchanged code."""
    unchanged = [name for name, one in saved.items() if name in new and not is_ours(one)]
    if len(unchanged) < ENOUGH:
        raise NothingToSayError(f"a comparison needs {ENOUGH} benches of other code in both runs, got {len(unchanged)}")
    logs = [log_ratio(saved[name], new[name]) for name in unchanged]
    middle = statistics.median(logs)
    return middle, 1.4826 * statistics.median(abs(one - middle) for one in logs)


def compare(saved, new):
    """Rows (name, ratio, allowed) for every bench of fastbp that both runs have: of its time, and of its memory if told."""
    middle, between = machine(saved, new)
    rows = []
    for name, before in saved.items():
        if name not in new or not is_ours(before):
            continue
        after = new[name]
        spread = math.hypot(between, within(before), within(after))
        rows.append((name, math.exp(log_ratio(before, after) - middle), max(LEAST, math.exp(Z * spread))))
        if "peak_bytes" in before.keys() & after.keys():
            size = before["peak_bytes"]
            rows.append((name + MEMORY, after["peak_bytes"] / size, BYTES + BYTES_APART / size))
    return rows


def read(file):
    try:
        return benches(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise NothingToSayError(f"{file} is no run of bench/report.py: {error!r}") from None


def measured_now(quick):
    """The file of a new run."""
    from report import RESULTS, measure

    RESULTS.mkdir(parents=True, exist_ok=True)
    file = RESULTS / "compared.json"
    measure(file, quick, [])
    return file


def main(argv=None):
    """Print what has changed; status 1 where a bench is slower or larger than it may be, 2 where nothing can be said."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("saved", type=Path, help="JSON of a run of bench/report.py")
    parser.add_argument("new", type=Path, nargs="?", help="another one; measured now if it is left out")
    parser.add_argument("--quick", action="store_true", help="measure the quick cases only")
    arguments = parser.parse_args(argv)
    try:
        saved = read(arguments.saved)
        new = read(arguments.new or measured_now(arguments.quick))
        middle, between = machine(saved, new)
        rows = compare(saved, new)
        if not rows:
            raise NothingToSayError("a comparison needs benches of fastbp in both runs, got none")
    except NothingToSayError as error:
        print(f"not compared: {error}", file=sys.stderr)
        return 2
    print(f"unchanged code takes {math.exp(middle):.3f} times as long as then, with a spread of {between:.1%}")
    lost = sum(name not in new for name in saved)
    print(f"{len(rows)} times and sizes of fastbp's benches compared; benches that the new run has not: {lost}")
    for name, ratio, allowed in sorted(rows, key=lambda row: row[1] / row[2], reverse=True):
        worse, better = ("LARGER", "smaller") if name.endswith(MEMORY) else ("SLOWER", "faster")
        word = worse if ratio > allowed else better if ratio < 1 / allowed else ""
        if word:
            print(f"{word:7}  {ratio:.3f} (allowed {allowed:.3f})  {name}")
    if any(ratio > allowed for _, ratio, allowed in rows):
        return 1
    if between > NOISY:
        print(f"not compared: the machine was too busy in one of the runs, a spread of {NOISY:.0%} is the most")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
