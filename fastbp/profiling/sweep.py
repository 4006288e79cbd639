"""Samples per second over batch sizes and widths."""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from fastbp.checks import above
from fastbp.profiling.clock import Rate, Trainer, rate_of, take_turns
from fastbp.profiling.pictures import save_sweep
from fastbp.profiling.report import kernel_name
from fastbp.profiling.tables import figure
from fastbp.profiling.workload import checked_units, of_units
from fastbp.tables import Table

TURNS = 5
SECONDS = 5.0


@dataclass(frozen=True)
class Cell:
    """One network with one batch size.

    Parameters
    ----------
    width, batch_size : int
    kernel : {"narrow", "wide", "online"}
    samples_per_second : Rate
    gflops : float
    """

    width: int
    batch_size: int
    kernel: str
    samples_per_second: Rate
    gflops: float


@dataclass(frozen=True)
class Sweep:
    """Samples per second over batch sizes and widths.

    Parameters
    ----------
    units : tuple of int
        The network, whose hidden layers had the widths in turn.
    settings : dict
        What all have in common.
    cells : list of Cell
        Width by width, for each the batch sizes.
    seconds : float
        How long it took.
    """

    units: tuple[int, ...]
    settings: dict[str, Any]
    cells: list[Cell]
    seconds: float

    @property
    def widths(self) -> list[int]:
        """Rows of the table."""
        return list(dict.fromkeys(cell.width for cell in self.cells))

    @property
    def batch_sizes(self) -> list[int]:
        """Columns of the table."""
        return list(dict.fromkeys(cell.batch_size for cell in self.cells))

    @property
    def name(self) -> str:
        """The network with a letter for the width."""
        return "-".join([str(self.units[0]), *["w"] * (len(self.units) - 2), str(self.units[-1])])

    def to_dict(self) -> dict[str, Any]:
        """All figures, for JSON."""
        return {
            "units": list(self.units),
            "settings": self.settings,
            "widths": self.widths,
            "batch_sizes": self.batch_sizes,
            "cells": [asdict(cell) for cell in self.cells],
            "seconds": self.seconds,
        }

    def tables(self) -> list[Table]:
        """Samples per second, a row for each width; GFLOP/s likewise."""
        heads = ["width", *[f"batch {size:,}" for size in self.batch_sizes]]
        of = {(cell.width, cell.batch_size): cell for cell in self.cells}
        rates = [
            [str(width), *[figure(of[width, size].samples_per_second.median) for size in self.batch_sizes]]
            for width in self.widths
        ]
        gflops = [[str(width), *[figure(of[width, size].gflops) for size in self.batch_sizes]] for width in self.widths]
        what = ", ".join(str(value) for value in self.settings.values() if value is not None)
        return [
            Table(rates, heads, f"samples/s of {self.name}, {what}"),
            Table(gflops, heads, "GFLOP/s"),
        ]

    def table(self) -> str:
        """All tables as text."""
        return "\n".join(table.text() for table in self.tables()).lstrip("\n")

    __str__ = table

    def plot(self, path: Any) -> None:
        """Draw a heat map.

        Parameters
        ----------
        path : str or Path
        """
        save_sweep(self, path)


def sweep(
    units: Sequence[int],
    batch_sizes: Sequence[int],
    widths: Sequence[int],
    *,
    dtype: Any = "float32",
    solver: str = "adam",
    activation: Any = "relu",
    n_jobs: int | None = None,
    seconds: float = SECONDS,
    progress: Callable[[str], Any] | None = None,
) -> Sweep:
    """Measure samples per second over batch sizes and widths.

    Parameters
    ----------
    units : sequence of int
        Layer sizes, both ends included, of which the hidden layers get the widths in turn; there must be one at least.
    batch_sizes, widths : sequence of int
    dtype, solver, activation, n_jobs
        As of `fastbp.profile`.
    seconds : float, default 5.0
        How long measuring takes, about; whole steps of every network at least.
    progress : callable, optional
        Called with a few words before every part.

    Returns
    -------
    Sweep

    Raises
    ------
    ValueError, TypeError
        If an argument is out of its range or of the wrong type.

    Examples
    --------
    >>> from fastbp.profiling.sweep import sweep
    >>> found = sweep([8, 16, 2], [20, 40], [4, 16], seconds=0.1)
    >>> found.widths, found.batch_sizes
    ([4, 16], [20, 40])
    """
    began, units = time.perf_counter(), checked_units(units)
    seconds, tell = above("seconds", seconds), progress or (lambda words: None)
    if len(units) < 3:
        raise ValueError(f"units must have a hidden layer whose width can change, got {list(units)}")
    for name, values in (("batch_sizes", batch_sizes), ("widths", widths)):
        if not len(values):
            raise ValueError(f"{name} must not be empty, got {values!r}")
    settings = {"solver": solver, "activation": activation, "dtype": dtype, "n_jobs": n_jobs}
    cells, each = [], seconds / len(batch_sizes) / len(widths)
    for width in widths:
        for size in batch_sizes:
            tell(f"width {width}, batch size {size}")
            workload = of_units(
                (units[0], *[width] * (len(units) - 2), units[-1]), batch_size=size, dtype=dtype, solver=solver,
                activation=activation, n_jobs=n_jobs,
            )  # fmt: skip
            trainer = Trainer(workload)
            take_turns([trainer], [1], each, TURNS)
            rate = rate_of(trainer.rates)
            gflops = rate.median * workload.flops_per_sample / 1e9
            cells.append(Cell(width, size, kernel_name(trainer.run), rate, gflops))
    return Sweep(units, settings, cells, time.perf_counter() - began)
