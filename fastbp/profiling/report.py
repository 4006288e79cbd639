"""How fast a network trains on this machine, where the time goes, and what would make it faster; sweeps over networks."""

import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from fastbp import kernels
from fastbp.checks import above
from fastbp.kernels import jit
from fastbp.profiling import machine, pictures, workload
from fastbp.profiling.phases import BOUND_BY, Phase, phase_times, phases_from
from fastbp.profiling.rivals import compared
from fastbp.profiling.workload import Rate, Trainer, Workload, rate_of, take_turns
from fastbp.tables import Table, figure
from fastbp.training import Run, usable_threads
from fastbp.workspace import choice_for_training

SECONDS, SWEEP_SECONDS = 2.0, 5.0
LEAST_SECONDS = 0.05
SWEEP_TURNS = 5
# Turns of the training itself for one of anything that it is compared with.
WEIGHT = 3
# Parts of the time for what is compared, for the phases, and for rivals where they are asked for.
TURNS_PART, PHASES_PART, RIVALS_PART = 0.6, 0.2, 0.4
MORE_THAN_NOISE = 0.03  # nothing less is advised, however still the machine


class Report:
    """What reads as tables."""

    tables: Callable[[], list[Table]]

    def __str__(self) -> str:
        return "\n".join(table.text() for table in self.tables()).lstrip("\n")


@dataclass(frozen=True)
class Trial:
    """What another setting gave; `advised` if it was faster in every turn, and by more than the spread of the two."""

    setting: str  # "batch_size", "dtype" or "n_jobs"; or "kernel", which is fastbp's to choose
    value: int | str
    samples_per_second: Rate
    gain: float
    advised: bool


@dataclass(frozen=True)
class Choice:
    """Which kernel trains; None for seconds where nothing is compiled."""

    kernel: str  # "narrow", "wide" or "online"
    reason: str
    compile_seconds: float | None  # once
    load_seconds: float | None  # from disk, once per process


@dataclass(frozen=True)
class Profile(Report):
    """What `fastbp.profile` found out."""

    network: dict[str, Any]  # what was trained, see `Workload.describe`; with `threads`, the number that one step is worth
    samples_per_second: Rate
    epochs_per_second: float  # passes over all rows, by the median
    steps_per_second: float
    ns_per_sample: float
    gflops: float  # billions of operations per second, as `Workload.flops_per_sample` counts them
    peak_gflops: float  # what the cores of its threads manage in its float type
    fraction_of_peak: float
    ceilings: machine.Ceilings  # what the machine can do at best
    choice: Choice  # which kernel trains, and why
    phases: list[Phase]  # in the order of a step; none where kernels run as plain Python
    slowdown: float | None  # by which part training is slower while phases are counted
    trials: list[Trial]  # what other settings gave, and the kernel that was not chosen
    comparison: dict[str, Rate | str] | None  # by library, or why there is no rate; None if it was not asked for
    seconds: float  # how long all of it took, compiling included

    @property
    def advice(self) -> list[Trial]:
        """What can be set and would be faster by more than the spread, the best first."""
        advised = [trial for trial in self.trials if trial.advised and trial.setting != "kernel"]
        return sorted(advised, key=lambda trial: -trial.gain)

    @property
    def title(self) -> str:
        """The network in one line."""
        network = self.network
        kinds = ["/".join(dict.fromkeys(network["activations"]))] if network["activations"] else []
        output = f"{network['out_activation']} with {network['loss']}"
        return ", ".join(["-".join(map(str, network["units"])), *kinds, output, network["solver"], network["dtype"]])

    def to_dict(self) -> dict[str, Any]:
        """All figures, for JSON."""
        found = asdict(self)
        found["kernel"], found["slowdown_by_counting"] = found.pop("choice"), found.pop("slowdown")
        return found | {"spread": self.samples_per_second.spread, "machine": machine.facts()}

    def tables(self) -> list[Table]:
        """Figures, phases, trials, rivals and ceilings."""
        parts = summary_table, phases_table, trials_table, comparison_table, machine_table
        return [table for table in (part(self) for part in parts) if table.rows]

    plot, trace = pictures.save_profile, pictures.save_trace


def profile(
    what: Any = None,
    X: Any = None,
    y: Any = None,
    *,
    batch_size: int | None = None,
    rows: int | None = None,
    dtype: Any = None,
    solver: str | None = None,
    activation: Any = None,
    n_jobs: int | None = None,
    seconds: float = SECONDS,
    compare: bool = False,
    progress: Callable[[str], Any] | None = None,
) -> Profile:
    """Measure how fast a network trains here, where the time goes, and what would make it faster.

    Parameters
    ----------
    what : sequence of int, NeuralNetwork, MLPClassifier, MLPRegressor, TabularClassifier or TabularRegressor, optional
        Layer sizes, input and output included, which are trained on random data; or a network or an estimator, which stays
        as it is. Without it, the estimator for X and y.
    X, y : array-like, optional
        The data of a network or an estimator, as its `train` or `fit` takes them.
    batch_size : int, optional
        Rows per step; 200 or all rows by default, as in scikit-learn. An estimator has its own.
    rows : int, optional
        Rows of the random data; some batches by default.
    dtype, solver, activation, n_jobs : optional
        As of `NeuralNetwork`, float32, adam, relu and one thread by default. A network or an estimator has its own.
    seconds : float, default 2.0
        How long measuring takes, about; the first time, compiling comes on top. At least 0.05 s, and whole steps of
        everything that is tried.
    compare : bool, default False
        Whether the numpy reference, scikit-learn, torch and jax train the same, as far as they are installed.
    progress : callable, optional
        Called with a few words before every part.

    Returns
    -------
    Profile

    Raises
    ------
    ValueError, TypeError
        If an argument is out of its range or of the wrong type, or is given beside something that has its own.

    Notes
    -----
    GFLOP/s count two operations for every multiply-add of the three products of a layer (forward, delta, gradient; the first
    layer has no delta), and nothing else. `fastbp.profiling.phases` says what binds a phase.

    Examples
    --------
    >>> import fastbp
    >>> found = fastbp.profile([64, 100, 10], batch_size=200, seconds=0.5)
    >>> found.choice.kernel
    'narrow'
    >>> found.samples_per_second.median > 0
    True
    """
    began = time.perf_counter()
    seconds = max(LEAST_SECONDS, above("seconds", seconds))
    tell = progress or (lambda words: None)
    work = workload.of_anything(
        what, X, y, batch_size=batch_size, rows=rows, dtype=dtype, solver=solver, activation=activation, n_jobs=n_jobs
    )
    tell("compiling or loading kernels")
    base, tried = Trainer(work), trials_of(work)
    threads = base.run.work.plan.threads
    trainers = [base, *[trainer for _, _, trainer in tried]]
    tell("measuring what the machine can do")
    ceilings = machine.ceilings([work.dtype], sorted({1, threads, min(threads, usable_threads(-1))}))
    seconds = max(seconds / 2, seconds - ceilings.seconds)
    tell("training")
    rivals_seconds = seconds * RIVALS_PART * compare
    take_turns(trainers, [WEIGHT] + [1] * len(tried), (seconds - rivals_seconds) * TURNS_PART)
    rates = base.rates.copy()
    tell("counting phases")
    times, slowdown = phase_times(work, base, (seconds - rivals_seconds) * PHASES_PART)
    comparison = None
    if compare:
        tell("training with other libraries")
        comparison = compared(work, base, rivals_seconds)
    rate, peak = rate_of(rates), ceilings.best(work.dtype, threads)
    epochs, gflops = rate.median / work.rows, rate.median * work.flops_per_sample / 1e9
    return Profile(
        network=work.describe() | {"threads": threads},
        samples_per_second=rate,
        epochs_per_second=epochs,
        steps_per_second=epochs * work.steps,
        ns_per_sample=1e9 / rate.median,
        gflops=gflops,
        peak_gflops=peak,
        fraction_of_peak=gflops / peak,
        ceilings=ceilings,
        choice=choice_of(work, base.run),
        phases=phases_from(times, work, base.run, ceilings),
        slowdown=slowdown,
        trials=[trial_of(setting, value, trainer.rates, rates) for setting, value, trainer in tried],
        comparison=comparison,
        seconds=time.perf_counter() - began,
    )


# ---- kernels, other settings, other libraries ------------------------------------------------------------------------


def kernel_of(run: Run) -> jit.Kernel:
    """The kernel that a training has."""
    return kernels.TRAIN[run.work.plan.kernel]


def choice_of(work: Workload, run: Run) -> Choice:
    """The chosen kernel, the reason, and its start."""
    types = f"{work.dtype}-{work.X.indices.dtype.name}" if work.sparse else work.dtype
    kernel, width = kernel_of(run), run.work.plan.width
    _, reason = choice_for_training(run.layout, work.batch_size, work.sparse, work.rule.dropout > 0)
    load_seconds = None if jit.PLAIN_PYTHON else kernel.load_seconds(types, width)
    return Choice(kernel.module, reason, kernel.compile_seconds.get((types, width)), load_seconds)


def trials_of(work: Workload) -> list[tuple[str, Any, Trainer]]:
    """Other settings with a training of each: kernel, larger and smaller batches, the shorter float type, other threads."""
    batch, processors, run = work.batch_size, usable_threads(-1), work.start()
    settings: list[tuple[str, Any]] = []
    if not work.sparse:  # which only the wide kernel reads
        settings.append(("kernel", "narrow" if kernel_of(run).module == "wide" else "wide"))
    if work.rule.solver != "gradient_only":
        sizes = (batch // 2, 2 * batch, 4 * batch)
        settings += [("batch_size", size) for size in sizes if 1 <= size <= work.rows]
    if work.dtype == "float64":
        settings.append(("dtype", "float32"))
    if processors > 1:
        settings.append(("n_jobs", processors if usable_threads(work.n_jobs) == 1 else 1))
    tried = [(name, value, Trainer(work.changed(**{name: value}))) for name, value in settings]
    # a step that is too small for a second thread runs as it did
    return [one for one in tried if one[0] != "n_jobs" or one[2].run.work.plan.threads != run.work.plan.threads]


def trial_of(setting: str, value: Any, rates: list[float], others: list[float]) -> Trial:
    """What it gave, and whether that is more than chance."""
    rate, before = rate_of(rates), rate_of(others)
    gain = rate.median / before.median - 1
    always = all(one > other for one, other in zip(rates, others, strict=True))
    return Trial(setting, value, rate, gain, always and gain > max(MORE_THAN_NOISE, before.spread, rate.spread))


# ---- tables ----------------------------------------------------------------------------------------------------------


def between(rate: Rate) -> str:
    """A rate with its extremes."""
    return f"{figure(rate.median)} ({figure(rate.low)} to {figure(rate.high)})"


def summary_table(found: Profile) -> Table:
    """What was trained, how fast, by which kernel."""
    network, choice, threads = found.network, found.choice, found.network["threads"]
    kind = "random " if network["synthetic"] else ("sparse " if network["sparse"] else "")
    batches = f"batches of {network['batch_size']:,}"
    asked = "" if network["n_jobs"] in (None, threads) else f" (n_jobs={network['n_jobs']})"
    several = "s" * (threads > 1)
    rows = [
        ["network", found.title],
        ["data", f"{network['rows']:,} {kind}rows in {batches}, {threads} thread{several}{asked}"],
        ["speed", f"{between(found.samples_per_second)} samples/s, {found.samples_per_second.repeats} times"],
        ["", f"{figure(found.ns_per_sample)} ns per sample, {figure(found.steps_per_second)} steps/s, "
             f"{figure(found.epochs_per_second)} epochs/s"],
        ["arithmetic", f"{figure(found.gflops)} GFLOP/s, {found.fraction_of_peak:.0%} of the "
                       f"{figure(found.peak_gflops)} of {threads} core{several}"],
        ["kernel", f"{choice.kernel}, because {choice.reason}"],
    ]  # fmt: skip
    if choice.compile_seconds is not None:
        load = choice.load_seconds
        loaded = "not kept on disk" if load is None else f"loaded from disk in {load * 1e3:.0f} ms"
        rows.append(["", f"compiled once in {choice.compile_seconds:.1f} s, {loaded}"])
    if not found.advice:
        return Table([*rows, ["try", "nothing: no other setting was faster by more than the spread"]])
    best = found.advice[0]
    rows.append(["try", f"{best.setting}={best.value}: {best.gain:.0%} more samples/s, measured"])
    if best.setting == "batch_size":
        times = network["batch_size"] / best.value
        rows.append(["", f"which makes {times:.3g} times as many updates per epoch: it may learn less in each"])
    return Table(rows)


def phases_table(found: Profile) -> Table:
    """Where the time of a step goes."""
    steps = found.network["steps_per_epoch"]
    rows = [
        [one.label, figure(one.seconds / steps * 1e6), f"{one.share:.1%}", figure(one.gflops), figure(one.gbs),
         "" if one.reached is None else f"{one.reached:.0%}", BOUND_BY[one.bound]]
        for one in found.phases
    ]  # fmt: skip
    columns = ["phase[layer]", "us per step", "share", "GFLOP/s", "GB/s", "of ceiling", "bound by"]
    return Table(rows, columns, "Where a step goes", words=1)


def trials_table(found: Profile) -> Table:
    """What else was tried."""
    rows = []
    for trial in found.trials:
        verdict = "faster" if trial.advised else ("within the spread" if trial.gain > 0 else "not faster")
        rows.append([f"{trial.setting}={trial.value}", between(trial.samples_per_second), f"{trial.gain:+.0%}", verdict])
    return Table(rows, ["setting", "samples/s", "gain", "verdict"], "What else was tried", words=1)


def comparison_table(found: Profile) -> Table:
    """Other libraries beside fastbp."""
    rows, ours = [], 0.0
    for name, rate in (found.comparison or {}).items():
        if isinstance(rate, str):
            rows.append([name, "", "", "", "", rate])
            continue
        ours = ours or rate.median  # fastbp is the first
        lead = "" if name == "fastbp" else f"{ours / rate.median:.2f} times"
        rows.append([name, *map(figure, (rate.low, rate.median, rate.high)), lead, ""])
    return Table(rows, ["library", "lowest", "samples/s", "highest", "fastbp's lead", ""], "Side by side", words=1)


def machine_table(found: Profile) -> Table:
    """The ceilings."""
    dtype, reads = found.network["dtype"], found.ceilings.read_gbs
    columns = {f"GFLOP/s {dtype}": found.ceilings.peak_gflops[dtype], **{f"{level} GB/s": reads[level] for level in reads}}
    rows = [
        [str(cores), *[f"{figure(one[cores].best)} ({one[cores].spread:.0%})" for one in columns.values()]]
        for cores in found.ceilings.peak_gflops[dtype]
    ]
    title = "What this machine can do at best (in brackets: how far below it the median was)"
    return Table(rows, ["cores", *columns], title)


# ---- sweep -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sweep(Report):
    """Samples per second over batch sizes and widths of the hidden layers of a network."""

    units: tuple[int, ...]
    settings: dict[str, Any]  # that all have in common
    widths: list[int]
    batch_sizes: list[int]
    cells: list[dict[str, Any]]  # width by width, for each the batch sizes; with kernel, samples_per_second and gflops
    seconds: float  # that it took

    @property
    def name(self) -> str:
        """The network with a letter for the width."""
        return "-".join([str(self.units[0]), *["w"] * (len(self.units) - 2), str(self.units[-1])])

    def to_dict(self) -> dict[str, Any]:
        """All figures, for JSON."""
        return asdict(self)

    def tables(self) -> list[Table]:
        """Samples per second, a row for each width; GFLOP/s likewise."""
        what = ", ".join(str(value) for value in self.settings.values() if value is not None)
        heads = ["width", *[f"batch {size:,}" for size in self.batch_sizes]]
        rates = [figure(cell["samples_per_second"].median) for cell in self.cells]
        gflops = [figure(cell["gflops"]) for cell in self.cells]
        places = [(width, row * len(self.batch_sizes)) for row, width in enumerate(self.widths)]
        return [
            Table([[str(width), *cells[at : at + len(self.batch_sizes)]] for width, at in places], heads, title)
            for title, cells in ((f"samples/s of {self.name}, {what}", rates), ("GFLOP/s", gflops))
        ]

    plot = pictures.save_sweep


def sweep(
    units: Sequence[int],
    batch_sizes: Sequence[int],
    widths: Sequence[int],
    *,
    seconds: float = SWEEP_SECONDS,
    progress: Callable[[str], Any] | None = None,
    **settings: Any,
) -> Sweep:
    """Measure samples per second over batch sizes and widths of the hidden layers; `SETTINGS` as of `profile`."""
    began, units = time.perf_counter(), workload.checked_units(units)
    seconds, tell = above("seconds", seconds), progress or (lambda words: None)
    if len(units) < 3:
        raise ValueError(f"units must have a hidden layer whose width can change, got {list(units)}")
    for name, values in (("batch_sizes", batch_sizes), ("widths", widths)):
        if not len(values):
            raise ValueError(f"{name} must not be empty, got {values!r}")
    settings, widths, batch_sizes = workload.DEFAULTS | settings, [*dict.fromkeys(widths)], [*dict.fromkeys(batch_sizes)]
    cells, each = [], seconds / len(batch_sizes) / len(widths)
    for width, size in itertools.product(widths, batch_sizes):
        tell(f"width {width}, batch size {size}")
        work = workload.of_units((units[0], *[width] * (len(units) - 2), units[-1]), batch_size=size, **settings)
        trainer = Trainer(work)
        take_turns([trainer], [1], each, SWEEP_TURNS)
        rate, kernel = rate_of(trainer.rates), kernel_of(trainer.run).module
        cell = {"width": width, "batch_size": size, "kernel": kernel, "samples_per_second": rate}
        cells.append(cell | {"gflops": rate.median * work.flops_per_sample / 1e9})
    return Sweep(units, settings, widths, batch_sizes, cells, time.perf_counter() - began)
