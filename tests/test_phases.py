"""Time by phase: that it is right, that it changes no result, and that it costs nothing where it is not asked for."""

import ast
import inspect
import re
import types
from dataclasses import replace
from unittest import mock

import cases
import numpy as np
import pytest

from fastbp import kernels
from fastbp.kernels.jit import PLAIN_PYTHON, Kernel
from fastbp.layout import COUNTER_GROUP, PHASES
from fastbp.profiling import phases
from fastbp.profiling.phases import count
from fastbp.profiling.workload import Trainer, of_units
from fastbp.rule import ACTIVATIONS, Rule
from fastbp.training import Run, permutations
from fastbp.workspace import NarrowWorkspace, OnlineWorkspace, WideWorkspace

OF_LAYERS = "forward", "delta", "gradient", "transpose"  # phases
# How much of the wall time may lie outside of the compiled loop, where a run is long.
OUTSIDE = 0.05
WIDE = cases.Case((64, 200, 100, 10), 1000, 200, dtype="float32", activations="tanh")
NARROW = cases.Case((20, 12, 3), 1000, 100, activations="tanh")
MANY_BLOCKS = cases.Case((20, 24, 3), 20_000, 10_000, activations="relu", shuffled=True)
RUNS = {
    "wide": WIDE,
    "narrow": NARROW,
    "single rows": cases.Case((20, 16, 1), 300, 1),
    "single rows, all passes": cases.Case((20, 16, 1), 300, 1, alpha=0.1, max_norm=0.1, shuffled=True),
    "many blocks": MANY_BLOCKS,
    "wide, all passes": replace(WIDE, alpha=0.1, max_norm=0.1, weighted=True, shuffled=True, solver="adam"),
    "narrow, all passes": replace(NARROW, alpha=0.1, max_norm=0.1, weighted=True, shuffled=True, solver="adam", dropout=0.2),
    "sparse": replace(WIDE, sparse=True, solver="momentum"),
    "one layer": replace(WIDE, units=(300, 60)),
    "two threads": replace(WIDE, threads=2),
    "many blocks, two threads": replace(MANY_BLOCKS, threads=2),
}
QUICK = ("single rows", "narrow, all passes")  # enough for plain Python, which shows that every mark is reached
NAMES = [pytest.param(name, marks=[] if name in QUICK else pytest.mark.compiled) for name in RUNS]
SMALLER = 10 if PLAIN_PYTHON else 1  # fewer rows where they are slow


def start(case):
    """A run of a case; the kernel is chosen as it always is."""
    if SMALLER > 1:
        case = replace(case, n_rows=case.n_rows // SMALLER, batch_size=-(-case.batch_size // SMALLER))
    X, Y = case.rows()
    weights, biases = case.layout.views(case.parameters())
    rng = np.random.default_rng(0)
    return Run(
        weights, biases, X, Y, batch_size=case.batch_size, activations=[ACTIVATIONS.index(name) for name in case.hidden],
        rule=Rule(case.out_activation, case.loss, case.solver, case.learning_rate, alpha=case.alpha, max_norm=case.max_norm,
                  dropout=case.dropout, reduction=case.reduction),
        row_weights=case.weights() if case.weighted else None, n_jobs=case.threads,
        draw=permutations(rng, case.n_rows) if case.shuffled else None,
    )  # fmt: skip


def finish(run, epochs):
    for _ in run.calls(epochs):
        pass


def everything(run):
    return run.params, run.work.state, run.record, run.cursor


def counted(run, epochs):
    """Ticks and marks of (thread, layer, phase) in some epochs."""
    counters = count(run)
    finish(run, epochs)
    return counters[..., 0], counters[..., 1]


def by_name(numbers, thread=0):
    """What is not 0 of a thread's numbers of (thread, layer, phase), by name and layer."""
    names = PHASES._fields
    return {
        (names[phase], int(layer) if names[phase] in OF_LAYERS else None): int(numbers[thread, layer, phase])
        for layer, phase in np.argwhere(numbers[thread])
    }


@pytest.fixture
def many_threads(monkeypatch):
    """Let small steps have threads."""
    monkeypatch.setattr("fastbp.training.THREAD_FLOPS", 1)
    monkeypatch.setattr("fastbp.workspace.THREAD_FLOPS", 1e6)


# --- results ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_counting_changes_no_bit(name, many_threads):
    plain, marked = start(RUNS[name]), start(RUNS[name])
    counters = count(marked)
    assert not counters.any()
    for epochs in (3, 2):
        finish(plain, epochs)
        finish(marked, epochs)
        assert counters.any()
        cases.assert_same_bits(everything(plain), everything(marked))


# --- what is counted --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_what_a_network_has_takes_time(name, many_threads):
    case, run = RUNS[name], start(RUNS[name])
    ticks, marks = counted(run, 4)
    layers = range(len(case.units) - 1)
    wide, narrow, online = (isinstance(run.work, kind) for kind in (WideWorkspace, NarrowWorkspace, OnlineWorkspace))
    hidden = layers[1:]
    assert online == ("single rows" in name)
    assert narrow == ("narrow" in name or "many blocks" in name)
    expected = {("gather", None), ("loss", None), ("overhead", None)}
    expected |= {(phase, layer) for phase in ("forward", "gradient") for layer in layers}
    expected |= {("delta", layer) for layer in hidden if not online}  # whose deltas are one pass with the gradients
    expected |= {("transpose", layer) for layer in hidden if wide}
    expected |= {("update", None)} if narrow or case.max_norm < np.inf else set()
    expected |= {("wait", None)} if run.work.plan.threads > 1 else set()
    assert run.work.plan.threads == case.threads
    for thread in range(1 if PLAIN_PYTHON else case.threads):
        assert by_name(ticks, thread).keys() == by_name(marks, thread).keys()
    assert by_name(ticks).keys() == expected
    assert (ticks >= 0).all()


@pytest.mark.parametrize("name", NAMES)
def test_marks_are_set_once_per_block(name):
    case = RUNS[name]
    run, epochs = start(replace(case, threads=1)), 3
    found = by_name(counted(run, epochs)[1])
    blocks, batches = epochs * run.work.blocks_per_epoch, epochs * -(-run.n_rows // run.batch_size)
    for (phase, layer), marks in found.items():
        strips = found["transpose", layer] if phase == "delta" and ("transpose", layer) in found else 0
        if phase in ("forward", "loss", "delta", "gradient"):
            assert marks == blocks + strips
        if phase == "transpose":
            assert marks % blocks == 0
    if isinstance(run.work, cases.NarrowWorkspace):
        assert found["update", None] == batches
        # rows that stay in place are packed once
        resident = run.work.plan.resident
        assert found["gather", None] == (run.work.blocks_per_epoch if resident else blocks)
    else:
        assert found["gather", None] == blocks


@pytest.mark.compiled
def test_a_phase_that_works_more_takes_longer():
    """The first layer has 8 times the products of the second one."""
    ticks = by_name(counted(start(cases.Case((400, 100, 50), 2000, 500, kernel="wide", activations="relu")), 20)[0])
    for phase in ("forward", "gradient"):
        assert ticks[phase, 0] > 3 * ticks[phase, 1]


# so many epochs that it is little if another program takes the processor once
@pytest.mark.parametrize(
    ("name", "epochs"),
    [
        pytest.param("wide", 200, marks=pytest.mark.compiled),
        ("narrow", 4000),
        pytest.param("single rows", 3000, marks=pytest.mark.compiled),
    ],
)
def test_phases_sum_to_the_wall_time(name, epochs):
    for _ in range(5):  # another program may take the processor between two calls
        run = start(RUNS[name])
        counters, before = count(run), phases.ticks_now()
        finish(run, 1 if PLAIN_PYTHON else epochs)
        whole, inside = phases.ticks_now() - before, counters[0, ..., 0].sum()
        assert inside <= whole
        if inside >= (1 - OUTSIDE) * whole:
            return
    pytest.fail(f"{inside} of {whole} ticks are in phases")


# --- shares -----------------------------------------------------------------------------------------------------------


def shares_of(ticks, marks, whole, slower=0.0):
    """Of turns of one thread and one layer, where a mark alone takes 10 ticks."""
    pairs = np.zeros((len(whole), 1, 1, len(PHASES), 2), np.int64)
    pairs[:, 0, 0, : len(ticks[0]), 0], pairs[:, 0, 0, : len(ticks[0]), 1] = ticks, marks
    alone = np.zeros(COUNTER_GROUP)
    alone[2 * PHASES.overhead] = 10 * phases.MARKS
    with mock.patch.object(phases, "set_marks", return_value=alone):
        inside, outside = phases.shares_of(pairs, np.array(whole), slower)
    return inside[0, 0, : len(ticks[0])], outside[0]


def test_what_marks_take_is_no_phases():
    inside, outside = shares_of([[5000, 3000]], [[10, 20]], [10_000])
    np.testing.assert_allclose((*inside, outside), (0.49, 0.28, 0.2))


def test_an_interruption_of_one_turn_counts_for_nothing():
    quiet = [[5000, 3000]] * 4
    inside, outside = shares_of([*quiet, [5000, 900_000]], [[10, 20]] * 5, [10_000] * 4 + [907_000])
    np.testing.assert_allclose((*inside, outside), (0.49, 0.28, 0.2))


@pytest.mark.parametrize(("slower", "mark"), [(0.1, 15), (0.01, 5), (0.9, 40)])
def test_where_marks_are_felt_they_take_what_the_training_takes_longer(slower, mark):
    """60 marks in 10,000 ticks, of which 10 each are 6%."""
    whole = round(60 * 15 * (1 + slower) / slower) if slower == 0.1 else 10_000
    inside, _ = shares_of([[6000, 3000]], [[20, 40]], [whole], slower)
    np.testing.assert_allclose(inside, [(6000 - 20 * mark) / whole, (3000 - 40 * mark) / whole], rtol=0.01)


@pytest.mark.compiled
@pytest.mark.parametrize("threads", [1, 2])
def test_times_are_those_of_the_training_without_marks(threads, many_threads):
    work = of_units([64, 200, 100, 10], batch_size=200, n_jobs=threads)
    plain = Trainer(work)
    times, slower = phases.phase_times(work, plain, 0.2)
    epoch = work.rows / np.median(plain.rates)
    assert sum(seconds for _, _, seconds, _ in times) == pytest.approx([epoch] * threads)
    visits = {(name, layer): visits for name, layer, _, visits in times}
    assert visits["forward", 1] == pytest.approx(work.steps, rel=0.1)
    assert visits["outside", None] == 0
    assert slower > -1  # how much it is depends on what else the processor does


# --- clocks -----------------------------------------------------------------------------------------------------------


def test_a_clock_that_stands_still_is_reported(monkeypatch):
    monkeypatch.setattr(phases, "ticks_now", lambda: 0)
    with pytest.raises(RuntimeError, match="stands still"):
        count(start(NARROW))


@pytest.mark.compiled
@pytest.mark.parametrize(("machine", "known"), [("arm64", True), ("vax", False)])
def test_a_processor_without_a_clock_is_reported(machine, known, monkeypatch):
    phases.check_clock()  # by a kernel that cannot be loaded on a processor of another kind
    monkeypatch.setattr("platform.machine", lambda: machine)
    if known:
        phases.check_clock()
    else:
        with pytest.raises(RuntimeError, match=f"no clock is known that may be read on {machine}"):
            phases.check_clock()


# --- what others pay --------------------------------------------------------------------------------------------------


MARKS = "start_clock", "mark"


class WithoutMarks(ast.NodeTransformer):
    """Source in which no mark is set, and no clock started."""

    def visit_Expr(self, node):
        call = node.value
        marks = isinstance(call, ast.Call) and getattr(call.func, "id", "") in MARKS
        return ast.Pass() if marks else node


class Unmarked(Kernel):
    """A kernel whose marks are cut out of its source."""

    def function(self):
        source = inspect.getsource(inspect.getmodule(super().function()))
        module = types.ModuleType(f"unmarked_{self.module}")
        tree = ast.fix_missing_locations(WithoutMarks().visit(ast.parse(source)))
        assert not any(f"{name}(" in ast.unparse(tree) for name in MARKS)
        exec(compile(tree, module.__name__, "exec"), vars(module))
        return getattr(module, self.name)


def instructions(assembly):
    """Instructions and labels; the names of functions are those of their modules."""
    lines = [re.sub(r"\b_ZN\w*[\w.$]*", "name", line.split("#")[0]).strip() for line in assembly.splitlines()]
    return [line for line in lines if line and (not line.startswith(".") or line.startswith(".LBB"))]


@pytest.mark.compiles
@pytest.mark.draw(3)
@pytest.mark.compiled
@pytest.mark.parametrize("kernel", kernels.TRAIN, ids=lambda kernel: kernel.module)
def test_a_mark_that_does_not_count_is_no_instruction(kernel):
    ours = instructions(kernel.assembly("float32"))
    without = Unmarked(kernel.module, kernel.name, kernel.fields)
    assert len(ours) > 1000
    assert ours == instructions(without.assembly("float32"))
    assert ours != instructions(kernel.with_marks().assembly("float32"))


@pytest.mark.compiles
@pytest.mark.compiled
def test_a_kernel_that_counts_has_a_file_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    for kernel in (kernels.count_marks, Kernel("phases", "count_marks", "sync:int* counters number")):
        memory = np.zeros(2000, np.int64)
        Kernel(kernel.module, kernel.name, kernel.fields, kernel.marked)(memory, 0, 7)
        assert memory.any() == kernel.marked
    names = sorted(file.name for file in (tmp_path / "fastbp").iterdir())
    assert [".marked." in name for name in names] == [False, True]
