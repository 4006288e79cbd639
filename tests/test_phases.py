"""Time by phase: that it is right, that it changes no result, and that it costs nothing where it is not asked for."""

import ast
import inspect
import itertools
import math
import re
import types
from dataclasses import replace

import cases
import numpy as np
import pytest

from fastbp import kernels
from fastbp.kernels.jit import PLAIN_PYTHON, Kernel
from fastbp.layout import PHASES, RESIDENT, UNCOUNTED
from fastbp.profiling import phases
from fastbp.profiling.phases import MARKS_PART, Counters, counting, phases_of
from fastbp.rule import ACTIVATIONS, Rule
from fastbp.training import Run
from fastbp.workspace import NarrowWorkspace, OnlineWorkspace, WideWorkspace

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
        draw=(lambda: rng.permutation(case.n_rows)) if case.shuffled else None,
    )  # fmt: skip


def finish(run, epochs):
    for _ in run.calls(epochs):
        pass


def everything(run):
    return run.params, run.work.state, run.record, run.cursor


def counted_after(run, epochs, before):
    """What is counted in some epochs, after others in which a period was chosen."""
    with counting(run) as counters:
        finish(run, before)
        counters.restart()
        finish(run, epochs)
        return counters.read()


def by_name(times, thread=0):
    """The phases of a thread, by name and layer."""
    return {(phase.name, phase.layer): phase for phase in times.phases if phase.thread == thread}


@pytest.fixture
def many_threads(monkeypatch):
    """Let small steps have threads."""
    monkeypatch.setattr("fastbp.training.THREAD_FLOPS", 1)
    monkeypatch.setattr("fastbp.workspace.THREAD_FLOPS", 1e6)


@pytest.fixture
def sampled(monkeypatch):
    """Let a period of some blocks be chosen always, which is coprime to those of an epoch; returns that of a run."""

    def period_of(run):
        return next(period for period in itertools.count(3) if math.gcd(period, run.work.blocks_per_epoch) == 1)

    monkeypatch.setattr(Counters, "best_period", lambda counters, ticks, marks: period_of(counters.run))
    return period_of


# --- results ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_counting_changes_no_bit(name, many_threads):
    plain, counted = start(RUNS[name]), start(RUNS[name])
    finish(plain, 3)
    times = phases_of(counted, 3)
    assert times.epochs == 3
    assert times.phases
    cases.assert_same_bits(everything(plain), everything(counted))
    # what follows counts no more
    assert counted.counters is None
    finish(counted, 2)
    finish(plain, 2)
    cases.assert_same_bits(everything(plain), everything(counted))


@pytest.mark.parametrize("name", NAMES)
def test_some_blocks_stand_for_all(name, many_threads, sampled, monkeypatch):
    """In as many epochs as a period has blocks, each block of an epoch is counted once."""
    run = start(RUNS[name])
    period = sampled(run)
    some = counted_after(run, period, 1)
    monkeypatch.setattr(Counters, "best_period", lambda counters, ticks, marks: 1)
    other = start(RUNS[name])
    every = counted_after(other, period, 1)
    cases.assert_same_bits(everything(run), everything(other))
    assert some.blocks == every.blocks == every.counted == period * run.work.blocks_per_epoch
    assert some.counted == run.work.blocks_per_epoch
    for thread in range(1 if PLAIN_PYTHON else RUNS[name].threads):
        ours, full = by_name(some, thread), by_name(every, thread)
        # what a call does before its blocks is counted in each of them, and how many calls there are depends on the time
        for key in ours.keys() | full.keys():
            if key[0] not in ("overhead", "wait"):
                assert full[key].visits == full[key].marks
                assert ours[key].visits == pytest.approx(full[key].visits)
                assert ours[key].marks * period == full[key].marks
        assert some.inside(thread) > sum(phase.ticks for phase in ours.values()) / some.ticks_per_second


# --- what is counted --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_what_a_network_has_takes_time(name, many_threads):
    case, run, epochs = RUNS[name], start(RUNS[name]), 4
    times = phases_of(run, epochs)
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
    expected |= {("wait", None)} if run.work.threads > 1 else set()
    assert run.work.threads == case.threads
    assert by_name(times).keys() == expected
    for phase in times.phases:
        assert phase.name in PHASES
        assert phase.ticks > 0
        assert phase.marks > 0
        assert phase.seconds >= 0
        if times.counted == times.blocks:
            assert phase.visits == phase.marks
            assert phase.seconds <= phase.ticks / times.ticks_per_second
    assert {phase.thread for phase in times.phases} == set(range(case.threads))


@pytest.mark.parametrize("name", NAMES)
def test_marks_are_set_once_per_block(name):
    case = RUNS[name]
    run, epochs = start(replace(case, threads=1)), 3
    times = phases_of(run, epochs)
    found = by_name(times)
    assert times.counted == times.blocks  # all in the first call
    blocks, batches = epochs * run.work.blocks_per_epoch, epochs * -(-run.n_rows // run.batch_size)
    assert times.blocks == blocks
    for (phase, layer), one in found.items():
        strips = found["transpose", layer].marks if phase == "delta" and ("transpose", layer) in found else 0
        if phase in ("forward", "loss", "delta", "gradient"):
            assert one.marks == blocks + strips
        if phase == "transpose":
            assert one.marks % blocks == 0
    if isinstance(run.work, cases.NarrowWorkspace):
        assert found["update", None].marks == batches
        # rows that stay in place are packed once
        resident = run.work.arrays[1][RESIDENT]
        assert found["gather", None].marks == (run.work.blocks_per_epoch if resident else blocks)
    else:
        assert found["gather", None].marks == blocks


@pytest.mark.compiled
def test_a_phase_that_works_more_takes_longer():
    """The first layer has 8 times the products of the second one."""
    times = by_name(phases_of(start(cases.Case((400, 100, 50), 2000, 500, kernel="wide", activations="relu")), 20))
    for phase in ("forward", "gradient"):
        assert times[phase, 0].seconds > 3 * times[phase, 1].seconds


def test_long_blocks_are_all_counted():
    run = start(RUNS["narrow"])
    with counting(run) as counters:
        marks, long = 10, 10 / MARKS_PART * counters.alone_ticks
        assert counters.best_period(int(2 * long), marks) == 1
        shorter = [counters.best_period(int(long / factor), marks) for factor in (2, 4, 8)]
    assert 1 < shorter[0] < shorter[1] < shorter[2]
    assert all(math.gcd(period, run.work.blocks_per_epoch) == 1 for period in shorter)


@pytest.mark.compiled
def test_every_block_of_a_large_network_is_counted():
    run = start(MANY_BLOCKS)
    with counting(run) as counters:
        finish(run, 5)
        times = counters.read()
    assert times.counted == times.blocks
    alone = sum(phase.marks for phase in times.phases) * counters.alone_ticks / times.ticks_per_second
    assert times.in_marks() == pytest.approx(alone, abs=1e-3 * times.inside())


@pytest.mark.compiled
@pytest.mark.parametrize("case", [cases.Case((2, 4, 1), 4, 4), cases.Case((20, 16, 1), 1000, 1)], ids=["narrow", "online"])
def test_marks_take_little_of_the_shortest_steps(case):
    run = start(case)
    epochs = 1_000_000 // run.work.blocks_per_epoch
    times = counted_after(run, epochs, epochs)
    assert times.counted < times.blocks / 5
    assert 0 < times.in_marks() < 2 * MARKS_PART * times.inside()


def test_an_interruption_counts_once(sampled):
    """As an overhead of its call; in a block that stands for others it would count for all of them."""
    run = start(NARROW)
    with counting(run) as counters:
        finish(run, 1)
        counters.limit = 0  # everything is one
        counters.restart()
        finish(run, 2)
        times = counters.read()
    for phase in times.phases:
        assert (phase.ticks > 0) == (phase.name == "overhead")
    overhead = by_name(times)["overhead", None]
    assert overhead.ticks == times.ticks[0]


def test_time_that_is_not_counted_is_shared_as_that_which_is(sampled):
    run = start(NARROW)
    with counting(run) as counters:
        finish(run, 1)
        counters.restart()
        finish(run, 3)
        times = counters.read()
        others = int(counters.groups[0, 0, UNCOUNTED])
        counters.groups[0, 0, UNCOUNTED] = 3 * others
        longer = counters.read()
    assert 0 < times.counted < times.blocks
    ratios = []
    for before, after in zip(times.phases, longer.phases, strict=True):
        if before.name != "overhead" and before.seconds > 0:  # of which a part is that of the calls
            ratios.append(after.seconds * longer.ticks_per_second / (before.seconds * times.ticks_per_second))
    assert len(ratios) > 3
    assert min(ratios) == pytest.approx(max(ratios))
    assert 1 < min(ratios) < 3  # blocks that were counted keep their own time
    assert longer.ticks[0] == times.ticks[0] + 2 * others


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
        times = phases_of(start(RUNS[name]), 1 if PLAIN_PYTHON else epochs)
        phases = sum(phase.seconds for phase in times.phases if phase.thread == 0)
        assert times.inside() <= times.seconds * (1 + OUTSIDE)
        if times.seconds * (1 - OUTSIDE) <= phases + times.in_marks() and (
            PLAIN_PYTHON or phases >= (1 - 2 * MARKS_PART) * times.inside()
        ):
            return
    pytest.fail(f"{phases:.3g} of {times.seconds:.3g} seconds are in phases, {times.outside:.3g} outside")


def test_counters_may_be_read_after_every_call_and_restarted():
    run = start(NARROW)
    with counting(run) as counters:
        before = 0
        for _ in run.calls(3, each_epoch=True):
            times = counters.read()
            visits = by_name(times)["forward", 0].visits
            assert visits > before
            before = visits
        counters.restart()
        assert counters.read().phases == []
        finish(run, 3)
        assert by_name(counters.read())["forward", 0].visits == pytest.approx(before)


def test_a_failure_meanwhile_leaves_a_run_as_it_was():
    run = start(NARROW)
    arrays = run.work.arrays
    with pytest.raises(KeyboardInterrupt), counting(run):
        raise KeyboardInterrupt
    assert run.work.arrays is arrays
    assert run.counters is None


# --- clocks -----------------------------------------------------------------------------------------------------------


def test_a_mark_takes_some_nanoseconds():
    times = phases_of(start(NARROW), 3)
    assert 1e-10 < times.mark_seconds < (1e-4 if PLAIN_PYTHON else 1e-6)
    assert times.in_marks() > 0


def test_a_clock_that_stands_still_is_reported(monkeypatch):
    monkeypatch.setattr(phases, "_read_clocks", lambda: (0, 0.0))
    with pytest.raises(RuntimeError, match="stands still"), counting(start(NARROW)):
        pass


@pytest.mark.compiled
@pytest.mark.parametrize(("machine", "version", "known"), [("aarch64", 22, True), ("arm64", 20, False), ("vax", 30, False)])
def test_a_processor_without_a_clock_is_reported(machine, version, known, monkeypatch):
    monkeypatch.setattr(phases, "x86", lambda: False)
    monkeypatch.setattr("platform.machine", lambda: machine)
    monkeypatch.setattr("llvmlite.binding.llvm_version_info", (version, 1, 0))
    if known:
        phases._check_clock()
    else:
        with pytest.raises(RuntimeError, match=f"no clock is known that may be read on {machine}"):
            phases._check_clock()


# --- what others pay --------------------------------------------------------------------------------------------------


MARKS = "start_clock", "mark", "next_block", "stop_clock"


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


@pytest.mark.draw(3)
@pytest.mark.compiled
@pytest.mark.parametrize("kernel", kernels.TRAIN, ids=lambda kernel: kernel.module)
def test_a_mark_that_does_not_count_is_no_instruction(kernel):
    ours = instructions(kernel.assembly("float32"))
    without = Unmarked(kernel.module, kernel.name, " ".join(kernel.signature))
    assert len(ours) > 1000
    assert ours == instructions(without.assembly("float32"))
    assert ours != instructions(kernel.with_marks().assembly("float32"))


@pytest.mark.compiled
def test_a_kernel_that_counts_has_a_file_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    for kernel in (kernels.count_marks, Kernel("phases", "count_marks", "T* int int")):
        memory = np.zeros(2000, np.int64)
        Kernel(kernel.module, kernel.name, " ".join(kernel.signature), kernel.marked)(memory, 0, 7)
        assert memory.any() == kernel.marked
    names = sorted(file.name for file in (tmp_path / "fastbp").iterdir())
    assert [".marked." in name for name in names] == [False, True]
