"""The benches themselves: none times a wrong result, slowdowns are told from chance, README shows what is stored."""

import contextlib
import json
import math
import re
import statistics
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fastbp import NeuralNetwork
from fastbp.profiling import rivals

ROOT = Path(__file__).parent.parent
sys.path.append(str(ROOT / "bench"))
import compare  # noqa: E402
import fashion  # noqa: E402
import measure  # noqa: E402
import networks  # noqa: E402
import plots  # noqa: E402
import report  # noqa: E402
import startup  # noqa: E402
import tables  # noqa: E402
import tabular  # noqa: E402
from table import CASES  # noqa: E402
from work import Work  # noqa: E402

# --- what is timed ----------------------------------------------------------------------------------------------------

# One of each kind, none of which takes long.
CHECKED = [
    next(case for case in CASES if str(case).startswith(start) and case.implementation == "fastbp")
    for start in (
        "pointwise-tanh",
        "step-4-8-3_adam",
        "epoch-2-4-1",
        "founding-xor",
        "members-2-4-1",
        "fit-iris",
        "fit-diabetes",
        *(["fashion"] if fashion.FOLDER.is_dir() else []),
        "predict-64-100-10-0x1",
        "start-up-import",
    )
]


def found_of(cases, change=lambda case, work: None):
    """What is found of cases that are measured together, in a short time, after their works were changed."""

    def work_of(case):
        work = measure.work_of(case, short=True)
        work.rounds, work.seconds = 3, 0
        change(case, work)
        return work

    return measure.measured(cases, lambda count: contextlib.nullcontext(), work_of)


def corruptions(result):
    """The result with one of its arrays changed in one element, lost or shortened."""
    for place, array in enumerate(result):
        for wrong in [math.nan, 1.25 * array.max() + 0.01] if array.dtype.kind == "f" else ["2.5", ""]:
            changed = np.atleast_1d(array.copy())
            changed[len(changed) // 2] = wrong
            yield [*result[:place], changed.reshape(array.shape), *result[place + 1 :]]
        yield [*result[:place], *result[place + 1 :]]


def test_every_kind_is_checked():
    assert {case.kind for case in CHECKED} | {"fashion"} == {case.kind for case in CASES} == set(measure.WORK_OF)


@pytest.mark.compiled
@pytest.mark.parametrize("case", CHECKED, ids=str)
def test_a_right_result_is_timed_and_a_wrong_one_refused(case):
    right = []
    found = found_of([case], lambda case, work: right.append(work.run(work.checked)))[case]
    assert len(found["rounds"]) > 1
    assert 0 < min(found["rounds"]) <= found["seconds"] == statistics.median(found["rounds"])
    # every network tells what memory it takes
    assert ("peak_bytes" in found) == (case.kind not in ("pointwise", "start-up"))
    assert found.get("peak_bytes", 1) > 0
    for wrong in corruptions(right[0]):
        calls = []

        def corrupt(case, work, wrong=wrong, calls=calls):
            work.run = lambda times: calls.append(times) or wrong

        failure = found_of([case], corrupt)[case]
        assert isinstance(failure, (AssertionError, ValueError))
        assert len(calls) == 1  # to be checked, not to be timed


def test_memory_is_what_a_run_takes_beside_the_weights_that_it_makes():
    def run(times):
        kept, let_go = np.zeros(200_000), np.zeros(300_000)
        del let_go
        return [kept]

    work = Work(run, None, own_bytes=1_000_000)
    assert 3_000_000 <= measure.peak_bytes(work) < 3_010_000
    work.anew = lambda: np.zeros(150_000)
    assert 200_000 <= measure.peak_bytes(work) < 210_000


@pytest.mark.compiled
def test_a_workspace_at_rest_hides_no_memory():
    net, X = NeuralNetwork(4, 50, 1, random_state=0), np.zeros((100, 4))
    work = Work(lambda times: net.train(X, X[:, 0], 1), None, own_bytes=0)
    work.run(1)
    first, second = measure.peak_bytes(work), measure.peak_bytes(work)
    assert first > 100 * 50 * 8
    assert abs(first - second) < 1000


def test_memory_is_told_of_fastbp_and_where_scikit_learn_fits_and_predicts():
    told = {(case.kind, case.implementation) for case in CASES if measure.tells_memory(case)}
    assert {kind for kind, name in told if name == "scikit-learn"} == {"fit", "predict"}
    assert {name for _, name in told} == {"fastbp", "fastbp n_jobs=2", "scikit-learn"}


def test_what_stands_side_by_side_is_measured_in_turns():
    """A round each, those with fewer rounds now and then; what fails or is skipped hinders no other."""
    cases = [case for case in CASES if case.group == "pointwise: tanh, 65,536 rows, float32"]
    works = {"fastbp": 6, "reference": 3, "torch": None, "jax": 2}
    done = []

    def work_of(case):
        if works[case.implementation] is None:
            pytest.skip("not installed")
        return Work(
            lambda times: done.append(case.implementation),
            lambda result: None,
            per=2,
            rounds=works[case.implementation],
            seconds=0,
        )

    found = measure.measured(cases, lambda count: contextlib.nullcontext(), work_of)
    first, second, third = ["fastbp", "reference", "jax"], ["fastbp"], ["fastbp", "reference"]
    assert done == [*first, *first, *second, *third, "fastbp", "jax", *third, *second]
    for case in cases:
        if works[case.implementation] is None:
            with pytest.raises(pytest.skip.Exception):
                measure.tell(None, found[case])
        else:
            assert len(found[case]["rounds"]) == works[case.implementation]


def test_the_loss_that_a_process_prints_is_checked(monkeypatch):
    monkeypatch.setattr(startup, "expected_loss", lambda: 0.5)
    startup.check_loss([np.array("0.5")])
    for wrong in ("0.50001", "nan", "", "0.5 1"):
        with pytest.raises((AssertionError, ValueError)):
            startup.check_loss([np.array(wrong)])


def unchanged(problem, threads):
    return lambda epochs: problem.weights + problem.biases


def one_epoch_short(problem, threads):
    return lambda epochs: rivals.numpy_reference(problem, threads)(epochs - 1)


def without_a_bias_gradient(problem, threads):
    def train(epochs):
        parameters = rivals.numpy_reference(problem, threads)(epochs)
        return [*parameters[:-1], problem.biases[-1]]

    return train


def half_the_rate(problem, threads):
    rule = replace(problem.rule, learning_rate=problem.rule.learning_rate / 2)
    return rivals.numpy_reference(replace(problem, rule=rule), threads)


def another_solver(problem, threads):
    return rivals.numpy_reference(replace(problem, rule=replace(problem.rule, solver="momentum")), threads)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("wrong", [unchanged, one_epoch_short, without_a_bias_gradient, half_the_rate, another_solver])
def test_a_wrong_training_is_refused(wrong, dtype, monkeypatch):
    case = next(case for case in CASES if str(case) == f"epoch-20-64-64-1-64x640-{dtype}-reference")
    right = networks.work(case, short=True)
    right.check(right.run(right.checked))
    monkeypatch.setitem(networks.IMPLEMENTATIONS, "reference", wrong)
    with pytest.raises(AssertionError, match="Not equal"):
        measure.tell(None, found_of([case])[case])


def test_every_case_has_a_name_of_its_own_and_company():
    assert len({str(case) for case in CASES}) == len(CASES)
    for case in CASES:
        assert any(other.group == case.group for other in CASES if other.kind == case.kind)
    assert {case.kind for case in CASES if case.quick} == {case.kind for case in CASES}


# --- comparison of two runs -------------------------------------------------------------------------------------------


def run_of(ours=1.0, others=1.0, spread=0.01, jitter=0.0, size=1_000_000):
    """A made-up run: benches of fastbp and of others with medians as given, up to `jitter` from one to the next."""
    found = {}
    for place in range(24):
        name = "fastbp" if place % 2 else "numpy"
        median = (ours if place % 2 else others) * (1 + jitter * (-1) ** (place // 2))
        rounds = [median * (1 + spread * step) for step in (-1, -0.5, 0, 0.5, 1)]
        found[f"{place}"] = {"implementation": name, "seconds": median, "rounds": rounds}
    found["1"]["peak_bytes"] = size
    return found


def slower(saved, new):
    return {name for name, ratio, allowed in compare.compare(saved, new) if ratio > allowed}


def test_the_same_run_again_is_not_slower():
    assert not slower(run_of(), run_of())


def test_a_slowdown_is_seen_and_the_bench_named():
    new = run_of()
    new["3"] = run_of(ours=1.2)["3"]
    assert slower(run_of(), new) == {"3"}


def test_a_slowdown_of_everything_is_seen():
    assert len(slower(run_of(), run_of(ours=1.2))) == 12


def test_a_slower_machine_is_no_slowdown():
    assert not slower(run_of(), run_of(ours=1.5, others=1.5))
    assert len(slower(run_of(), run_of(ours=1.5, others=1.2))) == 12


def test_a_faster_machine_hides_no_slowdown():
    assert len(slower(run_of(), run_of(ours=1.0, others=0.7))) == 12


def test_what_is_allowed_grows_with_the_spread_of_unchanged_code():
    # medians that differ by 8% both ways: 1.4826 * log(1.08), times Z
    assert not slower(run_of(), run_of(ours=1.3, jitter=0.08))
    assert slower(run_of(), run_of(ours=1.3, jitter=0.01))


def test_what_is_allowed_grows_with_the_spread_of_the_rounds():
    assert not slower(run_of(spread=0.2), run_of(ours=1.2, spread=0.2))


def test_a_small_difference_is_no_slowdown():
    assert not slower(run_of(spread=0), run_of(ours=1.04, spread=0))
    assert slower(run_of(spread=0), run_of(ours=1.06, spread=0))


def test_more_memory_is_seen():
    assert slower(run_of(), run_of(size=1_120_000)) == {"1, memory"}
    assert not slower(run_of(), run_of(size=1_090_000))
    assert not slower(run_of(size=10_000), run_of(size=14_000))
    assert slower(run_of(size=10_000), run_of(size=16_000)) == {"1, memory"}


def test_memory_that_one_run_does_not_tell_is_not_compared():
    new = run_of(size=2_000_000)
    del new["1"]["peak_bytes"]
    assert not slower(run_of(), new)
    assert not slower(new, run_of())


def test_without_unchanged_code_nothing_is_compared():
    ours = {name: one for name, one in run_of().items() if one["implementation"] == "fastbp"}
    with pytest.raises(compare.NothingToSayError, match="needs 5 benches of other code in both runs, got 0"):
        compare.compare(ours, ours)


def results_of(run):
    return {"benchmarks": [{"name": name, "extra_info": one | {"kind": "epoch"}} for name, one in run.items()]}


def others_of(results):
    return {"benchmarks": [one for one in results["benchmarks"] if one["extra_info"]["implementation"] != "fastbp"]}


NO_RUNS = {
    "an empty file": (lambda results: "", "is no run of bench/report.py"),
    "half a file": (lambda results: json.dumps(results)[:99], "is no run of bench/report.py"),
    "something else": (lambda results: "{}", "is no run of bench/report.py"),
    "no benches": (lambda results: '{"benchmarks": []}', "needs 5 benches of other code in both runs, got 0"),
    "no time": (lambda results: json.dumps(results).replace('"seconds": ', '"seconds": NaN, "was": '), "above 0, got nan"),
    "no size": (lambda results: json.dumps(results).replace('"peak_bytes": ', '"peak_bytes": 0, "was": '), "above 0, got 0"),
    "no bench of fastbp": (lambda results: json.dumps(others_of(results)), "benches of fastbp in both runs"),
}


@pytest.mark.parametrize("other", NO_RUNS)
def test_what_is_no_run_is_not_compared(other, tmp_path, capsys):
    (change, message), saved = NO_RUNS[other], results_of(run_of())
    files = [tmp_path / "saved.json", tmp_path / "new.json"]
    for file, text in zip(files, (json.dumps(saved), change(saved)), strict=True):
        file.write_text(text)
    assert compare.main([str(file) for file in files]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "status"), [({}, 0), ({"ours": 2.0}, 1), ({"size": 2_000_000}, 1), ({"jitter": 0.2}, 2)], ids=str
)
def test_the_status_tells(change, status, tmp_path, capsys):
    files = []
    for number, run in enumerate([run_of(), run_of(**change)]):
        files.append(tmp_path / f"{number}.json")
        files[-1].write_text(json.dumps(results_of(run)))
    assert compare.main([str(file) for file in files]) == status
    printed = capsys.readouterr().out
    assert ("SLOWER" in printed) == ("ours" in change)
    assert ("LARGER" in printed) == ("size" in change)
    assert ("too busy" in printed) == (status == 2)


# --- what is shown ----------------------------------------------------------------------------------------------------


@pytest.fixture
def stored():
    return json.loads(report.STORED.read_text(encoding="utf-8"))


def test_readme_shows_the_stored_figures(stored):
    text = report.README.read_text(encoding="utf-8")
    assert report.with_figures(text, stored) == text, "run `python bench/report.py --stored --write`"
    stored["rows"][0]["seconds"] *= 1.5
    assert report.with_figures(text, stored) != text


def test_the_picture_is_drawn_from_the_stored_figures(stored):
    assert plots.digest(stored) in report.PICTURE.read_text(encoding="utf-8")
    stored["rows"][0]["seconds"] *= 1.5
    assert plots.digest(stored) not in report.PICTURE.read_text(encoding="utf-8")


def test_what_is_stored_is_all_that_is_published(stored):
    assert report.dumped(report.published(stored)) == report.STORED.read_text(encoding="utf-8")
    assert set(report.PUBLISHED) <= {row["kind"] for row in stored["rows"]} <= {*report.PUBLISHED, *report.ALSO}


@pytest.mark.no_cover
@pytest.mark.no_kernel
def test_a_report_has_a_table_for_each_kind(stored, tmp_path):
    pytest.importorskip("matplotlib")
    text = tables.report(stored)
    kinds = list(dict.fromkeys(row["kind"] for row in stored["rows"]))
    assert re.findall(r"^## ([\w-]+)", text, re.MULTILINE) == [*kinds, "memory"]
    plots.histograms(stored, tmp_path)
    assert {path.stem for path in tmp_path.iterdir()} == set(kinds)


def test_memory_is_shown_where_it_was_measured(stored):
    for row in stored["rows"]:
        row.pop("peak_bytes", None)
    assert "emory" not in tables.readme(stored)
    assert tables.memory(stored) == ""
    row = next(row for row in stored["rows"] if row["kind"] == "epoch" and row["implementation"] == "fastbp")
    row["peak_bytes"] = 1_234_567
    for text in (tables.readme(report.published(stored)), tables.report(stored)):
        assert "emory" in text
        assert text.count("| 1.2 MB |") == 1
    assert [tables.memory_of({"peak_bytes": size}) for size in (0, 12_345, 1e8)] == ["0.0 kB", "12.3 kB", "100.0 MB"]


def test_no_blas_kernel_that_was_chosen_by_hand_is_published(monkeypatch, capsys):
    monkeypatch.setenv("OPENBLAS_CORETYPE", "Haswell")
    with pytest.raises(SystemExit):
        report.parse(["--write"])
    assert "OPENBLAS_CORETYPE must not be set" in capsys.readouterr().err


# --- real tables ------------------------------------------------------------------------------------------------------


def test_a_constant_guess_has_the_score_0_and_the_truth_1():
    rng = np.random.default_rng(0)
    values, labels = rng.normal(5, 2, 40), rng.choice(["a", "b", "b", "c"], 40)
    train = labels[:30]
    common = max(set(train), key=list(train).count)
    assert tabular.normalised(values, np.full(40, values.mean()), values, True) == pytest.approx(0)
    assert tabular.normalised(labels, np.full(40, common), train, False) == 0
    for y, is_value in ((values, True), (labels, False)):
        assert tabular.normalised(y, y, y, is_value) == 1
        wrong = y[::-1].copy()
        assert tabular.normalised(y, wrong, y, is_value) < 1


@pytest.mark.parametrize("name", ["wine", "diabetes"])
def test_every_contender_is_measured_on_the_same_splits(name):
    table = next(table for table in tabular.TABLES if table.name == name)
    frame, y = table.read()
    assert table.target not in frame
    for (train, test), (again, _) in zip(tabular.splits(table, y), tabular.splits(table, y), strict=True):
        assert np.array_equal(train, again)
        assert len(np.union1d(train, test)) == len(y) == len(train) + len(test)
    row = tabular.measure(table, 1)
    assert all(0 < row[who]["score"] <= 1 and row[who]["seconds"] > 0 for who in tabular.CONTENDERS)
    assert f"| {name} | {len(y)} |" in tabular.as_markdown([row])


def test_what_stands_between_marks_is_replaced():
    marks = tabular.MARKS
    text = f"before\n{marks[0]}\nold\n{marks[1]}\nafter\n"
    assert tables.between(text, marks, "new") == text.replace("old", "new")
    for lacking in ("nothing", f"before\n{marks[0]}\nold"):
        with pytest.raises(SystemExit, match="marks"):
            tables.between(lacking, marks, "new")


def test_tables_that_decide_are_not_those_that_were_chosen_on():
    chosen_on = [table.chosen_on for table in tabular.TABLES]
    assert len(chosen_on) >= 15
    assert abs(sum(chosen_on) - len(chosen_on) / 2) <= 1
    assert len({table.name for table in tabular.TABLES}) == len(chosen_on)
