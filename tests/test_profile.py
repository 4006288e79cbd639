"""The profiler: what it counts, what it names, what it advises, and the files and lines that it leaves."""

import base64
import importlib.util
import json
import re
import time
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest
import scipy.sparse

import fastbp
from fastbp import MLPClassifier, MLPRegressor, NeuralNetwork, TabularClassifier
from fastbp.kernels import READ, pointwise
from fastbp.kernels.jit import PLAIN_PYTHON
from fastbp.layout import RECORD
from fastbp.profiling import report
from fastbp.profiling.machine import Ceiling, Ceilings, ceilings, facts, repeated
from fastbp.profiling.members import members
from fastbp.profiling.phases import phase_times, phases_from
from fastbp.profiling.report import profile, sweep
from fastbp.profiling.rivals import RIVALS, NotPossible, compared
from fastbp.profiling.workload import Rate, Trainer, of_anything, of_units, rate_of, take_turns
from fastbp.rule import ACTIVATIONS
from fastbp.tables import Table, figure
from fastbp.training import usable_threads
from fastbp.workspace import choice_for_training, workspace_for_training

PNG = b"\x89PNG\r\n\x1a\n"
MAKE = {name: make for name, _, make in RIVALS}
UNITS, BATCH, SECONDS = [4, 8, 3], 20, 0.1


@pytest.fixture(scope="module")
def found():
    if PLAIN_PYTHON:
        pytest.skip("needs compiled kernels")
    return profile(UNITS, batch_size=BATCH, seconds=SECONDS, compare=True)


@pytest.fixture(scope="module")
def profiled(request):
    """A profile to look at; as plain Python one of a machine that is made up, as measuring one would take minutes."""
    if not PLAIN_PYTHON:
        return request.getfixturevalue("found")
    some, functions = Ceiling(100.0, 90.0), (*pointwise.FUNCTIONS,)
    made_up = Ceilings(
        {"float32": {1: some, 2: some}},
        {level: {1: some, 2: some} for level in ("L2", "L3", "memory")},
        {"float32": {function.__name__: Ceiling(0.2, 0.3) for function in functions}},
        1.0,
    )
    with mock.patch("fastbp.profiling.machine.ceilings", return_value=made_up):
        return profile(UNITS, batch_size=BATCH, rows=2 * BATCH, seconds=SECONDS)


def some_rows(n=60, classes=3):
    rng = np.random.default_rng(0)
    return rng.normal(size=(n, 4)).astype(np.float32), rng.integers(classes, size=n)


# --- what is measured -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("units", "by_hand"),
    [
        # forward and gradient of both layers, the delta of the second
        ([64, 100, 10], 2 * (64 * 100 + 100 * 10) * 2 + 2 * 100 * 10),
        ([784, 10], 2 * 784 * 10 * 2),
        ([3, 5, 7, 2], 4 * (15 + 35 + 14) + 2 * (35 + 14)),
    ],
)
def test_flops_are_those_counted_by_hand(units, by_hand):
    assert of_units(units, batch_size=10, rows=100).flops_per_sample == by_hand


def test_the_stored_values_of_sparse_rows_count():
    X, y = scipy.sparse.random_array((50, 40), density=0.1, dtype=np.float32, format="csr", rng=0), np.arange(50) % 3
    work = of_anything(MLPClassifier(8, random_state=0), X, y)
    assert work.flops_per_sample == pytest.approx(4 * X.nnz / 50 * 8 + 6 * 8 * 3)


@pytest.mark.compiled
def test_rates_are_those_of_a_clock_outside():
    work = of_units([32, 64, 10], batch_size=50)
    trainer, run = Trainer(work), work.start()
    outside = []

    def ratio():
        """Of the best of both: others were interrupted."""
        return max(trainer.rates) / max(outside)

    while len(outside) < 5 or (len(outside) < 100 and not 0.5 < ratio() < 2):
        trainer.turn(0.02)
        start = time.perf_counter()
        for _ in run.calls(10):
            pass
        outside.append(10 * work.rows / (time.perf_counter() - start))
    assert 0.5 < ratio() < 2


@pytest.mark.compiled
def test_a_turn_trains_as_training_does():
    work = replace(of_units(UNITS, batch_size=BATCH), shuffle=True)
    trainer, run = Trainer(work), work.start()
    rows = trainer.train(7) + 2 * BATCH
    run.record = np.zeros((1, len(RECORD)))
    run.advance(9)
    assert rows == 9 * BATCH
    np.testing.assert_array_equal(trainer.run.params, run.params)


def test_the_figures_belong_together(found):
    rate = found.samples_per_second
    assert rate.low <= rate.median <= rate.high
    assert rate.spread == max(rate.high - rate.median, rate.median - rate.low) / rate.median
    assert found.gflops == pytest.approx(rate.median * 6e-9 * (4 * 8 + 8 * 3) - rate.median * 2e-9 * 4 * 8)
    assert found.epochs_per_second == pytest.approx(rate.median / found.network["rows"])
    assert found.steps_per_second == pytest.approx(rate.median / BATCH)
    assert found.ns_per_sample == pytest.approx(1e9 / rate.median)
    assert 0 < found.fraction_of_peak == pytest.approx(found.gflops / found.peak_gflops)
    assert found.choice.kernel == "narrow"
    assert found.choice.compile_seconds > 0
    assert found.choice.load_seconds < found.choice.compile_seconds
    assert (found.trials[0].setting, found.trials[0].value) == ("kernel", "wide")
    for trial in found.trials:
        assert trial.gain == pytest.approx(trial.samples_per_second.median / rate.median - 1)


def test_phases_sum_to_the_whole(found):
    assert sum(phase.share for phase in found.phases) == pytest.approx(1)
    labels = [phase.label for phase in found.phases]
    expected = ["gather", "forward[0]", "forward[1]", "loss", "delta[1]", "gradient[1]", "gradient[0]", "update"]
    assert [label for label in labels if label not in ("wait", "overhead", "outside")] in (expected, expected[1:])
    assert labels[-1] == "outside"
    assert found.slowdown is not None
    for phase in found.phases:
        assert phase.bound in ("compute", "memory", "latency", "overhead")
        assert (phase.reached is None) == (phase.bound == "overhead")


@pytest.mark.compiled
def test_the_wide_kernel_has_its_own_order():
    work = of_units([40, 300, 3], batch_size=20)
    times, _ = phase_times(work, Trainer(work), 0.05)
    names = [(name, layer) for name, layer, *_ in times if name not in ("wait", "overhead")]
    forward = [("gather", None), ("forward", 0), ("forward", 1), ("loss", None)]
    backward = [("transpose", 1), ("delta", 1), ("gradient", 0), ("gradient", 1)]
    assert names == [*forward, *backward, ("outside", None)]


# --- ceilings and names -----------------------------------------------------------------------------------------------


@pytest.mark.compiled
def test_ceilings():
    found = ceilings(["float32", "float64"], [1])
    peaks = {dtype: by_cores[1].best for dtype, by_cores in found.peak_gflops.items()}
    assert peaks["float32"] > 1.2 * peaks["float64"] > 0  # twice as many lanes
    reads = {level: by_cores[1].best for level, by_cores in found.read_gbs.items()}
    assert reads["L2"] > reads["memory"] > 0
    for names in found.pointwise_ns.values():
        assert set(ACTIVATIONS) <= set(names)
        assert names["tanh"].best > names["relu"].best > 0
    json.dumps(asdict(found))


def test_an_interruption_does_not_shorten_the_repeats(monkeypatch):
    amounts, interruptions, now = [], iter([0.01]), [0.0]
    monkeypatch.setattr("fastbp.profiling.machine.time", SimpleNamespace(perf_counter=lambda: now[0]))

    def work(amount):
        amounts.append(amount)
        now[0] += next(interruptions, 0) + 1e-5 * amount

    amount, seconds = repeated([work], 4, least=2e-3)
    assert amounts[-4:] == [amount] * 4
    assert seconds == pytest.approx([1e-5 * amount] * 4)
    assert 100 <= amount <= 200


def machine_of(peak, bandwidth):
    levels = {level: {1: Ceiling(bandwidth, 0.0)} for level in ("L2", "L3", "memory")}
    none = dict.fromkeys(["relu", "relu_derivative", "exp"], Ceiling(0.0, 0.0))
    return Ceilings({"float32": {1: Ceiling(peak, 0.0)}}, levels, {"float32": none}, 0.0)


@pytest.mark.parametrize(
    ("peak", "bandwidth", "share", "bound"),
    [(1.0, 1e9, 1.0, "compute"), (1.0, 1e9, 0.3, "compute"), (1.0, 1e9, 0.2, "latency"), (1e9, 1.0, 0.9, "memory")],
)
def test_a_phase_is_named_by_what_it_reaches(peak, bandwidth, share, bound):
    work = of_units([64, 100, 10], batch_size=200, rows=1000)
    run, n = work.start(), 1000
    by_arithmetic = 2 * n * 6400 / (peak * 1e9)
    by_bytes = 4 * (n * 164 + 6400 * run.work.blocks_per_epoch) / (bandwidth * 1e9)
    seconds = max(by_arithmetic, by_bytes) / share
    took = np.array([seconds])
    times = [("forward", 0, took, 5), ("wait", None, took, 5)]
    phase, wait = phases_from(times, work, run, machine_of(peak, bandwidth))
    assert (phase.bound, wait.bound) == (bound, "overhead")
    assert phase.reached == pytest.approx(share)
    assert phase.share == wait.share == 0.5
    assert phase.gflops == pytest.approx(2e-9 * n * 6400 / seconds)
    assert wait.gflops is wait.gbs is wait.reached is None


def test_a_phase_whose_marks_took_all_its_time_has_no_rates():
    work = of_units([4, 3, 2], batch_size=20, rows=40)
    times = [("forward", 0, np.zeros(1), 2), ("update", None, np.zeros(1), 2)]
    phases = phases_from(times, work, work.start(), machine_of(1.0, 1e9))
    assert [(phase.gflops, phase.gbs, phase.reached, phase.bound) for phase in phases] == [
        (None, None, None, "overhead")
    ] * 2
    assert [phase.share for phase in phases] == [0, 0]


# --- the kernel, and what else could be set ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("units", "batch_size", "sparse", "reason"),
    [
        ([4, 8, 3], 100, False, "a step of 100 rows and 56 weights should take X times as long in the wide kernel"),
        ([784, 128, 10], 128, False, "101,632 weights are more than 21,000"),
        ([200, 8, 3], 4, False, "a step of 4 rows and 1,624 weights should take X times as long in the narrow kernel"),
        ([30, 100, 10], 5, False, "a step of 5 rows and 4,000 weights should take X times as long in the narrow kernel"),
        ([64, 100, 10], 1, False, "a step takes one row, for which each weight is read once"),
        ([4, 8, 3], 100, True, "X is sparse, which only the wide kernel reads"),
    ],
)
def test_the_reason_is_that_of_the_choice(units, batch_size, sparse, reason):
    layout = of_units(units, batch_size=batch_size).start().layout
    kind, words = choice_for_training(layout, batch_size, sparse)
    assert re.sub(r"\b[1-9]\.\d times", "X times", words) == reason
    assert type(workspace_for_training(layout, 200, batch_size, sparse, shuffled=False)) is kind


@pytest.mark.parametrize(
    ("rates", "advised"),
    [
        ([150, 151, 149], True),
        ([102, 102, 102], False),  # too little
        ([150, 151, 99], False),  # not always
        ([300, 140, 500], True),
        ([90, 90, 90], False),
    ],
)
def test_nothing_below_the_spread_is_advised(rates, advised):
    trial = report.trial_of("batch_size", 400, rates, [100, 101, 99])
    spread = rate_of(rates).spread
    assert trial.advised == (advised and trial.gain > spread)
    assert trial.gain == pytest.approx(np.median(rates) / np.median([100, 101, 99]) - 1)


def test_a_still_machine_advises_no_trifle():
    assert not report.trial_of("n_jobs", 2, [102, 102], [100, 100]).advised
    assert report.trial_of("n_jobs", 2, [104, 104], [100, 100]).advised


def test_the_kernel_that_is_not_chosen_is_no_advice(profiled):
    faster = [
        report.trial_of(setting, "wide", rates, [100, 100])
        for setting, rates in (("kernel", [300, 300]), ("n_jobs", [150, 150]), ("batch_size", [200, 200]))
    ]
    assert all(trial.advised for trial in faster)
    assert [trial.setting for trial in replace(profiled, trials=faster).advice] == ["batch_size", "n_jobs"]


@pytest.mark.compiled
def test_what_is_tried():
    tried = {(name, value) for name, value, _ in report.trials_of(of_units(UNITS, batch_size=20, rows=80, dtype="float64"))}
    batches = {("batch_size", 10), ("batch_size", 40), ("batch_size", 80)}
    assert {("kernel", "wide"), *batches, ("dtype", "float32")} == tried
    assert not [one for one in report.trials_of(of_units(UNITS, batch_size=1, rows=1)) if one[0] == "batch_size"]


def test_turns_are_taken_in_turn():
    order = []

    class Timed:
        def __init__(self, name):
            self.name, self.rates = name, []

        def turn(self, seconds):
            order.append(self.name)
            self.rates.append(seconds)

    first, second = Timed("a"), Timed("b")
    take_turns([first, second], [3, 1], 1.0, turns=4)
    assert order == ["a", "b"] * 5  # the first round warms up
    assert len(first.rates) == len(second.rates) == 4
    assert first.rates[0] == pytest.approx(3 * second.rates[0])


# --- what can be profiled ---------------------------------------------------------------------------------------------


def test_a_network_stays_as_it_is():
    X, y = some_rows()
    net = NeuralNetwork(4, 8, 3, solver="momentum", dtype="float32", random_state=0)
    before = [one.copy() for one in net.weights]
    work = of_anything(net, X, np.eye(3)[y], batch_size=30)
    for _ in work.start().calls(3):
        pass
    assert all((one == other).all() for one, other in zip(net.weights, before, strict=True))
    assert work.describe()["solver"] == "momentum"
    assert (work.units, work.batch_size, work.dtype) == ((4, 8, 3), 30, "float32")


@pytest.mark.parametrize(
    ("estimator", "expected"),
    [
        (MLPClassifier((6, 5), activation=["tanh", "relu"]), {"units": [4, 6, 5, 3], "loss": "clipped_log_loss"}),
        (MLPClassifier(solver="lbfgs"), {"batch_size": 60, "solver": "gradient_only", "shuffle": False}),
        (
            MLPRegressor(hidden_layer_sizes=5, solver="sgd"),
            {"units": [4, 5, 1], "solver": "nesterov", "out_activation": "identity"},
        ),
    ],
)
def test_an_estimator_stays_as_it_is(estimator, expected):
    X, y = some_rows()
    before = vars(estimator).copy()
    described = of_anything(estimator, X, y).describe()
    assert vars(estimator) == before
    assert {name: described[name] for name in expected} == expected
    assert described["synthetic"] is False


@pytest.mark.parametrize(("dtype", "loss"), [(int, "clipped_log_loss"), (float, "squared_error")])
def test_data_gets_the_estimator_for_it(dtype, loss):
    X, y = some_rows()
    work = of_anything(None, X, (y + (0.5 if dtype is float else 0)).astype(dtype), dtype="float32", solver="sgd")
    assert (work.rule.loss, work.dtype) == (loss, "float32")


@pytest.mark.compiled
def test_sparse_rows_and_lbfgs_can_be_profiled():
    X, y = scipy.sparse.random_array((50, 40), density=0.1, dtype=np.float32, format="csr", rng=0), np.arange(50) % 3
    found = profile(MLPClassifier(8, solver="lbfgs", random_state=0), X, y, seconds=SECONDS, compare=True)
    assert not [trial for trial in found.trials if trial.setting == "kernel"]
    assert "sparse" in found.choice.reason
    assert not [trial for trial in found.trials if trial.setting == "batch_size"]
    assert set(found.comparison) == {"fastbp"}


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ([[784]], {}, r"units must be two numbers or more, inputs and outputs included, got \[784\]"),
        ([[4, 0, 3]], {}, "units must be >= 1, got 0"),
        ([[4, 3]], {"batch_size": 0}, "batch_size must be >= 1, got 0"),
        ([[4, 3]], {"rows": 5, "batch_size": 10}, "rows must be at least batch_size, 10, got 5"),
        ([[4, 3]], {"solver": "lm"}, "solver must be one of .* got 'lm'"),
        ([[4, 3]], {"dtype": "float16"}, "dtype must be 'float32' or 'float64', got 'float16'"),
        ([[4, 3]], {"seconds": 0}, "seconds must be > 0, got 0"),
        ([[4, 3], 1, 2], {}, "got them with layer sizes"),
        ([NeuralNetwork(4, 3, 2)], {}, "X and y must be given with a NeuralNetwork"),
        ([NeuralNetwork(4, 3, 2), 1, 2], {"solver": "sgd"}, "solver is the NeuralNetwork's own, got 'sgd' beside it"),
        ([MLPClassifier(), [[1]]], {}, "X and y must be given together, got only X"),
        ([MLPClassifier(), [[1]], [1]], {"batch_size": 5}, "batch_size is the MLPClassifier's own, got 5 beside it"),
        ([None, [[1], [2]], [0, 1]], {"rows": 2}, "rows are those of X, got 2"),
    ],
)
def test_what_is_wrong_is_named(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        fastbp.profile(*arguments, **options)


@pytest.mark.parametrize("what", ["784,10", 784, None])
def test_other_things_cannot_be_profiled(what):
    with pytest.raises(TypeError, match="what must be layer sizes, a NeuralNetwork or an estimator, got"):
        fastbp.profile(what)


# --- side by side -----------------------------------------------------------------------------------------------------


def test_the_libraries_that_are_there_run_beside(found):
    assert {"fastbp", "numpy reference", "scikit-learn"} <= set(found.comparison)
    for name, module, _ in RIVALS:
        rate = found.comparison[name]
        if importlib.util.find_spec(module) is None:
            assert rate == "not installed"
            assert "not installed" in str(found)
        else:
            assert isinstance(rate, Rate)
            assert rate.median > 0


def assert_same_training(train, work, epochs):
    """From the start as a run of fastbp, as often as asked, and on from there."""
    run = work.start()
    for _ in run.calls(epochs):
        pass
    expected = [one for some in run.parameters() for one in some]
    train(1)
    for _ in range(2):
        found = [one.copy() for one in train(epochs)]
        for ours, theirs in zip(expected, found, strict=True):
            np.testing.assert_allclose(theirs, ours, rtol=1e-3, atol=1e-5)
    assert all((ours != theirs).any() for ours, theirs in zip(found, train(1, anew=False), strict=True))


def test_the_reference_trains_the_same():
    work = of_units(UNITS, batch_size=BATCH, rows=90)
    assert_same_training(MAKE["numpy reference"](work, 1), work, 2)


@pytest.mark.parametrize("name", ["torch", "jax"])
@pytest.mark.parametrize("solver", ["sgd", "momentum", "nesterov", "adam"])
def test_torch_and_jax_train_the_same(name, solver):
    pytest.importorskip(name)
    for units in (UNITS, [4, 8, 1]):
        work = of_units(units, batch_size=BATCH, rows=40, solver=solver)
        assert_same_training(MAKE[name](work, 1), work, 3)
    assert compared(work, Trainer(work), 0.001)[name].median > 0


def test_scikit_learn_starts_from_the_same_weights():
    work = of_anything(MLPClassifier(8, shuffle=False, random_state=0), *some_rows())
    assert_same_training(MAKE["scikit-learn"](work, 1), work, 2)
    two = work.Y[:, 2] == 0
    with pytest.raises(NotPossible, match="no classes but those of the rows"):
        MAKE["scikit-learn"](replace(work, X=work.X[two], Y=work.Y[two]), 1)


def test_what_a_library_lacks_is_said():
    work = of_units(UNITS, batch_size=BATCH, rows=40, activation="elu")
    assert compared(work, Trainer(work), 0.001)["scikit-learn"] == "it has no activation elu"
    with pytest.raises(NotPossible, match="it has no output logistic with squared_error"):
        MAKE["scikit-learn"](of_anything(NeuralNetwork(4, 3, 2), np.ones((5, 4)), np.ones((5, 2))), 1)


# --- tables, pictures, traces -----------------------------------------------------------------------------------------


@pytest.mark.compiled
def test_a_profile_reads_as_tables(profiled):
    text = str(profiled)
    for words in (
        "4-8-3, relu, softmax with log_loss, adam, float32",
        "samples/s",
        "GFLOP/s",
        "bound by",
        "narrow, because",
    ):
        assert words in text
    assert json.loads(json.dumps(profiled.to_dict(), allow_nan=False))["network"]["units"] == UNITS


@pytest.mark.parametrize(
    ("value", "shown"), [(1234567.8, "1,234,568"), (99.94, "99.9"), (1.234, "1.23"), (0.12345, "0.123")]
)
def test_figures_have_three_digits(value, shown):
    assert figure(value) == shown


@pytest.mark.compiled
def test_a_trace_is_a_step_of_each_thread(profiled, tmp_path):
    profiled.trace(tmp_path / "trace.json")
    trace = json.loads((tmp_path / "trace.json").read_text())
    slices = [event for event in trace["traceEvents"] if event["ph"] == "X"]
    assert [event["name"] for event in slices] == [phase.label for phase in profiled.phases]
    at = 0.0
    for event in slices:
        assert event["ts"] == pytest.approx(at)
        assert {"name", "cat", "ph", "pid", "tid", "ts", "dur", "args"} == set(event)
        at += event["dur"]
    steps = profiled.network["steps_per_epoch"]
    assert at == pytest.approx(sum(phase.seconds for phase in profiled.phases) / steps * 1e6)
    assert {event["name"] for event in trace["traceEvents"] if event["ph"] == "M"} == {"process_name", "thread_name"}


def test_pictures(profiled, tmp_path):
    profiled.plot(tmp_path / "profile.png")
    assert (tmp_path / "profile.png").read_bytes().startswith(PNG)
    profiled.plot(tmp_path / "profile.html")
    page = (tmp_path / "profile.html").read_text(encoding="utf-8")
    sources = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert [source.split(",")[0] for source in sources] == ["data:image/png;base64"]
    assert base64.b64decode(sources[0].split(",")[1]).startswith(PNG)
    assert "<script" not in page
    assert page.count("<table>") == len(profiled.tables())
    with pytest.raises(ValueError, match=r"path must end in \.png, \.pdf, \.svg, \.html, got 'profile\.txt'"):
        profiled.plot("profile.txt")


def test_nothing_overlaps_in_the_picture(profiled):
    from fastbp.profiling.pictures import draw

    drawn = draw(profiled)
    drawn.draw_without_rendering()
    for axes in drawn.axes:
        texts = [*axes.texts, *axes.get_yticklabels(), axes.xaxis.label, axes.yaxis.label, axes.title]
        boxes = [text.get_window_extent() for text in texts if text.get_text() and text.get_visible()]
        assert not any(one.overlaps(other) for place, one in enumerate(boxes) for other in boxes[:place])
        assert re.search(r"\(.*\)", axes.get_xlabel())  # a unit
    legends = [legend.get_window_extent() for legend in drawn.legends]
    assert not legends[0].overlaps(legends[1])


@pytest.mark.compiled
def test_a_sweep(tmp_path):
    found = sweep([4, 8, 3], [10, 20], [8, 16], seconds=0.05)
    assert (found.widths, found.batch_sizes) == ([8, 16], [10, 20])
    assert len(found.to_dict()["cells"]) == 4
    assert "4-w-3" in str(found)
    found.plot(tmp_path / "sweep.png")
    assert (tmp_path / "sweep.png").read_bytes().startswith(PNG)
    with pytest.raises(ValueError, match=r"units must have a hidden layer whose width can change, got \[4, 3\]"):
        sweep([4, 3], [10], [8])
    with pytest.raises(TypeError, match="units must be a sequence of whole numbers, got 4"):
        sweep(4, [10], [8])
    with pytest.raises(ValueError, match=r"widths must not be empty, got \[\]"):
        sweep([4, 8, 3], [10], [])


@pytest.mark.compiled
def test_members_stay_as_they_are():
    X, y = some_rows()
    net = NeuralNetwork(4, 2, 3, random_state=0)
    before = [one.copy() for one in net.weights]
    found = members(net, X, np.eye(3)[y], 5, batch_size=10, seconds=0.05)
    assert all((one == other).all() for one, other in zip(net.weights, before, strict=True))
    assert (found.members, found.rows, found.batch_size, found.threads, found.in_lanes) == (5, len(X), 10, 1, True)
    assert found.together_ns.median > 0 < found.alone_ns.median
    assert "a network in each lane" in str(found)
    large = members(NeuralNetwork(4, 900, 3, random_state=0), X, np.eye(3)[y], 2, seconds=0.05)
    assert not large.in_lanes
    with pytest.raises(ValueError, match="count must be >= 1, got 0"):
        members(net, X, np.eye(3)[y], 0)


# --- command line -----------------------------------------------------------------------------------------------------

SHORT = ("--units", "4,8,3", "--batch-size", BATCH, "--seconds", SECONDS)


@pytest.mark.compiled
def test_three_valid_files(run):
    status, out, err = run("profile", *SHORT, "--plot", "p.png", "--trace", "t.json", "--json")
    assert (status, err) == (0, "")
    assert json.loads(out)["network"]["batch_size"] == BATCH
    assert Path("p.png").read_bytes().startswith(PNG)
    assert json.loads(Path("t.json").read_text())["traceEvents"]


@pytest.mark.compiled
@pytest.mark.parametrize("with_rich", [True, False])
def test_a_profile_of_a_csv_file(run, monkeypatch, with_rich):
    find_spec = importlib.util.find_spec
    if not with_rich:
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "rich" else find_spec(name))
    X, y = some_rows()
    rows = [",".join([*map(str, row), "abc"[label]]) for row, label in zip(X, y, strict=True)]
    Path("flowers.csv").write_text("\n".join(["a,b,c,d,species", *rows]))
    options = ("--hidden", "8", "--batch-size", BATCH, "--seconds", SECONDS)
    status, out, err = run("profile", "flowers.csv", "--target", "species", *options)
    assert (status, err) == (0, "")
    assert "4-8-3" in out
    assert "Where a step goes" in out
    assert ("─" in out) == with_rich


@pytest.mark.compiled
def test_a_profile_of_values(run):
    Path("line.csv").write_text("x,y\n" + "".join(f"{x},{3.5 * x}\n" for x in range(40)))
    options = ("--hidden", "8", "--batch-size", BATCH, "--seconds", SECONDS, "--solver", "sgd", "--json")
    status, out, err = run("profile", "line.csv", "--target", "y", *options)
    assert (status, err) == (0, "")
    network = json.loads(out)["network"]
    assert (network["units"], network["solver"], network["loss"]) == ([1, 8, 1], "sgd", "squared_error")


@pytest.mark.compiled
@pytest.mark.parametrize("data", ["xor", "iris", "wine", "diabetes", "iris.csv"])
def test_the_network_that_is_profiled_is_the_one_that_is_trained(run, data):
    X, y = some_rows()
    rows = [",".join([*map(str, row), "red blue"[label % 2 * 4 :][:4]]) for row, label in zip(X, y, strict=True)]
    Path("iris.csv").write_text("\n".join(["a,b,c,d,species", *rows]))
    options = ["--target", "species"] if data == "iris.csv" else []
    status, out, err = run("train", data, *options, "--epochs", "1", "--json")
    assert (status, err) == (0, "")
    trained = json.loads(out)
    status, out, err = run("profile", data, *options, "--seconds", SECONDS, "--json")
    assert (status, err) == (0, "")
    network = json.loads(out)["network"]
    for name in ("units", "bias", "dtype"):
        assert network[name] == trained[name], name
    assert network["rows"] == trained["train_rows"]
    lesson = data in ("xor", "iris")
    assert network["batch_size"] == (trained["train_rows"] if lesson else trained["batch_size"])
    assert network["activations"] == (["logistic"] if lesson else ["selu"] * 2)
    assert network["solver"] == ("sgd" if lesson else "adam")
    status, out, err = run("profile", data, *options, "--seconds", SECONDS, "--solver", "momentum", "--hidden", "5")
    assert (status, err) == (0, "")
    assert f"What fastbp train {data} trains" in out
    assert f"-5-{network['units'][-1]}, " in out
    assert "momentum" in out


def test_an_estimator_for_tables_is_profiled_as_it_would_be_fitted():
    X, y = some_rows()
    est = TabularClassifier((7, 5), "relu", batch_size=16, dtype="float64", random_state=0)
    work = of_anything(est, X, y)
    assert (work.units, work.activations, work.batch_size) == ((4, 7, 5, 3), ("relu", "relu"), 16)
    assert (work.dtype, work.rule.beta_2, work.rule.learning_rate) == ("float64", 0.95, 0.0035)
    assert not hasattr(est, "preprocessing_")
    np.testing.assert_allclose(work.X, est.fit(X, y)._read(X))
    with pytest.raises(ValueError, match="batch_size is the TabularClassifier's own, got 3 beside it"):
        of_anything(est, X, y, batch_size=3)


def test_tables_of_names_fit_narrow_terminals():
    table = Table(
        [["kernel", "narrow, because a step of 130 rows should take 2.4 times as long"], ["", "x" * 50], ["try", ""]]
    )
    lines = table.text(40).split("\n")[1:]
    assert max(map(len, lines)) <= 40
    assert [line[:8].strip() for line in lines] == ["kernel", "", "", "", "", "try"]
    assert "".join(line[8:] for line in lines).replace(" ", "") == "".join(value for _, value in table.rows).replace(" ", "")
    assert table.text().count("\n") == 3


@pytest.mark.compiled
def test_the_command_sweep(run):
    options = ("--batch-sizes", "10,20", "--widths", "8", "--seconds", SECONDS)
    status, out, err = run("sweep", "--units", "4,8,3", *options, "--plot", "s.png", "--json")
    assert (status, err) == (0, "")
    assert json.loads(out)["batch_sizes"] == [10, 20]
    assert Path("s.png").read_bytes().startswith(PNG)
    assert "batch 10" in run("sweep", "--units", "4,8,3", *options)[1]


def test_the_command_info(run):
    status, out, err = run("info", "--json")
    assert (status, err) == (0, "")
    shown = json.loads(out)
    assert shown["versions"]["fastbp"] == fastbp.__version__
    assert shown["processors"] == usable_threads(-1)
    assert shown["blas"]
    assert set(shown) == set(facts())
    assert "kernels in" in run("info")[1]


@pytest.mark.compiles
@pytest.mark.compiled
def test_the_command_warmup(run, monkeypatch, tmp_path):
    from fastbp import warmup

    everything = warmup.kernels_for(["float32", "float64"])
    files = {kernel.file(types, width) for kernel, types, width in everything}
    assert len(files) == len(everything)
    for name in ("narrow.train.float32.", "wide.forward.float64-int32.", "narrow.train.marked.float64."):
        assert any(file.startswith(name) for file in files)
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    some = [(READ, "float32", width) for width in (16, 32, 64)]
    monkeypatch.setattr(warmup, "kernels_for", lambda dtypes: some)
    for compiled in (3, 0):
        status, out, err = run("warmup", "--json")
        assert (status, err) == (0, "")
        shown = json.loads(out)
        assert (shown["kernels"], shown["compiled"], shown["folder"]) == (3, compiled, str(tmp_path / "fastbp"))
    fresh = type(READ)("ceilings", "read", READ.fields)
    fresh.loaded("float32", 64)
    assert fresh.load_seconds("float32", 64) < fresh.compile_seconds["float32", 64]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("profile --units 784", "--units: must be two numbers or more, inputs and outputs included, got '784'"),
        ("profile --units 784,x", "--units: must be a whole number > 0, got 'x'"),
        ("profile --batch-size 0", "--batch-size: must be a whole number > 0, got '0'"),
        ("profile --solver lm", "--solver: invalid choice: 'lm'"),
        ("profile --activation sin", "activation must be one of 'identity', .* got 'sin'"),
        ("profile --n-jobs 0", "n_jobs must not be 0, got 0"),
        ("profile --seconds 0", "seconds must be > 0, got 0"),
        ("profile --seconds nan", "seconds must be finite, got nan"),
        ("profile --target y", "--target is for DATA, got 'y' without it"),
        ("profile --task regression", "--task is for DATA, got 'regression' without it"),
        ("profile none.csv --target y", "DATA must be xor, .* or a file with a table, got 'none.csv'"),
        ("profile iris --target y", "--target is for files, got 'y' with iris"),
        ("profile iris --units 4,3", "--units is for random rows, got it with iris; see --hidden"),
        ("profile iris --batch-size 1000", "--batch-size must be at most the number of rows, 130, got 1000"),
        ("profile --trace none/t.json", "--trace must name a file in an existing folder, got 'none/t.json'"),
        ("profile --trace .", r"--trace must name a file, got '\.'"),
        ("profile --plot p.txt", "--plot must name a file ending in .png, .pdf, .svg, .html, got 'p.txt'"),
        ("profile --units 1000000000,1000000 --rows 1 --batch-size 1", "Unable to allocate"),
        ("sweep --widths 8,0", "--widths: must be a whole number > 0, got '0'"),
        ("sweep --units 4,3", r"units must have a hidden layer whose width can change, got \[4, 3\]"),
        ("sweep --plot s.html", "--plot must name a file ending in .png, .pdf, .svg, got 's.html'"),
        ("warmup --dtype float16", "--dtype: invalid choice: 'float16'"),
    ],
)
def test_bad_arguments(run, arguments, message):
    status, out, err = run(*arguments.split())
    assert (status, out) == (2, "")
    assert err.count("\n") == 1
    assert "error: " in err
    assert re.search(message, err)


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs a folder that nobody can write")
def test_a_file_that_cannot_be_written(run):
    status, _, err = run("profile", "--trace", "/proc/self/t.json")
    assert status == 2
    assert "--trace must name a file that can be written, got '/proc/self/t.json'" in err


@pytest.mark.parametrize("same", ["same.svg", "./same.svg"])
def test_two_files_are_two(run, same, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    status, _, err = run("profile", "--units", "2,4,1", "--plot", "same.svg", "--trace", same)
    assert status == 2
    assert "--trace and --plot must name two files, got 'same.svg' twice" in err
    assert not [*tmp_path.iterdir()]


def test_targets_of_one_output_may_be_a_vector():
    X = np.random.default_rng(0).normal(size=(60, 5))
    net = NeuralNetwork(5, 4, 1, random_state=0)
    vector, column = (of_anything(net, X, y) for y in ((X[:, 0] > 0) * 1.0, (X[:, :1] > 0) * 1.0))
    np.testing.assert_array_equal(vector.Y, column.Y, strict=True)


def test_the_file_that_is_read_stays(run, tmp_path):
    table = tmp_path / "table.csv"
    table.write_text("a,b\n1,2\n")
    status, _, err = run("profile", str(table), "--target", "b", "--trace", str(table))
    assert status == 2
    assert f"--trace must not name the file that is read, got {str(table)!r}" in err


@pytest.mark.compiled
@pytest.mark.parametrize("what", [("--units", "4,3,2", "--rows", 20, "--batch-size", 5), ("xor",)])
def test_profile_of_many_members(run, what):
    status, out, err = run("profile", *what, "--members", 40, "--seconds", SECONDS, "--json")
    assert (status, err) == (0, "")
    found = json.loads(out)
    assert (found["members"], found["in_lanes"]) == (40, True)
    assert found["gain"] > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--plot", "p.png"), "--plot is for one network, got 'p.png' with --members"),
        (("--compare",), "--compare is for one network, got it with --members"),
        (("--members", "0"), "argument --members: must be"),
        (("wine",), "--members is for --units, xor and iris, got it with wine"),
    ],
)
def test_what_is_not_for_many_members(run, options, message):
    status, out, err = run("profile", "--members", 3, *options)
    assert (status, out) == (2, "")
    assert message in err


@pytest.mark.parametrize("command", ["profile", "sweep", "info", "warmup"])
def test_help_has_an_example(run, command):
    status, out, _ = run(command, "--help")
    assert status == 0
    assert re.search(rf"examples?:\n  fastbp {command} ", out)


def test_ctrl_c_leaves_one_line(run, monkeypatch):
    def interrupt(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(report, "profile", interrupt)
    assert run("profile") == (130, "", "fastbp: error: interrupted\n")


def test_the_public_name():
    assert fastbp.profile is profile
