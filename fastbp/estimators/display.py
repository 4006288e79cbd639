"""Pictures of how estimators were trained."""

from typing import Any


class LossCurveDisplay:
    """Loss over the epochs of a training, and how a held-out part of the rows did meanwhile.

    It is best made by `from_estimator`; `plot` draws it again.

    Parameters
    ----------
    loss_curve : sequence of float
        Loss of each epoch.
    validation_loss_curve : sequence of float or None, default None
        Loss of the held-out rows after each epoch, drawn on the same axes.
    validation_scores : sequence of float or None, default None
        Score of the held-out rows after each epoch, drawn against an axis of its own on the right.
    name : str or None, default None
        Name of the model in the legend.

    Attributes
    ----------
    ax_ : matplotlib Axes
        Where the loss is drawn.
    figure_ : matplotlib Figure
    line_ : matplotlib Line2D
        The loss.
    validation_ax_ : matplotlib Axes or None
        Where the held-out rows' curve is drawn, None without one. It is `ax_` for a loss.
    validation_line_ : matplotlib Line2D or None
        The held-out rows' loss or score.
    """

    def __init__(self, loss_curve, *, validation_loss_curve=None, validation_scores=None, name=None):
        self.loss_curve = loss_curve
        self.validation_loss_curve = validation_loss_curve
        self.validation_scores = validation_scores
        self.name = name
        unset: Any = None
        self.ax_ = self.figure_ = self.line_ = self.validation_ax_ = self.validation_line_ = unset

    @classmethod
    def from_estimator(cls, estimator, *, ax=None, name=None, **kwargs):
        """Draw the loss curve of a fitted estimator.

        Parameters
        ----------
        estimator : MLPClassifier or MLPRegressor
            Fitted with solver "sgd" or "adam"; scikit-learn's own will do.
        ax, name, **kwargs
            As of `plot`; the name is by default that of the estimator's class.

        Returns
        -------
        LossCurveDisplay

        Raises
        ------
        sklearn.exceptions.NotFittedError
            If the estimator is not fitted.
        ValueError
            If it keeps no loss curve, as after solver "lbfgs".
        ImportError
            If matplotlib is not installed.

        Examples
        --------
        >>> import numpy as np
        >>> from fastbp import LossCurveDisplay, MLPRegressor
        >>> X = np.linspace(-1, 1, 50)[:, np.newaxis]
        >>> est = MLPRegressor(random_state=0)
        >>> for _ in range(20):
        ...     est = est.partial_fit(X, X[:, 0] ** 2)
        >>> LossCurveDisplay.from_estimator(est).line_.get_xdata().max()
        np.int64(20)
        """
        from sklearn.utils.validation import check_is_fitted

        _pyplot()
        check_is_fitted(estimator)
        kind = type(estimator).__name__
        loss_curve = getattr(estimator, "loss_curve_", None)
        if loss_curve is None:
            raise ValueError(
                f"estimator must have a loss_curve_, got {kind} with solver {getattr(estimator, 'solver', None)!r}; "
                "only 'sgd' and 'adam' keep one"
            )
        display = cls(
            loss_curve,
            validation_loss_curve=getattr(estimator, "validation_loss_curve_", None),
            validation_scores=getattr(estimator, "validation_scores_", None),
            name=kind if name is None else name,
        )
        return display.plot(ax, **kwargs)

    def plot(self, ax=None, *, name=None, **kwargs):
        """Draw the curves.

        Parameters
        ----------
        ax : matplotlib Axes or None, default None
            Where to draw; by default new ones.
        name : str or None, default None
            Name in the legend; by default the display's own.
        **kwargs
            Of the loss's line, as for ``ax.plot``.

        Returns
        -------
        LossCurveDisplay
            The display itself.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        """
        pyplot = _pyplot()
        if ax is None:
            _, ax = pyplot.subplots()
        self.ax_, self.figure_ = ax, ax.figure
        label = next(one for one in (name, self.name, "loss") if one is not None)
        (self.line_,) = ax.plot(_epochs(self.loss_curve), self.loss_curve, **({"label": label} | kwargs))
        ax.set(xlabel="Epoch", ylabel="Loss")
        self._plot_validation(label)
        lines = [line for line in (self.line_, self.validation_line_) if line is not None]
        ax.legend(handles=lines, loc="best")
        return self

    def _plot_validation(self, label):
        self.validation_ax_ = self.validation_line_ = None
        is_loss = self.validation_loss_curve is not None
        curve = self.validation_loss_curve if is_loss else self.validation_scores
        if curve is None:
            return
        self.validation_ax_ = self.ax_ if is_loss else self.ax_.twinx()
        if not is_loss:
            self.validation_ax_.set_ylabel("Validation score")
        style = {"color": self.line_.get_color(), "label": f"{label}, validation {'loss' if is_loss else 'score'}"}
        (self.validation_line_,) = self.validation_ax_.plot(_epochs(curve), curve, linestyle="--", **style)


def _epochs(curve):
    return range(1, len(curve) + 1)


def _pyplot():
    try:
        import matplotlib.pyplot as pyplot
    except ImportError as error:
        raise ImportError("LossCurveDisplay needs matplotlib: pip install 'fastbp[cli]'") from error
    return pyplot
