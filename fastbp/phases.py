"""Where a training's time goes: by phase, layer and thread, counted inside the compiled loop."""

import contextlib
import platform
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from fastbp.kernels import count_marks
from fastbp.kernels.jit import PLAIN_PYTHON, x86
from fastbp.layout import COUNTER_GROUP, COUNTERS, OF_LAYERS, OVERHEAD, PHASES, aligned_zeros, counters_size
from fastbp.training import Run
from fastbp.workspace import Arrays

# A mark's own time is that of the fastest of some loops of marks: others were interrupted.
LOOPS, MARKS = 30, 1000
# The clock's rate is that over the run, or over so many seconds, of which reading both clocks is a small part.
LEAST_SECONDS = 0.01
# Before LLVM 22, what reads a cycle counter on ARM is an instruction that most systems forbid.
LLVM_FOR_ARM = 22


class Phase(NamedTuple):
    """What one thread has spent on one phase of one layer.

    Parameters
    ----------
    thread : int
    name : str
        See `fastbp.layout.PHASES`.
    layer : int or None
        From 0, the layer above the inputs; the delta of layer l is computed from it for layer l - 1. None where a phase
        belongs to no layer.
    ticks : int
        Of the processor's clock, with what the marks themselves took.
    marks : int
        How often the phase came to an end.
    seconds : float
        Without what the marks took.
    """

    thread: int
    name: str
    layer: int | None
    ticks: int
    marks: int
    seconds: float


@dataclass(frozen=True)
class PhaseTimes:
    """Where the time of a training went.

    Parameters
    ----------
    phases : list of Phase
        Those that occurred, by thread, layer and the order of `fastbp.layout.PHASES`.
    seconds : float
        From the start of the training to its end, measured from outside.
    epochs : int
    ticks_per_second : float
        Rate of the processor's clock, which is not that of its cores.
    mark_seconds : float
        What one mark takes.
    """

    phases: list[Phase]
    seconds: float
    epochs: int
    ticks_per_second: float
    mark_seconds: float

    def inside(self, thread: int = 0) -> float:
        """Seconds that a thread spent in the compiled loop, with all marks."""
        return sum(phase.ticks for phase in self.phases if phase.thread == thread) / self.ticks_per_second

    def in_marks(self, thread: int = 0) -> float:
        """Seconds of these that the marks took: what the phases do not account for."""
        return self.inside(thread) - sum(phase.seconds for phase in self.phases if phase.thread == thread)

    @property
    def outside(self) -> float:
        """Seconds outside of the compiled loop: row orders, calls, starting threads."""
        return self.seconds - self.inside()


class Counters:
    """The counters of a run, while `counting` lasts; times are those since it began, or since `restart`."""

    def __init__(self, run: Run):
        self.run, self.threads, self.n_layers = run, run.work.threads, len(run.layout.rows)
        self.memory = aligned_zeros(counters_size(self.threads, self.n_layers), np.int64)
        self.mark_ticks = _ticks_of_a_mark()
        self.start, self.began = 0, 0.0

    def restart(self) -> None:
        """Count from zero."""
        self.memory[COUNTERS:] = 0
        self.start, self.began = _read_clocks()

    def read(self) -> PhaseTimes:
        """What has been counted so far, in completed calls."""
        seconds = time.perf_counter() - self.began
        rate = self._ticks_per_second()
        groups = self.memory[COUNTERS:].reshape(self.threads, 1 + self.n_layers, COUNTER_GROUP)
        phases = []
        for thread, layer, phase in np.ndindex(self.threads, self.n_layers, len(PHASES)):
            ticks, marks = groups[thread, 1 + layer, 2 * phase : 2 * phase + 2].tolist()
            if marks:
                net = max(0.0, ticks - marks * self.mark_ticks) / rate
                of_layer = layer if phase in OF_LAYERS else None
                phases.append(Phase(thread, tuple(PHASES)[phase], of_layer, ticks, marks, net))
        return PhaseTimes(phases, seconds, self.run.epochs_done, rate, self.mark_ticks / rate)

    def _ticks_per_second(self) -> float:
        time.sleep(max(0.0, self.began + LEAST_SECONDS - time.perf_counter()))
        ticks, now = _read_clocks()
        return (ticks - self.start) / (now - self.began)


@contextlib.contextmanager
def counting(run: Run) -> Iterator[Counters]:
    """Let a run count the time of its phases; what it computes stays the same to the last bit.

    Parameters
    ----------
    run : Run

    Yields
    ------
    Counters
        Which may be read after every call of the run.

    Raises
    ------
    RuntimeError
        If the processor has no clock that a program may read.
    """
    _check_clock()
    counters, plain = Counters(run), run.work.arrays
    run.work.arrays, run.marked = Arrays((*plain[:-1], counters.memory)), True
    try:
        run.advance(0)  # compiles or loads the kernel
        counters.restart()
        yield counters
    finally:
        run.work.arrays, run.marked = plain, False


def phases_of(run: Run, epochs: int) -> PhaseTimes:
    """Train for some epochs, and count where the time goes.

    Parameters
    ----------
    run : Run
        It is trained as if nothing were counted; its lists of parameters are left for `Run.scatter` to replace.
    epochs : int

    Returns
    -------
    PhaseTimes

    Raises
    ------
    RuntimeError
        If the processor has no clock that a program may read.
    """
    with counting(run) as counters:
        for _ in run.calls(epochs):
            pass
        return counters.read()


def _marks(number: int) -> np.ndarray:
    """Set so many marks in which nothing is done; the counters, of which the first is the clock after the last mark."""
    memory = aligned_zeros(counters_size(1, 1), np.int64)
    count_marks(memory, COUNTERS, number)
    return memory[COUNTERS:]


def _ticks_of_a_mark() -> float:
    return min(int(_marks(MARKS)[COUNTER_GROUP + 2 * OVERHEAD]) for _ in range(LOOPS)) / MARKS


def _read_clocks() -> tuple[int, float]:
    """The processor's clock, and `time.perf_counter` at the same time."""
    before = time.perf_counter()
    ticks = int(_marks(0)[0])
    return ticks, (before + time.perf_counter()) / 2


def _check_clock() -> None:
    if not PLAIN_PYTHON and not x86():
        import llvmlite.binding as llvm

        if platform.machine().lower() not in ("arm64", "aarch64") or llvm.llvm_version_info[0] < LLVM_FOR_ARM:
            raise RuntimeError(f"phases cannot be timed: no clock is known that may be read on {platform.machine()}")
    first, _ = _read_clocks()
    time.sleep(0.001)
    if _read_clocks()[0] <= first:
        raise RuntimeError("phases cannot be timed: the processor's clock stands still")
