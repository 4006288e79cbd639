"""How fast training runs."""

import time
from dataclasses import dataclass

import numpy as np

from fastbp import reference
from fastbp.layout import RECORD_SIZE
from fastbp.training import Run, watch

# Long enough for a steady figure, short enough not to keep anybody waiting; each side takes this long.
COMPARISON_SECONDS = 0.25


@dataclass(frozen=True)
class Throughput:
    """Speed of training, and of the numpy reference on a slice of the same run.

    Parameters
    ----------
    epochs_per_second, samples_per_second : float
    reference_epochs : int
        Length of the slice.
    reference_epochs_per_second : float
    """

    epochs_per_second: float
    samples_per_second: float
    reference_epochs: int
    reference_epochs_per_second: float

    @property
    def speedup(self) -> float:
        """How many times faster than the numpy reference the kernels are."""
        return self.epochs_per_second / self.reference_epochs_per_second


def throughput(net, X, y, epochs, learning_rate, *, batch_size=None, reduction="sum", shuffle=False) -> Throughput:
    """Time a training run, and the numpy reference on its first epochs.

    Parameters
    ----------
    net : NeuralNetwork
        Where the run starts; it is not changed.
    X : ndarray of shape (n, input_size)
    y : ndarray of shape (n, output_size)
        Both finite and of the network's dtype.
    epochs : int
        Length of the whole run, > 0. The reference stops after about `COMPARISON_SECONDS`.
    learning_rate, batch_size, reduction, shuffle
        As for `NeuralNetwork.train`.

    Returns
    -------
    Throughput

    Examples
    --------
    >>> import numpy as np
    >>> from fastbp import NeuralNetwork
    >>> X, y = np.eye(8), np.eye(8)
    >>> throughput(NeuralNetwork(8, 3, 8, random_state=0), X, y, 1000, 0.1).speedup > 1
    True
    """

    def start() -> Run:
        rng = np.random.default_rng(0)
        return Run(
            list(net.weights),
            list(net.biases),
            np.ascontiguousarray(X),
            np.ascontiguousarray(y),
            rule=net._rule(learning_rate, reduction),
            activations=net._activation_codes(),
            batch_size=len(X) if batch_size is None else batch_size,
            n_jobs=net.n_jobs,
            draw=(lambda: rng.permutation(len(X))) if shuffle else None,
        )

    reference_epochs, reference_seconds = _time_reference(start(), epochs)
    watch(start(), 1)  # compiles or loads the kernels
    length, done, seconds = reference_epochs, 0, 0.0
    while seconds < COMPARISON_SECONDS:
        run = start()
        began = time.perf_counter()
        watch(run, length)
        seconds += time.perf_counter() - began
        done += length
        # up to the whole run where that is short, so that what one call costs weighs no more than it does there
        length = min(4 * length, epochs)
    rate = done / seconds
    return Throughput(rate, rate * len(X), reference_epochs, reference_epochs / reference_seconds)


def _time_reference(run: Run, epochs: int) -> tuple[int, float]:
    """Run the numpy reference for about `COMPARISON_SECONDS`; return the epochs it completed and the seconds."""
    batches = -(-len(run.X) // run.batch_size)
    layers = run.layout.layers.tolist()  # slicing with numpy's integers would take half of the time
    record = np.zeros((epochs, RECORD_SIZE))
    done, seconds = 0, 0.0
    with np.errstate(all="ignore"):
        while done < epochs and seconds < COMPARISON_SECONDS:
            some = min(max(1, done), epochs - done)
            order = run.order
            if run.draw is not None:
                order = np.array([run.draw() for _ in range(some)], np.int64)
            began = time.perf_counter()
            reference.train(
                layers,
                run.params,
                run.work.state,
                run.X,
                run.Y,
                run.row_weights,
                order,
                run.batch_size,
                run.numbers,
                some * batches,
                run.cursor,
                record,
                None,
            )
            seconds += time.perf_counter() - began
            done += some
    return done, seconds
