"""How fast a network trains on this machine, where the time goes, and what would make it faster."""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from fastbp import kernels
from fastbp.checks import above
from fastbp.choice import choice_for_training
from fastbp.kernels import jit
from fastbp.layout import KERNEL, WIDTH
from fastbp.profiling.clock import Rate, Trainer, rate_of, take_turns
from fastbp.profiling.machine import Ceilings, ceilings, facts, load_kernels
from fastbp.profiling.phases import phase_times
from fastbp.profiling.pictures import save_profile, save_trace
from fastbp.profiling.rivals import rivals
from fastbp.profiling.roofline import Phase, phases_from
from fastbp.profiling.tables import tables
from fastbp.profiling.workload import Workload, of_anything
from fastbp.tables import Table
from fastbp.training import Run, usable_threads
from fastbp.workspace import NarrowWorkspace, WideWorkspace

SECONDS = 2.0
LEAST_SECONDS = 0.05
# Turns of the training itself for one of anything that it is compared with.
WEIGHT = 3
# Parts of the time for what is compared, for the phases, and for rivals where they are asked for.
TURNS_PART, PHASES_PART, RIVALS_PART = 0.6, 0.2, 0.4
MORE_THAN_NOISE = 0.03  # nothing less is advised, however still the machine


@dataclass(frozen=True)
class Trial:
    """What another setting gave.

    Parameters
    ----------
    setting : str
        Its name: "batch_size", "dtype" or "n_jobs".
    value : int or str
    samples_per_second : Rate
    gain : float
        By which part its median is above that of the training itself, in turns that were taken one after the other.
    advised : bool
        Whether it was faster in every turn, and the gain is larger than the spread of the two.
    """

    setting: str
    value: int | str
    samples_per_second: Rate
    gain: float
    advised: bool


@dataclass(frozen=True)
class Choice:
    """Which kernel trains, and what the other one would do.

    Parameters
    ----------
    kernel : {"narrow", "wide", "online"}
    reason : str
    other : str or None
        None where no other can train this.
    other_samples_per_second : Rate or None
    speedup : float or None
        How many times faster the chosen one is.
    compile_seconds : float or None
        What compiling it takes, once; None where kernels run as plain Python.
    load_seconds : float or None
        What loading its machine code from disk takes, once per process; None where there is none.
    """

    kernel: str
    reason: str
    other: str | None
    other_samples_per_second: Rate | None
    speedup: float | None
    compile_seconds: float | None
    load_seconds: float | None


@dataclass(frozen=True)
class Profile:
    """What `fastbp.profile` found out.

    Parameters
    ----------
    network : dict
        What was trained, see `Workload.describe`; with `threads`, the number that one step is worth.
    samples_per_second : Rate
    ceilings : fastbp.profiling.machine.Ceilings
    choice : Choice
    phases : list of fastbp.profiling.roofline.Phase
        Where the time goes; empty where kernels run as plain Python.
    threads : list of list
        Of each thread, seconds per step of each phase in the order of a step.
    slowdown : float or None
        By which part training is slower while phases are counted.
    trials : list of Trial
    comparison : dict or None
        By name, Rate of samples per second, or why there is none; None if it was not asked for.
    seconds : float
        How long all of it took, compiling included.
    """

    network: dict[str, Any]
    samples_per_second: Rate
    ceilings: Ceilings
    choice: Choice
    phases: list[Phase]
    threads: list[list[tuple[str, float]]]
    slowdown: float | None
    trials: list[Trial]
    comparison: dict[str, Rate | str] | None
    seconds: float

    @property
    def epochs_per_second(self) -> Rate:
        """Passes over all rows per second."""
        return self.samples_per_second.scaled(1 / self.network["rows"])

    @property
    def steps_per_second(self) -> Rate:
        """Updates per second."""
        return self.epochs_per_second.scaled(self.network["steps_per_epoch"])

    @property
    def ns_per_sample(self) -> float:
        """Nanoseconds per row."""
        return 1e9 / self.samples_per_second.median

    @property
    def gflops(self) -> Rate:
        """Billions of operations per second, as `Workload.flops_per_sample` counts them."""
        return self.samples_per_second.scaled(self.network["flops_per_sample"] / 1e9)

    @property
    def peak_gflops(self) -> float:
        """What the cores of its threads manage in its float type."""
        return self.ceilings.peak(self.network["dtype"], self.network["threads"])

    @property
    def fraction_of_peak(self) -> float:
        """The part of it that is reached."""
        return self.gflops.median / self.peak_gflops

    @property
    def advice(self) -> list[Trial]:
        """What would be faster by more than the spread, the best first."""
        return sorted((trial for trial in self.trials if trial.advised), key=lambda trial: -trial.gain)

    def to_dict(self) -> dict[str, Any]:
        """All figures, for JSON.

        Returns
        -------
        dict
        """
        choice = asdict(self.choice)
        return {
            "network": self.network,
            "samples_per_second": asdict(self.samples_per_second),
            "spread": self.samples_per_second.spread,
            "epochs_per_second": self.epochs_per_second.median,
            "steps_per_second": self.steps_per_second.median,
            "ns_per_sample": self.ns_per_sample,
            "gflops": self.gflops.median,
            "peak_gflops": self.peak_gflops,
            "fraction_of_peak": self.fraction_of_peak,
            "kernel": choice,
            "phases": [phase.to_dict() for phase in self.phases],
            "slowdown_by_counting": self.slowdown,
            "trials": [asdict(trial) for trial in self.trials],
            "comparison": self.comparison
            and {name: one if isinstance(one, str) else asdict(one) for name, one in self.comparison.items()},
            "ceilings": self.ceilings.to_dict(),
            "machine": facts(),
            "seconds": self.seconds,
        }

    def tables(self) -> list[Table]:
        """What is shown: figures, phases, trials, rivals and ceilings."""
        return tables(self)

    def table(self) -> str:
        """All tables as text."""
        return "\n".join(table.text() for table in self.tables()).lstrip("\n")

    __str__ = table

    def plot(self, path: Any) -> None:
        """Draw the roofline with every phase on it, and how long the phases take.

        Parameters
        ----------
        path : str or Path
            A .png, .pdf or .svg file, or .html for one page with the picture and the tables in it.

        Raises
        ------
        ValueError
            If the file ends otherwise.
        OSError
            If it cannot be written.
        """
        save_profile(self, path)

    def trace(self, path: Any) -> None:
        """Write an average step as Chrome trace events, which Perfetto and chrome://tracing show.

        Parameters
        ----------
        path : str or Path

        Raises
        ------
        OSError
            If it cannot be written.
        """
        save_trace(self, path)


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
    layer has no delta), and nothing else. `fastbp.profiling.roofline` says how a phase gets its name.

    References
    ----------
    Williams, Waterman and Patterson, "Roofline: an insightful visual performance model for multicore architectures",
    Communications of the ACM 52, 2009.

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
    workload = of_anything(
        what, X, y, batch_size=batch_size, rows=rows, dtype=dtype, solver=solver, activation=activation, n_jobs=n_jobs
    )
    tell("compiling or loading kernels")
    base, other, tried = Trainer(workload), other_kernel(workload), trials_of(workload)
    trainers = [base, *([] if other is None else [other]), *[trainer for _, _, trainer in tried]]
    load_kernels((workload.dtype,))
    tell("measuring what the machine can do")
    start = time.perf_counter()
    measured = ceilings(
        (workload.dtype,), sorted({1, base.run.work.threads, min(base.run.work.threads, usable_threads(-1))})
    )
    seconds = max(seconds / 2, seconds - (time.perf_counter() - start))
    tell("training")
    rivals_seconds = seconds * RIVALS_PART * compare
    take_turns(trainers, [WEIGHT] + [1] * (len(trainers) - 1), (seconds - rivals_seconds) * TURNS_PART)
    tell("counting phases")
    times, threads, slowdown = phase_times(workload, base.anew(), (seconds - rivals_seconds) * PHASES_PART)
    comparison = None
    if compare:
        tell("training with other libraries")
        comparison = compared(workload, base, rivals_seconds)
    return Profile(
        network=workload.describe() | {"threads": base.run.work.threads},
        samples_per_second=rate_of(base.rates),
        ceilings=measured,
        choice=choice_of(workload, base, other),
        phases=phases_from(times, workload, base.run, measured),
        threads=threads,
        slowdown=slowdown,
        trials=[trial_of(setting, value, trainer, base) for setting, value, trainer in tried],
        comparison=comparison,
        seconds=time.perf_counter() - began,
    )


# ---- kernels ---------------------------------------------------------------------------------------------------------


def kernel_name(run: Run) -> str:
    """Which kernel a training has."""
    return kernels.TRAIN[run.work.arrays[1][KERNEL]].module


def other_kernel(workload: Workload) -> Trainer | None:
    """The same training with the kernel that was not chosen; None where no other can do it."""
    if workload.sparse:
        return None
    chosen = type(workload.start().work)
    return Trainer(workload, NarrowWorkspace if chosen is WideWorkspace else WideWorkspace)


def choice_of(workload: Workload, base: Trainer, other: Trainer | None) -> Choice:
    """The chosen kernel, the reason, and its start."""
    plan, X = base.run.work.arrays[1], workload.X
    types = f"{workload.dtype}-{X.indices.dtype.name}" if workload.sparse else workload.dtype
    kernel, width = kernels.TRAIN[plan[KERNEL]], int(plan[WIDTH])
    _, reason = choice_for_training(base.run.layout, workload.batch_size, workload.sparse, workload.rule.dropout > 0)
    return Choice(
        kernel_name(base.run),
        reason,
        None if other is None else kernel_name(other.run),
        None if other is None else rate_of(other.rates),
        None if other is None else rate_of(base.rates).median / rate_of(other.rates).median,
        kernel.compile_seconds.get((types, width)),
        None if jit.PLAIN_PYTHON else kernel.load_seconds(types, width),
    )


# ---- what else could be set ------------------------------------------------------------------------------------------


def trials_of(workload: Workload) -> list[tuple[str, Any, Trainer]]:
    """Other settings with a training of each: larger and smaller batches, the shorter float type, more or fewer threads."""
    batch, rows = workload.batch_size, workload.rows
    batches = (
        []
        if workload.rule.solver == "gradient_only"
        else [size for size in (batch // 2, 2 * batch, 4 * batch) if 1 <= size <= rows]
    )
    settings: list[tuple[str, Any]] = [("batch_size", size) for size in batches]
    if workload.dtype == "float64":
        settings.append(("dtype", "float32"))
    processors = usable_threads(-1)
    if processors > 1:
        settings.append(("n_jobs", processors if usable_threads(workload.n_jobs) == 1 else 1))
    tried = [(name, value, Trainer(workload.changed(**{name: value}))) for name, value in settings]
    threads = workload.start().work.threads
    # a step that is too small for a second thread runs as it did
    return [one for one in tried if one[0] != "n_jobs" or one[2].run.work.threads != threads]


def trial_of(setting: str, value: Any, trainer: Trainer, base: Trainer) -> Trial:
    """What it gave, and whether that is more than chance."""
    rate, gain = rate_of(trainer.rates), rate_of(trainer.rates).median / rate_of(base.rates).median - 1
    always = all(ours > before for ours, before in zip(trainer.rates, base.rates, strict=True))
    advised = always and gain > max(MORE_THAN_NOISE, rate_of(base.rates).spread, rate.spread)
    return Trial(setting, value, rate, gain, advised)


def compared(workload: Workload, base: Trainer, seconds: float) -> dict[str, Rate | str]:
    """The rivals' rates, beside a rate of fastbp's that was measured in the same turns."""
    from threadpoolctl import threadpool_limits

    threads, base = base.run.work.threads, base.anew()
    with threadpool_limits(threads):
        ready = dict(rivals(workload, threads))
        racing = {name: rival for name, rival in ready.items() if not isinstance(rival, str)}
        take_turns([base, *racing.values()], [1] * (1 + len(racing)), seconds)
    rates = {name: rival if isinstance(rival, str) else rate_of(rival.rates) for name, rival in ready.items()}
    return {"fastbp": rate_of(base.rates), **rates}
