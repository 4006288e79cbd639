"""What a training run records, epoch by epoch."""

import numpy as np

from fastbp.layout import RECORD


def draw(axes, epoch, curves, loss="loss"):
    """Draw curves over the epochs, each in axes of its own; `loss` is what that of this name is called."""
    for ax, (name, values) in zip(axes, curves.items(), strict=True):
        ax.plot(epoch, values)
        ax.set(xlabel="epoch", ylabel=loss if name == "loss" else name, title=f"{name} per epoch")
        ax.grid(alpha=0.3)
        if "accuracy" in name:
            ax.set_ylim(-0.02, 1.02)


class History:
    """Record of a training run, one value per completed epoch, each taken while the epoch runs.

    Every row is judged before the update that uses it. `epoch` is an array of int64, `mse`, `loss` and `accuracy` are arrays
    of float64.
    """

    def __init__(self, record, weight, n_outputs, rule):
        self._record, self._weight, self._n_outputs = record, weight, n_outputs
        self._rule = rule

    def __len__(self):
        return len(self._record)

    @property
    def epoch(self):
        """Number of the epoch within its run, from 1."""
        return np.arange(1, len(self) + 1)

    @property
    def mse(self):
        """mean((a - y)**2) over all target elements, each row with its weight."""
        return self._record[:, RECORD.squares] / (self._weight * self._n_outputs)

    @property
    def loss(self):
        """The objective whose gradient is used, with its L2 term.

        "sum" adds up the rows; "mean" divides that by their weight and the number of outputs; "row" is the mean of the
        batches' objectives, each weighted by its number of rows. The squared error counts half, as in the gradient. With
        "sum" the L2 term counts once for each batch.
        """
        rows, penalty = self._record[:, RECORD.loss], self._rule.alpha / 2 * self._record[:, RECORD.penalty]
        if self._rule.reduction == "sum":
            return rows + penalty
        if self._rule.reduction == "row":
            return (rows + penalty) / self._record[:, RECORD.rows]
        return rows / (self._weight * self._n_outputs) + penalty / self._weight

    @property
    def accuracy(self):
        """Fraction of right rows: the largest output in the place of the largest target, or one on the right side of 0.5.

        Of all rows, whatever they weigh, but for those of batches that are passed over.
        """
        return self._record[:, RECORD.hits] / self._record[:, RECORD.rows]

    def columns(self):
        """All curves by name."""
        return {"epoch": self.epoch, "mse": self.mse, "loss": self.loss, "accuracy": self.accuracy}

    def to_frame(self):
        """The record as a pandas DataFrame, one row per epoch.

        Returns
        -------
        pandas.DataFrame
            Columns epoch, mse, loss, accuracy.

        Raises
        ------
        ImportError
            If pandas is not installed.
        """
        import pandas

        return pandas.DataFrame(self.columns())

    def plot(self, axes=None):
        """Draw loss and accuracy over the epochs.

        Parameters
        ----------
        axes : pair of matplotlib Axes, optional
            Where to draw; by default two new ones, side by side.

        Returns
        -------
        pair of matplotlib Axes
            Loss and accuracy.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        """
        if axes is None:
            import matplotlib.pyplot as plt

            _, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
        draw(axes, self.epoch, {"loss": self.loss, "accuracy": self.accuracy})
        return axes

    def __repr__(self):
        if not len(self):
            return "History(0 epochs)"
        return f"History({len(self)} epochs, loss {self.loss[-1]:.6g}, accuracy {self.accuracy[-1]:.4g})"
