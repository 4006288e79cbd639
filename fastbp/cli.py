"""The command line: ``fastbp train``, ``predict``, scripts with fastbp's networks; `profiling.commands` adds the rest.

Only the standard library is imported at the top, so that ``--help`` and a mistyped option answer at once.
"""

import argparse
import contextlib
import csv
import io
import json
import math
import os
import sys
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from fastbp import __version__
from fastbp import arguments as options
from fastbp.profiling import commands
from fastbp.tables import Table, printable

if TYPE_CHECKING:
    from fastbp.datasets import Dataset

EXIT_INTERRUPTED = 130
EXIT_BROKEN_PIPE = 141

MILESTONES = 10

COMMANDS = ("train", "predict", "profile", "sweep", "info", "warmup")
DATA_HELP = "xor, iris, digits, wine, breast_cancer, diabetes, or a file with a table"
PLURALS = {"number": "numbers", "boolean": "booleans", "category": "categories"}
SCORES = {"accuracy": "accuracy", "log_loss": "log loss", "roc_auc": "ROC AUC", "r2": "R2", "rmse": "RMSE", "mae": "MAE"}
MOST_NAMES, MOST_CLASSES = 6, 10
MUCH_SKEW, MUCH_OVERFITTING, COMMON = 2, 0.15, 0.9
# Options for tables, by the estimators' parameter, and what the parser is told.
TABLE_OPTIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "activation": ("--activation", {"metavar": "NAME", "help": "of the hidden layers, such as selu, relu or tanh"}),
    "solver": ("--solver", {"choices": ("adam", "sgd", "lbfgs"), "help": "how weights are updated"}),
    "dropout": ("--dropout", {"type": float, "metavar": "P", "help": "probability of leaving a hidden unit out of a step"}),
    "alpha": ("--alpha", {"type": float, "metavar": "A", "help": "strength of the L2 penalty"}),
    "n_iter_no_change": ("--patience", {"type": options.positive, "metavar": "N", "help": "epochs to wait for improvement"}),
    "class_weight": ("--class-weight", {"choices": ("balanced",), "help": "give rare classes the weight of common ones"}),
    "max_seconds": ("--seconds", {"type": float, "metavar": "S", "help": "end the training after so long"}),
    "n_jobs": ("--n-jobs", {"type": int, "metavar": "N", "help": "threads, -1 for all processors"}),
}
# What other options are called as parameters.
PARAMETERS = {
    "hidden": "hidden_layer_sizes", "epochs": "max_iter", "learning_rate": "learning_rate_init", "ensemble": "n_estimators"
}  # fmt: skip


def main(argv: list[str] | None = None) -> int:
    """Run the command line; what a script raises, SystemExit included, goes through.

    Parameters
    ----------
    argv : list of str or None, default=None
        A command or a script, and its arguments; None takes those of the process.

    Returns
    -------
    int
        0 for success, 2 for bad arguments or files, 130 after Ctrl-C, and 141 when whoever read standard output went away.
    """
    argv = sys.argv[1:] if argv is None else argv
    for stream in filter(None, (sys.stdout, sys.stderr)):
        # class names that a terminal cannot show are escaped; what tests put in the place of streams may not know how
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    if argv and argv[0].endswith(".py"):
        # what goes wrong in a script is shown as Python shows it
        return _run_script(argv[0], argv[1:])
    try:
        try:
            _check_command(argv)
            arguments = _parser().parse_args(argv)
            return arguments.run(arguments)
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()
    except BrokenPipeError:
        _drop_output()
        return EXIT_BROKEN_PIPE
    except KeyboardInterrupt:
        return _complain("interrupted", EXIT_INTERRUPTED)
    except OSError as error:
        try:
            if sys.stdout is not None:
                sys.stdout.flush()
        except OSError:
            _drop_output()
        return _complain(f"{error.filename}: {error.strerror}" if error.filename else str(error))
    except MemoryError as error:
        return _complain(f"out of memory: {error}")
    except (ImportError, ValueError) as error:
        return _complain(str(error))


def _drop_output() -> None:
    """Let what standard output cannot take go nowhere: the interpreter flushes once more on its way out."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _complain(message: str, status: int = options.EXIT_USAGE) -> int:
    _say(f"fastbp: error: {' '.join(message.split())}")
    return status


def _say(line: str) -> None:
    """Print a line on standard error, if there is one."""
    if sys.stderr is not None:
        with contextlib.suppress(OSError):  # there is nowhere else to say it
            print(printable(line), file=sys.stderr)


def _has_terminal() -> bool:
    return sys.stderr is not None and sys.stderr.isatty()


def _check_command(argv: list[str]) -> None:
    """Refuse what is no command, where it can be said what was meant."""
    if not argv or argv[0].startswith("-") or argv[0] in COMMANDS:
        return
    if os.path.isfile(argv[0]):
        raise ValueError(f"{argv[0]!r} is no command: did you mean fastbp train {argv[0]} --target COLUMN?")
    if meant := options.did_you_mean(argv[0], COMMANDS):
        raise ValueError(f"{argv[0]!r} is no command{meant}")


# ---- scripts ---------------------------------------------------------------------------------------------------------


def _run_script(script: str, arguments: list[str]) -> int:
    """Run a script as ``python script.py`` does, with fastbp's networks in the place of scikit-learn's."""
    if not os.path.isfile(script):
        return _complain(f"no such script: {script}")
    from fastbp.estimators.interchange import patch_sklearn

    patch_sklearn()
    sys.argv = [script, *arguments]
    if not sys.flags.safe_path:
        sys.path[0] = os.path.dirname(os.path.realpath(script))
    with io.open_code(os.path.realpath(script)) as stream:
        code = compile(stream.read(), script, "exec", dont_inherit=True)
    # a module that stays, for what the script has defined may be asked for until Python ends
    sys.modules["__main__"] = module = ModuleType("__main__")
    module.__file__ = script
    exec(code, vars(module))
    return 0


# ---- arguments -------------------------------------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    parser = options.Parser(
        prog="fastbp",
        description="Train multi-layer perceptrons in compiled CPU loops.",
        epilog="fastbp SCRIPT.py [ARGUMENT...] runs a Python script with fastbp's networks in the place of scikit-learn's.",
    )
    parser.add_argument("--version", action="version", version=f"fastbp {__version__}")
    subparsers = parser.add_subparsers(metavar="COMMAND", required=True)
    _add_train(subparsers)
    _add_predict(subparsers)
    commands.add_commands(subparsers)
    return parser


def _add_train(subparsers) -> None:
    add = commands.new_command(
        subparsers, _train, "train a network and show how it went",
        "example:\n  fastbp train flowers.csv --target species --hidden 16,8 --save flowers.npz",
        "Train a network on a table of your own or a named data set, and show how it went.\n"
        "For a table, what is not given is that of fastbp.TabularClassifier or TabularRegressor. xor and iris are two\n"
        "founding networks, sigmoid units by plain gradient descent: lessons rather than models.",
        # an option that was not given leaves presets and defaults alone
        argument_default=argparse.SUPPRESS,
    )  # fmt: skip
    add("data", metavar="DATA", help=DATA_HELP)
    commands.add_reading(add)
    add("--hidden", type=options.sizes, metavar="N[,N...]", help="units of the hidden layers")
    add("--epochs", type=options.positive, metavar="N", help="passes over the training rows, at most")
    add("--lr", type=float, metavar="RATE", dest="learning_rate", help="learning rate")
    add("--batch-size", type=options.batch_size, metavar="N", help="rows per update, or 'full'")
    for parameter, (option, settings) in TABLE_OPTIONS.items():
        add(option, dest=parameter, **settings | {"help": f"{settings['help']} (tables)"})
    add("--ensemble", type=options.positive, metavar="N", help="networks, whose predictions are averaged (tables)")
    add("--reduction", choices=("sum", "mean"), help="how a batch's gradients are combined (xor, iris)")
    add("--bias", action=argparse.BooleanOptionalAction, help="give every unit a bias (xor, iris)")
    add("--dtype", choices=commands.DTYPES, help="default: float32 for tables, else float64")
    seed = "seed of the initial weights and row order (default: 0)"
    add("--seed", type=options.seed, metavar="N", default=0, help=seed)
    add("--restarts", type=options.positive, metavar="N", help="networks, of which the best is kept (xor, iris)")
    add("--compare", action="store_true", default=False, help="time plain numpy as well (xor, iris)")
    add("--plot", nargs="?", const="", metavar="FILE.png", help="draw the curves (default: DATA.png)")
    add("--save", metavar="FILE.npz", default=None, help="keep the trained network for fastbp predict")
    add("--checkpoint", metavar="FILE", default=None, help="keep the training as it stands, once a minute (tables)")
    add("--resume", action="store_true", default=False, help="go on from the file of --checkpoint")


def _add_predict(subparsers) -> None:
    add = commands.new_command(
        subparsers, _predict, "apply a saved network to new rows",
        "example:\n  fastbp predict flowers.npz new_flowers.csv > species.txt",
        "Print one prediction for each row, and on standard error the score where the answers are known.",
    )  # fmt: skip
    add("model", metavar="MODEL", help="a file that fastbp train --save wrote")
    add("data", metavar="DATA", help="a file with a table, or a named data set for its held-out rows")
    add("--header", action=argparse.BooleanOptionalAction, help="the first line has the columns' names")
    add("--proba", action="store_true", help="print the probabilities of all classes, under their names")


# ---- train -----------------------------------------------------------------------------------------------------------


def _train(arguments: argparse.Namespace) -> int:
    _check_outputs(arguments)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        try:
            data = commands.load(arguments)
            from fastbp.lessons import PRESETS
            from fastbp.training import InterruptedWarning

            train = _train_lesson if arguments.data in PRESETS else _train_table
            report, curves = train(data, arguments)
        finally:
            for warning in caught:
                _say(f"fastbp: warning: {warning.message}")
    report = {"data": data.name, "task": "classification" if data.class_names else "regression"} | report
    report["interrupted"] = any(issubclass(warning.category, InterruptedWarning) for warning in caught)
    if arguments.save:
        report["save"] = arguments.save
    if "plot" in arguments:
        _plot(curves, data.name, report["loss"], arguments.plot)
        report["plot"] = arguments.plot
    if arguments.json:
        print(json.dumps(report, allow_nan=False))
    else:
        _show(report)
    return EXIT_INTERRUPTED if report["interrupted"] else 0


def _check_outputs(arguments: argparse.Namespace) -> None:
    """Refuse before the training what would fail after it, or overwrite something."""
    if "plot" in arguments:
        if vars(arguments).get("solver") == "lbfgs":
            raise ValueError("--plot draws epochs, of which --solver lbfgs has none")
        arguments.plot = arguments.plot or f"{Path(arguments.data).stem}.png"
        options.check_picture("--plot", arguments.plot)
    names = ("plot", "save", "checkpoint")
    outputs = {option: vars(arguments)[option] for option in names if vars(arguments).get(option) is not None}
    for option, path in outputs.items():
        options.check_output(f"--{option}", path, arguments.data)
    options.check_different(outputs)
    if arguments.resume and arguments.checkpoint is None:
        raise ValueError("--resume goes on from the file of --checkpoint, got it alone")
    if arguments.checkpoint is not None and os.path.exists(arguments.checkpoint) != arguments.resume:
        there = "there is none" if arguments.resume else "it is there: --resume goes on from it"
        raise ValueError(f"--checkpoint {arguments.checkpoint}: {there}")


def _train_lesson(data: "Dataset", arguments: argparse.Namespace) -> tuple[dict[str, Any], dict[str, Any]]:
    """A report, and curves by name with the epoch first."""
    from fastbp.lessons import PRESETS, new_model, restarts_of, save_model, trained

    if arguments.checkpoint is not None:
        raise ValueError(f"--checkpoint is for tables, got it with {arguments.data}")
    for parameter, option in {"ensemble": "--ensemble", **{name: one for name, (one, _) in TABLE_OPTIONS.items()}}.items():
        if parameter in arguments:
            raise ValueError(f"{option} is for tables, got it with {arguments.data}")
    given, preset = vars(arguments), PRESETS[data.name]
    settings = preset | {name: given[name] for name in preset if name in given}
    seeds = range(arguments.seed, arguments.seed + given.get("restarts", 1))
    models = [new_model(data, settings, dtype=given.get("dtype", "float64"), random_state=seed) for seed in seeds]
    how = {name: settings[name] for name in ("batch_size", "reduction")} | {"shuffle": settings["batch_size"] is not None}
    best, histories = trained(models, data, settings["epochs"], settings["learning_rate"], progress=_has_terminal(), **how)
    model, history = models[best], histories[best]
    net, rows = model.net, (model.inputs(data.X_train), model.targets(data.y_train))
    if arguments.save:
        # before anything that an interrupt could end
        save_model(arguments.save, model)
    report = {"units": net.units, "bias": net.bias, "dtype": net.dtype.name,
              **{name: settings[name] for name in ("learning_rate", "batch_size", "reduction")}, "seed": seeds[best],
              "train_rows": len(data.X_train), "test_rows": len(data.X_test), "epochs": len(history),
              "loss": f"half the {settings['reduction']} of squared errors",
              "milestones": _milestones(history.columns())}  # fmt: skip
    report["train_accuracy"] = model.accuracy(data.X_train, data.y_train)
    if len(data.X_test):
        report["test_accuracy"] = model.accuracy(data.X_test, data.y_test)
    else:
        # with nothing held out, the outputs themselves are the thing to look at
        report["outputs"] = net.feedforward(rows[0])[:, 0].tolist()
    if arguments.compare and len(history) == settings["epochs"]:
        from fastbp.profiling.rivals import throughput

        untrained = new_model(data, settings, dtype=net.dtype, random_state=seeds[best]).net
        report |= throughput(untrained, *rows, settings["learning_rate"], **how)
    if len(models) > 1:
        report |= {"restarts": len(models), "ends": restarts_of(models, data, histories)}
    return report, history.columns()


def _train_table(data: "Dataset", arguments: argparse.Namespace) -> tuple[dict[str, Any], dict[str, Any]]:
    """The same of a network of a table."""
    import numpy as np

    from fastbp.estimators.tabular import TabularClassifier, TabularRegressor

    _check_table_options(data, arguments)
    given = {PARAMETERS.get(option, option): value for option, value in vars(arguments).items()}
    kind = TabularClassifier if data.class_names else TabularRegressor
    parameters = {name: given[name] for name in kind().get_params() if name in given}
    est = kind(random_state=arguments.seed, **parameters)
    est.fit(data.X_train, data.y_train, progress=_has_terminal(), checkpoint=arguments.checkpoint)
    est.table_ = data.table
    network, columns = est.network_, est.preprocessing_
    # the file is one table, whatever rows are held out
    columns.learn_words(data.X_test)
    if arguments.save:
        # before anything that an interrupt could end
        est.save(arguments.save)
    # solver lbfgs has no epochs
    losses, scores = (np.array(getattr(network, name, None) or []) for name in ("loss_curve_", "validation_scores_"))
    curves = {"epoch": np.arange(1, len(losses) + 1), "loss": losses}
    if len(scores):
        curves["validation accuracy" if data.class_names else "validation R2"] = scores
    kinds = {str(name): kind for name, kind in columns.kinds_.items()}
    report = {"units": [network.n_features_in_, *(len(b) for b in network.intercepts_)], "bias": True, "dtype": est.dtype,
              "learning_rate": est.learning_rate_init, "batch_size": network.batch_size, "seed": arguments.seed,
              "columns": dict(Counter(kinds.values())), "used": kinds, "left_out": columns.left_out_,
              "train_rows": len(data.X_train), "test_rows": len(data.X_test), "epochs": est.n_iter_,
              # which is that of the training rows
              "loss": "log loss, soft labels" if data.class_names else "half squared error, standardised",
              "milestones": _milestones(curves)}  # fmt: skip
    if est.n_estimators > 1:
        report["networks"] = len(est.networks_)
    report |= _all_scores(est, data)
    report["hints"] = _hints(report, data)
    return report, curves


def _check_table_options(data: "Dataset", arguments: argparse.Namespace) -> None:
    """Refuse what is not for tables, or not for this one; a full batch becomes a number of rows."""
    for option in ("reduction", "bias", "restarts"):
        if option in arguments:
            raise ValueError(f"--{option} is for xor and iris, got it with {arguments.data}")
    if arguments.compare:
        raise ValueError(f"--compare is for xor and iris, got it with {arguments.data}; see fastbp profile")
    if "class_weight" in arguments and not data.class_names:
        raise ValueError(f"--class-weight is for classes, but {data.table['target']!r} holds numbers")
    if "batch_size" in arguments:
        n_rows = len(data.X_train)
        arguments.batch_size = n_rows if arguments.batch_size is None else arguments.batch_size
        if arguments.batch_size > n_rows:
            raise ValueError(f"--batch-size must be at most the number of rows, {n_rows}, got {arguments.batch_size}")


def _all_scores(est: Any, data: "Dataset") -> dict[str, Any]:
    """Scores on both parts of the rows, those of guessing the same for every row, and which classes were taken for which."""
    from sklearn.dummy import DummyClassifier, DummyRegressor
    from sklearn.metrics import confusion_matrix

    found = {"train": _scores(data.y_train, *_predicted(est, data.X_train))}
    confusion: dict[str, Any] = {}
    if len(data.X_test):
        predicted = _predicted(est, data.X_test)
        guess = (DummyClassifier() if data.class_names else DummyRegressor()).fit(data.X_train, data.y_train)
        found["test"] = _scores(data.y_test, *predicted)
        found["baseline"] = _scores(data.y_test, *_predicted(guess, data.X_test))
        if 0 < len(data.class_names) <= MOST_CLASSES:
            names = list(data.class_names)
            counts = confusion_matrix(data.y_test, predicted[0], labels=names).tolist()
            confusion["confusion"] = {"classes": names, "counts": counts}
    return {f"{part}_{name}": value for part, scores in found.items() for name, value in scores.items()} | confusion


def _hints(report: dict[str, Any], data: "Dataset") -> list[str]:
    """Advice where the target is skewed, or the model learnt its rows by heart."""
    hints, score, y = [], "accuracy" if data.class_names else "r2", data.y_train
    if data.class_names:
        ((common, count),) = Counter(y).most_common(1)
        if (share := count / len(y)) > COMMON:
            hints.append(f"{share:.0%} of the rows are {common!r}: look at the log loss, and try --class-weight balanced")
    elif y.min() > 0 and ((y - y.mean()) ** 3).mean() > MUCH_SKEW * y.std() ** 3:
        target = data.table["target"]
        hints.append(f"{target!r} is skewed, a few values are very large: its logarithm may be easier to learn")
    train, test = report[f"train_{score}"], report.get(f"test_{score}")
    if None not in (train, test) and train - test > MUCH_OVERFITTING:
        hints.append(
            "the training rows are predicted much better than others (overfitting): try --dropout 0.2, or less --hidden"
        )
    return hints


def _milestones(curves: dict[str, Any]) -> list[dict[str, float]]:
    """About `MILESTONES` evenly spaced epochs, the first and the last."""
    length = len(curves["epoch"])
    step = max(1, length // MILESTONES)
    chosen = sorted({0, *range(step - 1, length, step), length - 1}) if length else []
    return [{name: values[row].item() for name, values in curves.items()} for row in chosen]


def _plot(curves: dict[str, Any], name: str, loss: str, path: str) -> None:
    from fastbp.history import draw
    from fastbp.profiling.pictures import new_figure, save_picture

    epoch, shown = curves["epoch"], {curve: values for curve, values in curves.items() if curve not in ("epoch", "mse")}
    figure = new_figure(5 * len(shown), 4)
    draw(figure.subplots(1, len(shown), squeeze=False)[0], epoch, shown, loss)
    figure.suptitle(name)
    save_picture(figure, path)


# ---- tables ----------------------------------------------------------------------------------------------------------


def _show(report: dict[str, Any]) -> None:
    biases = "with" if report["bias"] else "without"
    print(printable(f"{report['data']}: {'-'.join(map(str, report['units']))} {biases} biases, {report['dtype']}"))
    if report["milestones"]:
        columns = [report["loss"] if column == "loss" else column for column in report["milestones"][0]]
        rows = [[f"{epoch:,}", *map("{:.6f}".format, values)] for epoch, *values in map(dict.values, report["milestones"])]
        Table(rows, columns).show()
    Table(_summary(report)).show()
    if "ends" in report:
        _ends_table(report).show()
    _scores_table(report).show()
    if "confusion" in report:
        classes, counts = report["confusion"].values()
        rows = [[name, *map(str, row)] for name, row in zip(classes, counts, strict=True)]
        Table(rows, ["true \\ predicted", *classes], "Test rows by class", words=1).show()
    for hint in report.get("hints", ()):
        print(printable(f"hint: {hint}"))


def _summary(report: dict[str, Any]) -> list[list[str]]:
    summary = []
    for kind in report.get("columns", {}):
        names = [name for name, one in report["used"].items() if one == kind]
        shown = ", ".join(names[:MOST_NAMES]) + (", ..." if len(names) > MOST_NAMES else "")
        summary.append(["columns", f"{len(names)} {kind if len(names) == 1 else PLURALS[kind]}: {shown}"])
    summary += [["left out", f"{name}: it {reason}"] for name, reason in report.get("left_out", {}).items()]
    if report["test_rows"]:
        summary.append(["split", f"{report['train_rows']} rows to train on, {report['test_rows']} to test, always the same"])
    if "networks" in report:
        summary.append(["networks", f"{report['networks']}, averaged; the curves are those of the first"])
    summary.append(["seed", str(report["seed"])])
    if "outputs" in report:
        summary.append(["outputs", " ".join(f"{value:.2f}" for value in report["outputs"])])
    if "speedup_over_numpy" in report:
        rates = f"{report['epochs_per_second']:,.0f} epochs/s, {report['samples_per_second']:,.0f} samples/s"
        summary.append(["speed", rates])
        rate, epochs = report["reference_epochs_per_second"], report["reference_epochs"]
        summary.append(["numpy reference", f"{rate:,.0f} epochs/s over {epochs:,} epochs"])
        summary.append(["speed-up", f"{report['speedup_over_numpy']:,.1f} times"])
    for key, name in (("plot", "picture"), ("save", "model")):
        if key in report:
            summary.append([name, report[key]])
    return summary


def _ends_table(report: dict[str, Any]) -> Table:
    """How many of the networks learnt how much."""
    heads = ["rows right", "networks", "least loss", "largest loss"]
    rows = [[_shown(end["train_accuracy"]), f"{end['networks']:,}", *(f"{end[f'{which}_loss']:.6f}" for which in
             ("least", "largest"))] if "networks" in end else ["diverged", f"{end['diverged']:,}", "", ""]
            for end in report["ends"]]  # fmt: skip
    return Table(rows, heads, f"{report['restarts']:,} networks, of which that of seed {report['seed']} was kept")


def _scores_table(report: dict[str, Any]) -> Table:
    """Scores on both parts of the rows, beside those of guessing the same for every row: the mean, or shares of classes."""
    heads = {"train": f"{report['train_rows']:,} training rows", "test": f"{report['test_rows']:,} test rows",
             "baseline": "constant guess"}  # fmt: skip
    parts = [part for part in heads if any(f"{part}_{score}" in report for score in SCORES)]
    rows = [[name] + [_shown(report[key]) if (key := f"{part}_{score}") in report else "" for part in parts]
            for score, name in SCORES.items()]  # fmt: skip
    return Table([row for row in rows if any(row[1:])], ["score", *(heads[part] for part in parts)], words=1)


def _shown(score: float | None) -> str:
    return "undefined" if score is None else f"{score:.3f}"


# ---- predict ---------------------------------------------------------------------------------------------------------


def _predict(arguments: argparse.Namespace) -> int:
    from fastbp.datasets import load_rows

    model, known, features, (text, mixed), classes = _model(arguments.model)
    if arguments.proba and not hasattr(model, "predict_proba"):
        raise ValueError(f"--proba needs a classifier of tables, got {arguments.model}")
    table, X, truth = load_rows(arguments.data, known, features, text, arguments.header, classes, mixed)
    with table.naming_lines() if table else contextlib.nullcontext():
        predictions, *chances = _predicted(model, X)
    found = {"target": known["target"], "predictions": predictions.tolist()}
    if arguments.proba:
        found |= {"classes": classes, "probabilities": chances[0].tolist()}
    scores: dict[str, float | None] = {}
    if truth is not None and (told := truth == truth).any():  # all but nan
        scores = _scores(truth[told], predictions[told], *((chances[0][told], classes) if chances else ()))
    if arguments.json:
        print(json.dumps(found | scores, allow_nan=False))
        return 0
    if arguments.proba:
        rows = csv.writer(sys.stdout, lineterminator="\n")
        rows.writerow(map(printable, classes))
        rows.writerows([f"{value:.6g}" for value in row] for row in found["probabilities"])
    else:
        for prediction in found["predictions"]:
            print(printable(str(prediction)))
    for name, value in scores.items():
        _say(f"{SCORES[name]} {_shown(value)} on {told.sum()} rows")
    return 0


def _model(path: str) -> tuple[Any, dict[str, Any], list[str], tuple[list[str], list[str]], list[str]]:
    """A model, what it knows of its table, columns that it reads, which of them as text or as mixed, and its classes."""
    import fastbp
    from fastbp import files, lessons

    with files.reading(path) as contents:
        is_network = contents.header.get("format") == files.NETWORK
    model: Any = (lessons.load_model if is_network else fastbp.load)(path)
    if is_network and model.feature_names:
        return model, {"target": model.target_name}, list(model.feature_names), ([], []), list(model.class_names)
    if getattr(model, "table_", None):
        columns = model.preprocessing_
        # those of numbers with words are read as text, too: what pandas makes of a column depends on all of its cells
        text = list(columns.categories_), list(columns.words_)
        return model, model.table_, list(columns.kinds_), text, list(getattr(model, "classes_", ()))
    raise ValueError(f"{path} holds a model that was trained in Python: fastbp.load reads it there")


def _predicted(model: Any, X: Any) -> tuple[Any, ...]:
    """Predictions of a model, and of one that has them the probabilities of its classes, and these."""
    if not hasattr(model, "predict_proba"):
        return (model.predict(X),)
    return model.predict(X), model.predict_proba(X), model.classes_


def _scores(truth: Any, predicted: Any, chances: Any = None, classes: Sequence[str] = ()) -> dict[str, float | None]:
    """Accuracy, log loss and ROC AUC (one class against the others, their mean), or R2, RMSE and MAE, where defined."""
    import numpy as np
    from sklearn import metrics

    if truth.dtype != object:
        with np.errstate(over="ignore", invalid="ignore"):  # of answers whose squares are beyond floats
            found = {"r2": metrics.r2_score(truth, predicted) if np.ptp(truth) > 0 else math.nan,
                     "rmse": metrics.root_mean_squared_error(truth, predicted),
                     "mae": metrics.mean_absolute_error(truth, predicted)}  # fmt: skip
        return {name: float(value) if math.isfinite(value) else None for name, value in found.items()}
    scores: dict[str, float | None] = {"accuracy": float(np.mean(truth == predicted))}
    if chances is not None and set(truth) <= set(classes):
        scores["log_loss"] = float(metrics.log_loss(truth, chances, labels=list(classes)))
        if set(truth) == set(classes):
            areas = [metrics.roc_auc_score(truth == one, chance) for one, chance in zip(classes, chances.T, strict=True)]
            scores["roc_auc"] = float(np.mean(areas))
    return scores
