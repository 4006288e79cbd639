import importlib.util
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from sklearn import metrics
from sklearn.datasets import load_iris
from sklearn.model_selection import train_test_split

import fastbp
from fastbp import History, NeuralNetwork, cli, datasets, lessons, training
from fastbp.arguments import check_output
from fastbp.estimators import checkpoint
from fastbp.kernels.jit import PLAIN_PYTHON
from fastbp.layout import RECORD
from fastbp.profiling import rivals
from fastbp.rule import Rule

PNG = b"\x89PNG\r\n\x1a\n"
# fifty updates of numbers near 1, each exact to 1e-16
TOLERANCE = 1e-13
SHORTER = 5 if PLAIN_PYTHON else 1  # fewer epochs where they are slow, and but one to compare


@pytest.fixture(autouse=True)
def small_and_tidy(monkeypatch, tmp_path):
    """Run in an empty folder, and compare with numpy only for a moment."""
    monkeypatch.setattr(rivals, "COMPARISON_SECONDS", 0.01 / SHORTER**4)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def report(run):
    def report(*arguments):
        status, out, err = run("train", *arguments, "--json")
        assert (status, err) == (0, "")
        return json.loads(out)

    return report


@pytest.fixture
def flowers(tmp_path):
    X, y = load_iris(return_X_y=True)
    path = tmp_path / "flowers.csv"
    rows = [f"{','.join(map(str, row))},{('setosa', 'versicolor', 'virginica')[c]}" for row, c in zip(X, y, strict=True)]
    path.write_text("\n".join(["a,b,c,d,species", *rows]))
    return path


def s(z):
    return 1 / (1 + np.exp(-z))


def test_xor_trains_the_founding_network(report):
    X, y = np.array([[0, 0], [0, 1], [1, 0], [1, 1]]), np.array([[0], [1], [1], [0]])
    net = NeuralNetwork(2, 4, 1, random_state=3)
    (W1, W2), (b1, b2) = net.weights, net.biases
    errors = []
    for _ in range(50):
        A1 = s(X @ W1 + b1)
        A2 = s(A1 @ W2 + b2)
        errors.append(np.mean((A2 - y) ** 2))
        d2 = (A2 - y) * A2 * (1 - A2)
        d1 = (d2 @ W2.T) * A1 * (1 - A1)
        W2 -= 0.1 * A1.T @ d2
        b2 -= 0.1 * d2.sum(axis=0)
        W1 -= 0.1 * X.T @ d1
        b1 -= 0.1 * d1.sum(axis=0)
    shown = report("xor", "--epochs", 50, "--seed", 3)
    assert [row["epoch"] for row in shown["milestones"]] == [1, 5, 10, 15, 20, 25, 30, 35, 40, 45, 50]
    for row in shown["milestones"]:
        assert row["mse"] == pytest.approx(errors[row["epoch"] - 1], abs=TOLERANCE)
        assert row["loss"] == pytest.approx(4 / 2 * row["mse"])
    assert shown["outputs"] == pytest.approx(s(s(X @ W1 + b1) @ W2 + b2)[:, 0], abs=TOLERANCE)
    assert lessons.PRESETS["xor"]["epochs"] == 10_000


def test_iris_trains_the_founding_network(report):
    X, labels = load_iris(return_X_y=True)
    X, _, y, _ = train_test_split(X, np.eye(3)[labels], test_size=20, random_state=4)
    W1, W2 = NeuralNetwork(4, 2, 3, bias=False, init_scale=0.5, random_state=3).weights
    losses, accuracies = [], []
    for _ in range(50 // SHORTER):
        A1 = s(X @ W1)
        A2 = s(A1 @ W2)
        losses.append(np.sum((A2 - y) ** 2) / (2 * y.size))
        accuracies.append(np.mean(A2.argmax(axis=1) == y.argmax(axis=1)))
        d2 = (A2 - y) * A2 * (1 - A2)
        d1 = (d2 @ W2.T) * A1 * (1 - A1)
        W2 -= 0.1 * A1.T @ d2 / 390
        W1 -= 0.1 * X.T @ d1 / 390
    shown = report("iris", "--epochs", 50 // SHORTER, "--seed", 3)
    for row in shown["milestones"]:
        assert row["loss"] == pytest.approx(losses[row["epoch"] - 1], abs=TOLERANCE)
        assert row["accuracy"] == pytest.approx(accuracies[row["epoch"] - 1])
    assert (shown["train_rows"], shown["test_rows"]) == (130, 20)
    assert lessons.PRESETS["iris"]["epochs"] == 5_000


@pytest.mark.compiled
@pytest.mark.parametrize(
    ("name", "score", "least"),
    [
        ("xor", "train_accuracy", 1),
        ("iris", "test_accuracy", 0.75),
        ("digits", "test_accuracy", 0.95),
        ("wine", "test_accuracy", 0.95),
        ("breast_cancer", "test_accuracy", 0.95),
        ("diabetes", "test_r2", 0.3),
    ],
)
def test_presets_learn(report, name, score, least):
    assert report(name)[score] >= least


@pytest.mark.compiled
@pytest.mark.compiled
def test_restarts_keep_the_best_of_many_networks(report, run, tmp_path):
    path = tmp_path / "best.npz"
    found = report("xor", "--restarts", 40, "--hidden", 2, "--seed", 5, "--save", path)
    ends = found["ends"]
    assert found["restarts"] == sum(end["networks"] for end in ends) == 40
    assert len(ends) > 1, "some networks of two hidden units get stuck"
    assert ends[0]["train_accuracy"] == found["train_accuracy"] == 1
    assert found["milestones"][-1]["loss"] == min(end["least_loss"] for end in ends)
    assert 5 <= found["seed"] < 45
    net = fastbp.load(path)
    assert net.feedforward([[0, 0], [0, 1], [1, 0], [1, 1]])[:, 0].tolist() == found["outputs"]
    alone = report("xor", "--hidden", 2, "--seed", found["seed"])
    np.testing.assert_allclose(found["outputs"], alone["outputs"], rtol=1e-4)
    status, shown, _ = run("train", "xor", "--restarts", 40, "--hidden", 2, "--seed", 5)
    assert status == 0
    assert f"40 networks, of which that of seed {found['seed']} was kept" in shown
    assert report("iris", "--restarts", 1, "--epochs", 5) == report("iris", "--epochs", 5)


@pytest.mark.parametrize("name", ["xor", "iris"])
def test_numpy_is_timed_on_request(report, name):
    assert "speedup_over_numpy" not in report(name, "--epochs", 5)
    shown = report(name, "--compare")
    assert shown["speedup_over_numpy"] > 1
    assert shown["samples_per_second"] == pytest.approx(shown["epochs_per_second"] * shown["train_rows"])


def test_options_override_the_preset(report):
    sizes = ["--hidden", "5,3", "--epochs", 2, "--batch-size", 8]
    shown = report("iris", *sizes, "--lr", 0.2, "--reduction", "sum", "--bias", "--dtype", "float32")
    assert shown["units"] == [4, 5, 3, 3]
    expected = {"epochs": 2, "learning_rate": 0.2, "batch_size": 8, "reduction": "sum", "dtype": "float32"}
    assert {name: shown[name] for name in expected} == expected
    assert shown["bias"] is True
    assert report("iris", "--epochs", 1, "--batch-size", "full")["batch_size"] is None


def test_options_override_what_tables_are_trained_with(report):
    shown = report("wine", "--hidden", "5,3", "--epochs", 2, "--batch-size", 8, "--lr", 0.2, "--dtype", "float64")
    assert shown["units"] == [13, 5, 3, 3]
    expected = {"epochs": 2, "learning_rate": 0.2, "batch_size": 8, "dtype": "float64"}
    assert {name: shown[name] for name in expected} == expected
    assert report("wine", "--epochs", 1, "--batch-size", "full")["batch_size"] == 127  # 15 of 142 rows are held back


def test_the_seed_decides_the_result(report):
    first, again, other = (report("wine", "--epochs", 2, "--seed", seed)["milestones"] for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_a_csv_file_is_learned_saved_and_predicted(run, report, flowers):
    shown = report(flowers, "--target", "species", "--epochs", 20 // SHORTER, "--save", "flowers.npz")
    assert shown["test_rows"] == 30
    model = fastbp.load("flowers.npz")
    assert shown["units"] == [4, *model.hidden_layer_sizes, 3]
    assert model.classes_.tolist() == ["setosa", "versicolor", "virginica"]

    data = datasets.load_table(flowers, "species")
    inputs = model.preprocessing_.transform(data.X_train)
    lower, median, upper = np.quantile(data.X_train, (0.25, 0.5, 0.75), axis=0)
    scaled = (data.X_train.to_numpy() - median) / (upper - lower)
    np.testing.assert_allclose(inputs, scaled / np.sqrt(1 + (scaled / 3) ** 2), atol=1e-12)
    assert shown["test_accuracy"] == model.score(data.X_test, data.y_test)

    status, out, err = run("predict", "flowers.npz", flowers)
    names = flowers.read_text().split()[1:]
    accuracy = np.mean([line == name.split(",")[-1] for line, name in zip(out.split(), names, strict=True)])
    chances = model.predict_proba(datasets.load_rows(flowers, model.table_, list("abcd"))[1])
    loss = metrics.log_loss([name.split(",")[-1] for name in names], chances)
    area = np.mean([metrics.roc_auc_score([name.endswith(one) for name in names], chance)
                    for one, chance in zip(model.classes_, chances.T, strict=True)])  # fmt: skip
    assert status == 0
    assert err.splitlines() == [f"{one} on 150 rows" for one in (f"accuracy {accuracy:.3f}", f"log loss {loss:.3f}",
                                                                 f"ROC AUC {area:.3f}")]  # fmt: skip

    status, out, err = run("predict", "flowers.npz", flowers, "--json")
    assert (status, err) == (0, "")
    assert json.loads(out)["accuracy"] == accuracy


@pytest.mark.compiled
def test_an_ensemble_is_learned_saved_and_predicted(run, report, flowers):
    alone = report(flowers, "--target", "species", "--epochs", 6)
    shown = report(flowers, "--target", "species", "--epochs", 6, "--ensemble", 3, "--save", "three.npz")
    assert (shown["networks"], "networks" in alone) == (3, False)
    model = fastbp.load("three.npz")
    assert len(model.networks_) == 3
    data = datasets.load_table(flowers, "species")
    assert shown["test_log_loss"] == metrics.log_loss(data.y_test, model.predict_proba(data.X_test))
    status, out, _ = run("predict", "three.npz", flowers)
    assert status == 0
    assert len(out.split()) == 150
    out = run("train", flowers, "--target", "species", "--epochs", 3, "--ensemble", 2)[1]
    assert "2, averaged" in out
    assert run("train", "xor", "--ensemble", 2)[2] == "fastbp: error: --ensemble is for tables, got it with xor\n"
    assert "--restarts is for xor and iris" in run("train", flowers, "--target", "species", "--restarts", 2)[2]


def test_a_training_goes_on_from_its_checkpoint(run, report, flowers, monkeypatch):
    how = (flowers, "--target", "species", "--epochs", 8)
    expected = report(*how, "--save", "whole.npz")
    real, ended = checkpoint.Checkpoint.offer, []

    def offer(kept, epochs):
        kept.next = 0
        real(kept, epochs)
        if epochs.est.n_iter_ == 3 and not ended:
            ended.append(True)
            raise MemoryError("the program ends")

    monkeypatch.setattr(checkpoint.Checkpoint, "offer", offer)
    assert run("train", *how, "--checkpoint", "run.fastbp")[0] == 2
    status, _, err = run("train", *how, "--checkpoint", "run.fastbp")
    assert (status, err) == (2, "fastbp: error: --checkpoint run.fastbp: it is there: --resume goes on from it\n")
    found = report(*how, "--checkpoint", "run.fastbp", "--resume", "--save", "resumed.npz")
    assert ended
    assert found == expected | {"save": "resumed.npz"}
    assert Path("resumed.npz").read_bytes() == Path("whole.npz").read_bytes()
    for options, message in (
        (("--resume",), "--resume goes on from the file of --checkpoint, got it alone"),
        (("--checkpoint", "no.fastbp", "--resume"), "--checkpoint no.fastbp: there is none"),
        (("--checkpoint", "a", "--save", "a"), "--checkpoint and --save must name two files, got 'a' twice"),
        (("--checkpoint", "run.fastbp", "--resume", "--dropout", "0.5"), "of other data or parameters"),
        (("--checkpoint", "b", "--ensemble", "2"), "checkpoint needs n_estimators=1, got 'b' with 2"),
    ):
        status, _, err = run("train", *how, *options)
        assert status == 2
        assert message in err
    assert "--checkpoint is for tables, got it with xor" in run("train", "xor", "--checkpoint", "a")[2]


def test_columns_are_found_by_name_or_by_place(run, report, flowers, tmp_path):
    report(flowers, "--target", "species", "--epochs", 2, "--save", "flowers.npz")
    expected = run("predict", "flowers.npz", flowers)[1]
    header, *rows = (line.split(",") for line in flowers.read_text().split())
    other = tmp_path / "other.csv"
    for pick, with_header in (([3, 2, 1, 0], True), ([0, 1, 2, 3], False)):
        lines = [[row[i] for i in pick] for row in ([header] if with_header else []) + rows]
        other.write_text("\n".join(map(";".join, lines)))
        assert run("predict", "flowers.npz", other) == (0, expected, "")
    other.write_text("a,b\n1,2\n")
    status, out, err = run("predict", "flowers.npz", other)
    assert (status, out) == (2, "")
    assert "other.csv must have the columns a, b, c, d, got none called 'c'" in err


def test_regression_predicts_in_original_units(run, report, tmp_path):
    path = tmp_path / "line.csv"
    path.write_text("x,y\n" + "".join(f"{x},{1000 + 3.5 * x}\n" for x in range(40)))
    shown = report(path, "--target", "y", "--save", "line.npz")
    assert shown["task"] == "regression"
    assert "accuracy" not in shown["milestones"][0]
    status, out, err = run("predict", "line.npz", path)
    values = np.array(out.split(), float)
    assert status == 0
    error = values - (1000 + 3.5 * np.arange(40))
    rmse, mae = (error**2).mean() ** 0.5, np.abs(error).mean()
    assert err.splitlines()[1:] == [f"RMSE {rmse:.3f} on 40 rows", f"MAE {mae:.3f} on 40 rows"]
    assert err.startswith("R2 ")
    np.testing.assert_allclose(values, 1000 + 3.5 * np.arange(40), atol=20)


def test_named_data_can_be_predicted(run, report):
    shown = report("wine", "--epochs", 5 // SHORTER, "--save", "wine.npz")
    status, out, err = run("predict", "wine.npz", "wine")
    scores = {"accuracy": "accuracy", "log loss": "log_loss", "ROC AUC": "roc_auc"}
    assert status == 0
    assert err == "".join(f"{name} {shown['test_' + score]:.3f} on 36 rows\n" for name, score in scores.items())
    assert set(out.split()) <= {"class_0", "class_1", "class_2"}


@pytest.mark.parametrize("with_rich", [True, False])
def test_tables(run, monkeypatch, with_rich):
    find_spec = importlib.util.find_spec
    if not with_rich:
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "rich" else find_spec(name))
    status, out, err = run("train", "breast_cancer", "--epochs", 3, "--batch-size", "full")
    assert (status, err) == (0, "")
    assert ("─" in out) == with_rich
    for text in (
        "breast_cancer: 30-128-128-1 with biases, float32\n",
        "epoch",
        "log loss, soft labels",
        "validation accuracy",
        "30 numbers",
        "456 training rows",
        "113 test rows",
        "constant guess",
        "ROC AUC",
        "0.628",
    ):
        assert text in out
    status, out, err = run("train", "iris", "--epochs", 3, "--compare")
    for text in (
        "iris: 4-2-3 without biases, float64\n",
        "epoch",
        "mse",
        "half the mean of squared errors",
        "130 training rows",
        "20 test rows",
        "epochs/s",
        "samples/s",
        "numpy reference",
        "speed-up",
    ):
        assert text in out


@pytest.mark.parametrize("name", ["iris", "diabetes"])
def test_plot(run, name, tmp_path):
    status, out, _ = run("train", name, "--epochs", 5, "--batch-size", "full", "--plot")
    assert status == 0
    assert f"{name}.png" in out
    assert (tmp_path / f"{name}.png").read_bytes().startswith(PNG)


def test_plot_needs_matplotlib(run, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert run("train", "iris", "--plot") == (
        2,
        "",
        "fastbp: error: --plot needs matplotlib: pip install 'fastbp[cli]'\n",
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("", "required: COMMAND"),
        ("fly", "invalid choice: 'fly'"),
        ("train", "required: DATA"),
        ("train nothing", "DATA must be xor, iris, digits, .* or a file with a table, got 'nothing'"),
        ("train flowers.csv", "--target COLUMN is needed to train on flowers.csv"),
        ("train flowers.csv --target x", "target must be a column of flowers.csv .* got 'x'"),
        ("train iris --target x", "--target is for files, got 'x' with iris"),
        ("train iris --epochs 0", "--epochs: must be a whole number > 0, got '0'"),
        ("train iris --hidden 10000000000000", "out of memory: Unable to allocate"),
        ("train iris --hidden 3,x", "--hidden: must be a whole number > 0, got 'x'"),
        ("train iris --lr nan", "learning_rate must be finite, got nan"),
        ("train iris --lr=-1", "learning_rate must be > 0, got -1"),
        ("train iris --batch-size 131", "batch_size must be at most the number of rows, 130, got 131"),
        ("train iris --seed -1", "--seed: must be a whole number >= 0, got '-1'"),
        ("train iris --dtype float16", "--dtype: invalid choice: 'float16'"),
        ("train iris --reduction max", "--reduction: invalid choice: 'max'"),
        ("train iris --save none/model.npz", "--save must name a file in an existing folder, got 'none/model.npz'"),
        ("train iris --save .", "--save must name a file, got '.'"),
        ("train iris --plot iris.txt", "--plot must name a file ending in .png, .pdf, .svg, got 'iris.txt'"),
        ("predict none.npz iris", "none.npz: No such file or directory"),
        ("predict flowers.csv iris", "flowers.csv is not a fastbp model file, or is damaged"),
    ],
)
def test_bad_arguments(run, flowers, arguments, message):
    status, out, err = run(*arguments.split())
    assert (status, out) == (2, "")
    assert err.count("\n") == 1
    assert "error: " in err
    assert re.search(message, err)


@pytest.mark.parametrize("command", ["train", "predict"])
def test_help_has_an_example(run, command):
    status, out, _ = run(command, "--help")
    assert status == 0
    assert f"example:\n  fastbp {command} " in out


def test_help_names_every_data_set():
    assert cli.DATA_HELP.removesuffix(", or a file with a table").split(", ") == list(datasets.NAMES)


def test_version(run):
    assert run("--version") == (0, "fastbp 0.1.0\n", "")


def test_ctrl_c_keeps_what_was_learned(run, monkeypatch):
    advance, calls = training.Run.advance, []

    def interrupted_advance(self, blocks):
        calls.append(blocks)
        if len(calls) > 2:
            raise KeyboardInterrupt
        advance(self, min(blocks, 9))

    monkeypatch.setattr(training.Run, "advance", interrupted_advance)
    status, out, err = run("train", "wine", "--batch-size", 16, "--save", "wine.npz", "--json")
    assert status == 130
    assert err == "fastbp: warning: Training interrupted by user.\n"
    shown = json.loads(out)
    assert shown["interrupted"] is True
    assert 0 < shown["epochs"] < 200
    assert run("predict", "wine.npz", "wine")[2].startswith(f"accuracy {shown['test_accuracy']:.3f} on 36 rows\n")


def test_a_column_called_interrupted_interrupts_nothing(run, tmp_path):
    path = tmp_path / "machines.csv"
    path.write_text("interrupted,speed,kind\n" + "".join(f",{n},{'ab'[n % 2]}\n" for n in range(20)))
    status, out, err = run("train", path, "--target", "kind", "--epochs", 2, "--json")
    assert "column 'interrupted'" in err
    assert (status, json.loads(out)["interrupted"]) == (0, False)


def test_ctrl_c_elsewhere_leaves_one_line(run, monkeypatch):
    def interrupt(name):
        raise KeyboardInterrupt

    monkeypatch.setattr(datasets, "load_named", interrupt)
    assert run("train", "iris") == (130, "", "fastbp: error: interrupted\n")


@pytest.mark.parametrize("arguments", [("train", "xor", "--epochs", "5"), ("train", "xor", "--json"), ("info",)])
def test_a_broken_pipe_leaves_no_traceback(arguments):
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "fastbp", *arguments]
    # what is written stays in a buffer at first
    environment = os.environ | {"PYTHONPATH": str(Path(cli.__file__).parent.parent), "PYTHONUNBUFFERED": ""}
    ended = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, check=False, env=environment)
    os.close(writing)
    assert ended.returncode == 141
    assert ended.stderr == ""


@pytest.mark.parametrize("length", [1, 2, 9, 10, 11, 99, 5000])
def test_milestones_span_the_run(length):
    history = History(np.ones((length, len(RECORD))), weight=1, n_outputs=1, rule=Rule())
    epochs = [row["epoch"] for row in cli._milestones(history.columns())]
    assert epochs == sorted(set(epochs))
    assert (epochs[0], epochs[-1]) == (1, length)
    assert len(epochs) <= 2 * cli.MILESTONES


def contents(folder):
    return {path.name: (path.lstat().st_ino, path.lstat().st_mtime_ns, path.lstat().st_mode) for path in folder.iterdir()}


def test_looking_whether_a_file_can_be_written_changes_nothing(tmp_path):
    (tmp_path / "old").write_text("old")
    for name, target in (("dangling", "missing"), ("link", "old")):
        (tmp_path / name).symlink_to(target)
    for name in ("new", "old", "dangling", "link"):
        before = contents(tmp_path)
        check_output("--save", name)
        assert contents(tmp_path) == before


def test_a_model_is_saved_where_a_link_points(run, tmp_path):
    for option, name in (("--save", "model.npz"), ("--plot", "curve.png")):
        (tmp_path / f"link-{name}").symlink_to(name)
        assert run("train", "xor", "--epochs", "2", option, f"link-{name}")[0] == 0
        assert (tmp_path / f"link-{name}").is_symlink()
        assert (tmp_path / name).stat().st_size > 0
    assert len(list(tmp_path.iterdir())) == 4


GIVEN = {
    "--activation": ("activation", "tanh"),
    "--solver": ("solver", "sgd"),
    "--dropout": ("dropout", 0.25),
    "--alpha": ("alpha", 0.01),
    "--patience": ("n_iter_no_change", 7),
    "--class-weight": ("class_weight", "balanced"),
    "--seconds": ("max_seconds", 60.0),
    "--n-jobs": ("n_jobs", 1),
    "--batch-size": ("batch_size", 16),
    "--epochs": ("max_iter", 2),
}


def test_options_are_parameters_of_the_estimators(run, report):
    assert {option for option, _ in cli.TABLE_OPTIONS.values()} < GIVEN.keys()
    given = [str(part) for option, (_, value) in GIVEN.items() for part in (option, value)]
    report("wine", *given, "--save", "wine.npz")
    model = fastbp.load("wine.npz")
    for parameter, value in GIVEN.values():
        assert getattr(model, parameter) == value
    for option, (_, value) in GIVEN.items():
        if option not in ("--batch-size", "--epochs"):
            status, out, err = run("train", "xor", option, value)
            assert (status, out, err) == (2, "", f"fastbp: error: {option} is for tables, got it with xor\n")
    status, out, err = run("train", "diabetes", "--class-weight", "balanced")
    assert (status, out) == (2, "")
    assert "--class-weight is for classes, but 'target' holds numbers" in err


def test_a_solver_without_epochs(run, report):
    shown = report("wine", "--solver", "lbfgs", "--epochs", 5)
    assert (shown["epochs"], shown["milestones"]) == (5, [])
    assert run("train", "wine", "--solver", "lbfgs", "--epochs", 5)[0] == 0
    assert "--plot draws epochs, of which --solver lbfgs has none" in run("train", "wine", "--solver", "lbfgs", "--plot")[2]


@pytest.mark.parametrize("name", ["wine", "breast_cancer"])
def test_scores_of_classes(report, name):
    shown = report(name, "--epochs", 2, "--save", "model.npz")
    model, data = fastbp.load("model.npz"), datasets.load_named(name)
    chances, truth = model.predict_proba(data.X_test).astype(float), data.y_test
    places = [model.classes_.tolist().index(label) for label in truth]
    assert shown["test_log_loss"] == pytest.approx(-np.log(chances[np.arange(len(truth)), places]).mean(), rel=1e-5)
    areas = []
    for place, label in enumerate(model.classes_):
        inside, outside = chances[truth == label, place], chances[truth != label, place]
        difference = inside[:, np.newaxis] - outside
        areas.append(np.mean((difference > 0) + 0.5 * (difference == 0)))
    assert shown["test_roc_auc"] == pytest.approx(np.mean(areas))
    shares = np.array([np.mean(data.y_train == label) for label in model.classes_])
    assert shown["baseline_log_loss"] == pytest.approx(-np.log(shares[places]).mean())
    predicted, counts = model.predict(data.X_test), shown["confusion"]["counts"]
    for row, right in zip(counts, shown["confusion"]["classes"], strict=True):
        assert row == [int(np.sum((truth == right) & (predicted == guess))) for guess in shown["confusion"]["classes"]]


def test_scores_of_values(report):
    shown = report("diabetes", "--epochs", 2, "--save", "model.npz")
    model, data = fastbp.load("model.npz"), datasets.load_named("diabetes")
    for part, guess in (("test", model.predict(data.X_test)), ("baseline", data.y_train.mean())):
        error = data.y_test - guess
        assert shown[f"{part}_rmse"] == pytest.approx(np.sqrt(np.mean(error**2)))
        assert shown[f"{part}_mae"] == pytest.approx(np.mean(np.abs(error)))


def test_the_report_says_what_was_used(run, tmp_path):
    rng = np.random.default_rng(0)
    rows = [f"{i},{rng.normal():.3f},{'red' if i % 3 else 'blue'},{np.exp(3 * rng.normal()):.4f}" for i in range(200)]
    (tmp_path / "prices.csv").write_text("\n".join(["id,size,colour,price", *rows]))
    status, out, _ = run("train", "prices.csv", "--target", "price", "--epochs", 2, "--seed", 5)
    assert status == 0
    shown = " ".join(out.split())
    for text in ("1 number: size", "1 category: colour", "id: it numbers the rows", "160 rows to train on, 40 to test"):
        assert text in shown
    for text in ("seed 5", "RMSE", "MAE", "constant guess", "hint: 'price' is skewed"):
        assert text in shown
    _, out, _ = run("train", "wine", "--epochs", 2)
    assert "true \\ predicted" in out
    assert "hint" not in out


def test_much_learnt_by_heart_and_rare_classes_get_a_hint(report, tmp_path):
    rng = np.random.default_rng(0)
    rows = [f"{','.join(f'{x:.3f}' for x in rng.normal(size=20))},{rng.integers(2)}" for _ in range(90)]
    (tmp_path / "noise.csv").write_text("\n".join([f"{','.join(f'x{i}' for i in range(20))},answer", *rows]))
    shown = report("noise.csv", "--target", "answer")
    assert any("overfitting" in hint for hint in shown["hints"]) == (shown["train_accuracy"] - shown["test_accuracy"] > 0.15)
    assert shown["train_accuracy"] > 0.9
    rows = [f"{rng.normal():.3f},{'yes' if i % 20 == 0 else 'no'}" for i in range(200)]
    (tmp_path / "rare.csv").write_text("\n".join(["x,answer", *rows]))
    assert "95% of the rows are 'no'" in report("rare.csv", "--target", "answer", "--epochs", 2)["hints"][0]


def test_the_model_is_saved_before_it_is_scored(run, monkeypatch):
    def interrupt(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "_scores", interrupt)
    assert run("train", "wine", "--epochs", 2, "--save", "wine.npz")[0] == 130
    assert fastbp.load("wine.npz").n_iter_ == 2


def test_classes_that_look_like_markup(run):
    Path("m.csv").write_text("x,y,k\n" + "1,2,[/b]\n3,4,[red]\n" * 10)
    status, out, err = run("train", "m.csv", "--target", "k", "--epochs", 3)
    assert (status, err) == (0, "")
    assert "[/b]" in out
    assert "[red]" in out


@pytest.mark.parametrize("command", [["train", "-", "--target", "y"], ["predict", "xor.npz", "-"]])
def test_closed_standard_input(run, monkeypatch, command):
    run("train", "xor", "--epochs", 1, "--save", "xor.npz")
    monkeypatch.setattr("sys.stdin", None)
    status, out, err = run(*command)
    assert (status, out) == (2, "")
    assert "standard input, which is closed" in err


def test_names_with_commas_are_quoted(run):
    Path("t.csv").write_text('"a,b",c,y\n' + "1,2,3.5\n2,1,0.5\n4,1,1.25\n" * 4)
    status, _, err = run("train", "t.csv", "--target", "y", "--ignore", '"a,b"', "--epochs", 1, "--json")
    assert (status, err) == (0, "")
    Path("t.csv").write_text('a,"k\nz",y\n' + "1,2,3.5\n2,1,0.5\n4,1,1.25\n" * 4)
    assert run("train", "t.csv", "--target", "y", "--ignore", "k\nz", "--epochs", 1, "--json")[0] == 0
    assert "must be names between commas" in run("train", "t.csv", "--target", "y", "--ignore", '"a')[2]


def test_standard_error_that_takes_nothing(run, monkeypatch):
    class Full(io.StringIO):
        def write(self, text):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr("sys.stderr", Full())
    assert cli.main(["train", "nosuch"]) == 2
