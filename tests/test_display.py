import sys
import warnings

import matplotlib
import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.neural_network import MLPClassifier as TheirClassifier

from fastbp import LossCurveDisplay, MLPClassifier, MLPRegressor

matplotlib.use("Agg")

import matplotlib.pyplot as plt

X = np.random.default_rng(0).normal(size=(60, 3))
y = X[:, 0] + X[:, 1] ** 2


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def fitted(kind=MLPRegressor, **parameters):
    target = y if kind is MLPRegressor else y > 1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return kind(hidden_layer_sizes=4, **({"max_iter": 5, "random_state": 0} | parameters)).fit(X, target)


def test_the_loss_is_drawn_over_epochs():
    est = fitted()
    display = LossCurveDisplay.from_estimator(est, color="red")
    np.testing.assert_array_equal(display.line_.get_xdata(), [1, 2, 3, 4, 5])
    np.testing.assert_array_equal(display.line_.get_ydata(), est.loss_curve_)
    assert display.line_.get_color() == "red"
    assert display.line_.get_label() == "MLPRegressor"
    assert display.figure_ is display.ax_.figure
    assert (display.ax_.get_xlabel(), display.ax_.get_ylabel()) == ("Epoch", "Loss")
    assert display.validation_line_ is display.validation_ax_ is None


def test_several_models_share_axes():
    _, ax = plt.subplots()
    for size in (2, 3):
        display = LossCurveDisplay.from_estimator(fitted(), ax=ax, name=f"{size} units")
        assert display.ax_ is ax
    assert [line.get_label() for line in ax.get_lines()] == ["2 units", "3 units"]


def test_validation_scores_have_an_axis_of_their_own():
    est = fitted(TheirClassifier, early_stopping=True)
    display = LossCurveDisplay.from_estimator(est)
    np.testing.assert_array_equal(display.validation_line_.get_ydata(), est.validation_scores_)
    assert display.validation_ax_ is not display.ax_
    assert display.validation_ax_.get_ylabel() == "Validation score"
    shown = [text.get_text() for text in display.ax_.get_legend().get_texts()]
    assert shown == ["MLPClassifier", "MLPClassifier, validation score"]


def test_validation_losses_share_the_axes():
    est = fitted(MLPClassifier, early_stopping=True)
    display = LossCurveDisplay.from_estimator(est)
    assert display.validation_ax_ is display.ax_
    np.testing.assert_array_equal(display.validation_line_.get_ydata(), est.validation_loss_curve_)
    assert display.validation_line_.get_label() == "MLPClassifier, validation loss"


def test_plotting_again_starts_anew():
    display = LossCurveDisplay([3, 2, 1], name="first")
    before = display.plot().ax_
    after = display.plot(name="second", linewidth=3)
    assert after is display
    assert display.ax_ is not before
    assert display.line_.get_label() == "second"
    assert display.line_.get_linewidth() == 3


def test_an_estimator_without_a_curve_is_refused():
    with pytest.raises(NotFittedError):
        LossCurveDisplay.from_estimator(MLPRegressor())
    with pytest.raises(ValueError, match=r"must have a loss_curve_, got MLPRegressor with solver 'lbfgs'"):
        LossCurveDisplay.from_estimator(fitted(solver="lbfgs"))


def test_without_matplotlib_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    monkeypatch.delattr(matplotlib, "pyplot")
    with pytest.raises(ImportError, match="pip install 'fastbp"):
        LossCurveDisplay.from_estimator(MLPRegressor())
    with pytest.raises(ImportError, match="LossCurveDisplay needs matplotlib"):
        LossCurveDisplay([1.0]).plot()
