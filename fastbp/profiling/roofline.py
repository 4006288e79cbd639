"""How much work the phases of a training are, and what keeps each of them from being faster.

What a phase has to do at least, per epoch of n rows with B rows per step, for a layer with W = n_in * n_out weights, in a
float type of s bytes:

    phase       operations   bytes that have to be loaded and stored                     functions of single elements
    gather                   2s n (n_in + n_out) for a panel, 2s n n_out without one
    forward     2 n W        s (n n_in + n n_out) + s W per block of rows                activation of n n_out
    loss                     3s n n_out                                                  activation of the output of n n_out
    delta       2 n W        s (2 n n_in + n n_out) + s W per block of rows              derivative of n n_in
    gradient    2 n W        s (n n_in + n n_out) + s W (2 + 2 moments) per step
    update                   s W (3 + 2 moments) per step
    transpose                2s W per block of rows
    wait, overhead, outside

The rule by which a phase is named: divided by the fma peak, the bandwidth and the speed of pointwise functions that were
measured on this machine, its work takes a time at best, for the arithmetic and for the bytes. Where neither is a quarter of
the time it took, it is *latency-bound*: too short, or too dependent on itself, to keep the machine busy. Otherwise it is
*compute-* or *memory-bound*, whichever of the two takes longer. What is no work at all is *overhead-bound*.
The bandwidth is that of the smallest of L2, L3 and memory that holds everything a step uses, its rows apart.
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from fastbp.layout import N_IN, N_OUT, RESIDENT
from fastbp.profiling.machine import Ceilings, cache_bytes
from fastbp.profiling.workload import Workload
from fastbp.training import Run
from fastbp.workspace import NarrowWorkspace, OnlineWorkspace

BUSY = 0.25  # the share of a ceiling from which on a phase is bound by it
OUTPUT_FUNCTIONS = {"softmax": "exp"}


@dataclass(frozen=True)
class Work:
    """What a phase has to do at least, per epoch.

    Parameters
    ----------
    flops, bytes : float
    functions : float
        Nanoseconds that its functions of single elements take one core.
    """

    flops: float = 0.0
    bytes: float = 0.0
    functions: float = 0.0


@dataclass(frozen=True)
class Phase:
    """Time and speed of a part of training.

    Parameters
    ----------
    name : str
    layer : int or None
        Its number from 0, or None for what belongs to no layer.
    seconds : float
        Per epoch, averaged over the threads.
    share : float
        Of the time of all phases.
    visits : float
        How often a thread comes by in an epoch.
    gflops, gbs : float or None
        Billions of operations and of bytes per second; None where it has none, or took no time that marks can tell.
    intensity : float or None
        Operations per byte.
    reached : float or None
        The time that its work takes at the ceiling, as a share of the time it took.
    bound : {"compute", "memory", "latency", "overhead"}
    """

    name: str
    layer: int | None
    seconds: float
    share: float
    visits: float
    gflops: float | None
    gbs: float | None
    intensity: float | None
    reached: float | None
    bound: str

    @property
    def label(self) -> str:
        """Its name with the layer's number."""
        return label_of(self.name, self.layer)

    def to_dict(self) -> dict[str, Any]:
        """All figures, for JSON."""
        return asdict(self) | {"label": self.label}


def label_of(name: str, layer: int | None) -> str:
    """A phase's name with the layer's number."""
    return name if layer is None else f"{name}[{layer}]"


def level_of(run: Run) -> str:
    """The smallest level of memory that holds what a step uses, its rows apart."""
    work = run.work
    used = work.arrays[0].nbytes + work.params.nbytes + work.state.nbytes
    if used <= cache_bytes(2) * work.threads:
        return "L2"
    return "L3" if used <= cache_bytes(3) else "memory"


def work_of(workload: Workload, run: Run, name: str, layer: int | None, functions: dict[str, float]) -> Work:
    """What a phase has to do at least per epoch; see the top of this file.

    Parameters
    ----------
    workload : Workload
    run : fastbp.training.Run
        Of the workload.
    name : str
    layer : int or None
    functions : dict
        Nanoseconds per element of each pointwise function.
    """
    n, steps, blocks = workload.rows, workload.steps, run.work.blocks_per_epoch
    size, moments = np.dtype(workload.dtype).itemsize, workload.rule.moments
    rows = run.layout.rows
    everything = sum(row[N_IN] * row[N_OUT] for row in rows)
    if name == "gather":
        return Work(bytes=2 * size * n * gathered(workload, run))
    if name == "loss":
        word = workload.rule.out_activation
        outputs = n * workload.units[-1]
        return Work(bytes=3 * size * outputs, functions=outputs * functions[OUTPUT_FUNCTIONS.get(word, word)])
    if name == "update":
        return Work(bytes=size * everything * (3 + 2 * moments) * steps)
    if layer is None or name not in ("forward", "delta", "gradient", "transpose"):
        return Work()
    n_out, weights = rows[layer][N_OUT], rows[layer][N_IN] * rows[layer][N_OUT]
    n_in = workload.values_per_row if layer == 0 else rows[layer][N_IN]
    if name == "transpose":
        return Work(bytes=2 * size * weights * blocks)
    flops = 2 * n * workload.products[layer]
    if name == "gradient":
        if isinstance(run.work, OnlineWorkspace) and layer > 0:
            flops += 2 * n * weights  # of the delta, which is the same pass over the weights
        return Work(flops, size * (n * (n_in + n_out) + weights * (2 + 2 * moments) * steps))
    if name == "forward":
        last = layer == len(rows) - 1
        elements = 0 if last else n * n_out * functions[workload.activations[layer]]
        return Work(flops, size * (n * (n_in + n_out) + weights * blocks), elements)
    derivative = functions[f"{workload.activations[layer - 1]}_derivative"]
    return Work(flops, size * (n * (2 * n_in + n_out) + weights * blocks), n * n_in * derivative)


def gathered(workload: Workload, run: Run) -> float:
    """Elements of a row that are copied in each epoch."""
    if not isinstance(run.work, NarrowWorkspace):
        return workload.units[-1]
    resident = run.work.arrays[1][RESIDENT]
    return 0 if resident else workload.units[0] + workload.units[-1]


def phases_from(
    times: list[tuple[str, int | None, float, float]], workload: Workload, run: Run, ceilings: Ceilings
) -> list[Phase]:
    """Speed and bound of every phase.

    Parameters
    ----------
    times : list of (name, layer or None, seconds per epoch averaged over the threads, visits per epoch and thread)
    workload : Workload
    run : fastbp.training.Run
        Of the workload.
    ceilings : fastbp.profiling.machine.Ceilings

    Returns
    -------
    list of Phase
    """
    threads, dtype = run.work.threads, workload.dtype
    functions = {name: ceiling.best for name, ceiling in ceilings.pointwise_ns[dtype].items()}
    peak, bandwidth = ceilings.peak(dtype, threads) * 1e9, ceilings.bandwidth(level_of(run), threads) * 1e9
    total = sum(seconds for _, _, seconds, _ in times) or 1.0
    result = []
    for name, layer, seconds, visits in times:
        work = work_of(workload, run, name, layer, functions)
        reached, bound = None, "overhead"
        if work != Work() and seconds > 0:
            arithmetic = (work.flops / peak + work.functions * 1e-9 / threads) / seconds
            loads = work.bytes / bandwidth / seconds
            reached = max(arithmetic, loads)
            bound = "latency" if reached < BUSY else ("compute" if arithmetic >= loads else "memory")
        result.append(
            Phase(
                name, layer, seconds, seconds / total, visits,
                work.flops / seconds / 1e9 if work.flops and seconds else None,
                work.bytes / seconds / 1e9 if work.bytes and seconds else None,
                work.flops / work.bytes if work.flops else None,
                reached, bound,
            )
        )  # fmt: skip
    return result
