"""A profile in tables. Profiles are those of `fastbp.profiling.report`, which imports this."""

from typing import Any

from fastbp.profiling.clock import Rate
from fastbp.tables import Table

BOUND_BY = {"compute": "arithmetic", "memory": "memory", "latency": "latency", "overhead": "overhead"}


def tables(profile: Any) -> list[Table]:
    """All tables of a profile, in the order in which they are read."""
    result = [summary(profile)]
    if profile.phases:
        result.append(phases(profile))
    if profile.trials:
        result.append(trials(profile))
    if profile.comparison is not None:
        result.append(comparison(profile))
    return [*result, machine(profile)]


def summary(profile: Any) -> Table:
    """What was trained, how fast, by which kernel."""
    network, rate, choice = profile.network, profile.samples_per_second, profile.choice
    cores = "1 core" if network["threads"] == 1 else f"{network['threads']} cores"
    rows = [
        ["network", title_of(network)],
        ["data", data_of(network)],
        ["speed", f"{between(rate)} samples/s, {rate.repeats} times"],
        ["", f"{figure(profile.ns_per_sample)} ns per sample, {figure(profile.steps_per_second.median)} steps/s, "
             f"{figure(profile.epochs_per_second.median)} epochs/s"],
        ["arithmetic", f"{figure(profile.gflops.median)} GFLOP/s, {profile.fraction_of_peak:.0%} of the "
                       f"{figure(profile.peak_gflops)} of {cores}"],
        ["kernel", f"{choice.kernel}, because {choice.reason}"],
    ]  # fmt: skip
    if choice.speedup is not None and choice.other_samples_per_second is not None:
        rate = choice.other_samples_per_second
        rows.append(["", f"{choice.other} would do {figure(rate.median)} samples/s, {1 / choice.speedup:.2f} times as many"])
    if choice.compile_seconds is not None:
        loaded = (
            "not kept on disk" if choice.load_seconds is None else f"loaded from disk in {choice.load_seconds * 1e3:.0f} ms"
        )
        rows.append(["", f"compiled once in {choice.compile_seconds:.1f} s, {loaded}"])
    if profile.advice:
        best = profile.advice[0]
        rows.append(["try", f"{best.setting}={best.value}: {best.gain:.0%} more samples/s, measured"])
        if best.setting == "batch_size":
            times = best.value / network["batch_size"]
            rows.append(["", f"which makes {1 / times:.3g} times as many updates per epoch: it may learn less in each"])
    else:
        rows.append(["try", "nothing: no other setting was faster by more than the spread"])
    return Table(rows)


def title_of(network: dict) -> str:
    """A network in one line."""
    kinds = list(dict.fromkeys(network["activations"]))
    output = f"{network['out_activation']} with {network['loss']}"
    units = "-".join(map(str, network["units"]))
    return ", ".join([units, *(["/".join(kinds)] if kinds else []), output, network["solver"], network["dtype"]])


def data_of(network: dict) -> str:
    """Rows, batches and threads in one line."""
    kind = "random " if network["synthetic"] else ("sparse " if network["sparse"] else "")
    threads = f"{network['threads']} thread{'s' * (network['threads'] > 1)}"
    asked = "" if network["n_jobs"] in (None, network["threads"]) else f" (n_jobs={network['n_jobs']})"
    return f"{network['rows']:,} {kind}rows in batches of {network['batch_size']:,}, {threads}{asked}"


def phases(profile: Any) -> Table:
    """Where the time of a step goes."""
    steps = profile.network["steps_per_epoch"]
    rows = [
        [
            phase.label,
            figure(phase.seconds / steps * 1e6),
            f"{phase.share:.1%}",
            "" if phase.gflops is None else figure(phase.gflops),
            "" if phase.gbs is None else figure(phase.gbs),
            "" if phase.reached is None else f"{phase.reached:.0%}",
            BOUND_BY[phase.bound],
        ]
        for phase in profile.phases
    ]
    columns = ["phase[layer]", "us per step", "share", "GFLOP/s", "GB/s", "of ceiling", "bound by"]
    return Table(rows, columns, "Where a step goes", words=1)


def trials(profile: Any) -> Table:
    """What else was tried."""
    rows = [
        [
            f"{trial.setting}={trial.value}",
            between(trial.samples_per_second),
            f"{trial.gain:+.0%}",
            "faster" if trial.advised else ("within the spread" if trial.gain > 0 else "not faster"),
        ]
        for trial in profile.trials
    ]
    return Table(rows, ["setting", "samples/s", "gain", "verdict"], "What else was tried", words=1)


def comparison(profile: Any) -> Table:
    """Other libraries beside fastbp."""
    assert profile.comparison is not None
    ours = profile.comparison["fastbp"]
    rows = []
    for name, rate in profile.comparison.items():
        if isinstance(rate, str):
            rows.append([name, "", "", "", "", rate])
        else:
            lead = ours.median / rate.median if isinstance(ours, Rate) else 0.0
            extremes = [figure(value) for value in (rate.low, rate.median, rate.high)]
            rows.append([name, *extremes, "" if name == "fastbp" else f"{lead:.2f} times", ""])
    columns = ["library", "lowest", "samples/s", "highest", "fastbp's lead", ""]
    return Table(rows, columns, "Side by side", words=1)


def machine(profile: Any) -> Table:
    """The ceilings."""
    found, dtype = profile.ceilings, profile.network["dtype"]
    rows = []
    for cores in found.peak_gflops[dtype]:
        reads = [found.read_gbs[level][cores] for level in ("L2", "L3", "memory")]
        shown = [found.peak_gflops[dtype][cores], *reads]
        rows.append([f"{cores}", *[f"{figure(one.best)} ({one.spread:.0%})" for one in shown]])
    columns = ["cores", f"GFLOP/s {dtype}", "L2 GB/s", "L3 GB/s", "memory GB/s"]
    title = "What this machine can do at best (in brackets: how far below it the median was)"
    return Table(rows, columns, title)


def between(rate: Rate) -> str:
    """A rate with its extremes."""
    return f"{figure(rate.median)} ({figure(rate.low)} to {figure(rate.high)})"


def figure(value: float) -> str:
    """Three digits, or all before the point."""
    size = abs(value)
    return f"{value:,.{0 if size >= 100 else 1 if size >= 10 else 2 if size >= 1 else 3}f}"
