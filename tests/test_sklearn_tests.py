"""scikit-learn's own tests of its multi-layer perceptrons, all of them, run on MLPClassifier and MLPRegressor of fastbp."""

import importlib
from unittest import mock

import pytest
from sklearn import neural_network

from fastbp import MLPClassifier, MLPRegressor

# scikit-learn's tests choose by themselves what a warning means
pytestmark = [pytest.mark.compiled, pytest.mark.no_cover, pytest.mark.filterwarnings("ignore")]

SOURCE = "sklearn.neural_network.tests.test_mlp"
pytest.register_assert_rewrite(SOURCE)
# replaced while the tests are defined, because some take the classes as parameters
with mock.patch.multiple(neural_network, MLPClassifier=MLPClassifier, MLPRegressor=MLPRegressor):
    theirs = importlib.import_module(SOURCE)
TESTS = {name: test for name, test in vars(theirs).items() if name.startswith("test_")}
globals().update(TESTS)


@pytest.fixture
def global_random_seed():
    """As in scikit-learn's conftest, unless it is told otherwise."""
    return 42


def test_these_are_tests_of_ours():
    parameters = [mark.args[1] for test in TESTS.values() for mark in getattr(test, "pytestmark", []) if mark.args[1:]]
    classes = {value for values in parameters for value in values if isinstance(value, type) and hasattr(value, "fit")}
    assert {theirs.MLPClassifier, theirs.MLPRegressor} == classes == {MLPClassifier, MLPRegressor}
    assert len(TESTS) > 40
