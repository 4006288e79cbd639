"""The command line: ``fastbp train``, ``fastbp predict``, what `fastbp.measuring` adds, and scripts with fastbp's networks.

Only the standard library is imported at the top, so that ``--help`` and a mistyped option answer at once.
"""

import argparse
import copy
import io
import json
import math
import os
import sys
import warnings
from dataclasses import fields, replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from fastbp import __version__
from fastbp.arguments import EXIT_USAGE, Parser, batch_size, check_output, check_picture, positive, seed, sizes
from fastbp.measuring import add_commands
from fastbp.tables import Table

if TYPE_CHECKING:
    import numpy as np

    from fastbp.datasets import Dataset, Preset
    from fastbp.history import History
    from fastbp.model_file import Model
    from fastbp.neural_network import NeuralNetwork

EXIT_INTERRUPTED = 130
EXIT_BROKEN_PIPE = 141

MILESTONES = 10

DATA_HELP = "xor, iris, digits, wine, breast_cancer, diabetes, or a CSV file"


def main(argv: list[str] | None = None) -> int:
    """Run the command line and return its exit status; what a script raises, SystemExit included, goes through.

    Parameters
    ----------
    argv : list of str, optional
        The arguments, a command and its own or a script and its own; `sys.argv` without the program's name by default.

    Returns
    -------
    int
        0 for success, 2 for bad arguments or files, 130 after Ctrl-C, and 141 when whoever read standard output went
        away.
    """
    argv = sys.argv[1:] if argv is None else argv
    if argv and argv[0].endswith(".py"):
        # what goes wrong in a script is shown as Python shows it
        return _run_script(argv[0], argv[1:])
    try:
        try:
            arguments = _parser().parse_args(argv)
            return arguments.run(arguments)
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        # the interpreter flushes once more on its way out
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_BROKEN_PIPE
    except KeyboardInterrupt:
        return _complain("interrupted", EXIT_INTERRUPTED)
    except OSError as error:
        return _complain(f"{error.filename}: {error.strerror}" if error.filename else str(error), EXIT_USAGE)
    except (MemoryError, ValueError) as error:
        return _complain(str(error), EXIT_USAGE)


def _complain(message: str, status: int) -> int:
    print(f"fastbp: error: {' '.join(message.split())}", file=sys.stderr)
    return status


# ---- scripts ---------------------------------------------------------------------------------------------------------


def _run_script(script: str, arguments: list[str]) -> int:
    """Run a script as ``python script.py`` does, with fastbp's networks in the place of scikit-learn's."""
    if not Path(script).is_file():
        return _complain(f"no such script: {script}", EXIT_USAGE)
    from fastbp.interchange import patch_sklearn

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
    parser = Parser(
        prog="fastbp",
        description="Train multi-layer perceptrons in compiled CPU loops.",
        epilog="fastbp SCRIPT.py [ARGUMENT...] runs a Python script with fastbp's networks in the place of scikit-learn's.",
    )
    parser.add_argument("--version", action="version", version=f"fastbp {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    _add_train(commands)
    _add_predict(commands)
    add_commands(commands)
    return parser


def _add_train(commands) -> None:
    parser = commands.add_parser(
        "train",
        help="train a network and show how it went",
        description="Train a network on a named data set or a CSV file, and show how it went.\n"
        "What is not given is taken from a preset of the data set.",
        epilog="example:\n  fastbp train flowers.csv --target species --hidden 16,8 --save flowers.npz",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        # an option that was not given leaves the preset alone
        argument_default=argparse.SUPPRESS,
    )
    parser.set_defaults(run=_train)
    parser.add_argument("data", metavar="DATA", help=DATA_HELP)
    parser.add_argument("--target", metavar="COLUMN", default=None, help="the column of a CSV file to learn")
    parser.add_argument(
        "--task",
        choices=("auto", "classification", "regression"),
        default="auto",
        help="what the target holds (default: found out from the file)",
    )
    parser.add_argument("--hidden", type=sizes, metavar="N[,N...]", help="units of the hidden layers")
    parser.add_argument("--epochs", type=positive, metavar="N", help="passes over the training rows")
    parser.add_argument("--lr", type=float, metavar="RATE", dest="learning_rate", help="learning rate")
    parser.add_argument("--batch-size", type=batch_size, metavar="N", help="rows per update, or 'full'")
    parser.add_argument("--reduction", choices=("sum", "mean"), help="how the gradients of a batch are combined")
    parser.add_argument("--bias", action=argparse.BooleanOptionalAction, help="give every unit a bias")
    parser.add_argument("--dtype", choices=("float32", "float64"), default="float64", help="default: float64")
    parser.add_argument(
        "--seed", type=seed, metavar="N", default=0, help="seed of the initial weights and row order (default: 0)"
    )
    parser.add_argument("--plot", nargs="?", const="", metavar="FILE.png", help="draw loss and accuracy (default: DATA.png)")
    parser.add_argument("--save", metavar="FILE.npz", default=None, help="keep the trained network for fastbp predict")
    parser.add_argument("--json", action="store_true", default=False, help="print one JSON object and nothing else")


def _add_predict(commands) -> None:
    parser = commands.add_parser(
        "predict",
        help="apply a saved network to new rows",
        description="Print one prediction for each row, and on standard error the score where the answers are known.",
        epilog="example:\n  fastbp predict flowers.npz new_flowers.csv > species.txt",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=_predict)
    parser.add_argument("model", metavar="MODEL", help="a file that fastbp train --save wrote")
    parser.add_argument("data", metavar="DATA", help="a CSV file, or a named data set for its held-out rows")
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")


# ---- train -----------------------------------------------------------------------------------------------------------


def _train(arguments: argparse.Namespace) -> int:
    data, settings = _data_and_settings(arguments)
    _check_outputs(arguments)
    model = _new_model(data, settings, arguments)
    X, y = model.inputs(data.X_train), model.targets(data.y_train)
    untrained = copy.deepcopy(model.net)
    history, interrupted = _run(model.net, X, y, settings, progress=sys.stderr.isatty())
    report = _report(data, settings, model, history) | {"seed": arguments.seed, "interrupted": interrupted}
    if not interrupted:
        report |= _speed(untrained, X, y, settings)
    if arguments.save:
        from fastbp.model_file import save

        save(arguments.save, model)
        report["save"] = arguments.save
    if "plot" in arguments:
        _plot(history, data, arguments.plot)
        report["plot"] = arguments.plot
    if arguments.json:
        print(json.dumps(report, allow_nan=False))
    else:
        _show(report)
    return EXIT_INTERRUPTED if interrupted else 0


def _data_and_settings(arguments: argparse.Namespace) -> "tuple[Dataset, Preset]":
    from fastbp.datasets import CSV_PRESET, PRESETS, load_csv, load_named

    if arguments.data in PRESETS:
        if arguments.target is not None:
            raise ValueError(f"--target is for CSV files, got {arguments.target!r} with {arguments.data}")
        data, preset = load_named(arguments.data), PRESETS[arguments.data]
    else:
        if not Path(arguments.data).exists():
            raise ValueError(f"DATA must be {DATA_HELP}, got {arguments.data!r}")
        if arguments.target is None:
            raise ValueError(f"--target COLUMN is needed to train on {arguments.data}")
        data, preset = load_csv(arguments.data, arguments.target, arguments.task), CSV_PRESET
    given = {field.name: getattr(arguments, field.name) for field in fields(preset) if field.name in arguments}
    settings = replace(preset, **given)
    rows = len(data.X_train)
    # a preset's batch may be larger than a small file, a given one may not
    if "batch_size" not in given and settings.batch_size is not None and settings.batch_size > rows:
        settings = replace(settings, batch_size=rows)
    return data, settings


def _check_outputs(arguments: argparse.Namespace) -> None:
    """Refuse before the training what would fail after it."""
    if "plot" in arguments:
        arguments.plot = arguments.plot or f"{Path(arguments.data).stem}.png"
        check_picture("--plot", arguments.plot)
    for option in ("plot", "save"):
        if vars(arguments).get(option) is not None:
            check_output(f"--{option}", vars(arguments)[option])


def _new_model(data: "Dataset", settings: "Preset", arguments: argparse.Namespace) -> "Model":
    import numpy as np

    from fastbp.model_file import Model
    from fastbp.neural_network import NeuralNetwork

    n_inputs = data.X_train.shape[1]
    net = NeuralNetwork(
        n_inputs,
        settings.hidden,
        len(data.class_names) if len(data.class_names) > 2 else 1,
        bias=settings.bias,
        init_scale=n_inputs**-0.5 if settings.init_scale is None else settings.init_scale,
        dtype=arguments.dtype,
        random_state=arguments.seed,
    )
    mean, scale = np.zeros(n_inputs), np.ones(n_inputs)
    if settings.standardise:
        mean, scale = data.X_train.mean(axis=0), data.X_train.std(axis=0)
        scale[scale == 0] = 1
    model = Model(net, data.feature_names, data.target_name, data.class_names, mean, scale)
    if not data.class_names:
        # a logistic output reaches 0 to 1, so that is where the training targets go
        model.target_low, model.target_span = float(data.y_train.min()), float(np.ptp(data.y_train))
    return model


def _run(net: "NeuralNetwork", X, y, settings: "Preset", progress: bool) -> "tuple[History, bool]":
    """Train; return the history and whether Ctrl-C ended it."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        history = net.train(X, y, settings.epochs, settings.learning_rate, progress=progress, **_batches(settings))
    for warning in caught:
        print(f"fastbp: warning: {warning.message}", file=sys.stderr)
    return history, len(history) < settings.epochs


def _speed(untrained: "NeuralNetwork", X, y, settings: "Preset") -> dict[str, Any]:
    from fastbp.profiling import throughput

    measured = throughput(untrained, X, y, settings.epochs, settings.learning_rate, **_batches(settings))
    return {
        "epochs_per_second": measured.epochs_per_second,
        "samples_per_second": measured.samples_per_second,
        "reference_epochs": measured.reference_epochs,
        "reference_epochs_per_second": measured.reference_epochs_per_second,
        "speedup_over_numpy": measured.speedup,
    }


def _batches(settings: "Preset") -> dict[str, Any]:
    shuffle = settings.batch_size is not None
    return {"batch_size": settings.batch_size, "reduction": settings.reduction, "shuffle": shuffle}


def _report(data: "Dataset", settings: "Preset", model: "Model", history: "History") -> dict[str, Any]:
    score = "accuracy" if data.class_names else "r2"
    report = {
        "data": data.name,
        "task": "classification" if data.class_names else "regression",
        "units": model.net.units,
        "bias": model.net.bias,
        "dtype": model.net.dtype.name,
        "learning_rate": settings.learning_rate,
        "batch_size": settings.batch_size,
        "reduction": settings.reduction,
        "train_rows": len(data.X_train),
        "test_rows": len(data.X_test),
        "epochs": len(history),
        "milestones": _milestones(history, bool(data.class_names)),
        f"train_{score}": _known(model.score(data.X_train, data.y_train)),
    }
    if len(data.X_test):
        return report | {f"test_{score}": _known(model.score(data.X_test, data.y_test))}
    # with nothing held out, the outputs themselves are the thing to look at
    return report | {"outputs": model.net.feedforward(model.inputs(data.X_train))[:, 0].tolist()}


def _milestones(history: "History", classification: bool) -> list[dict[str, float]]:
    """About `MILESTONES` evenly spaced epochs, the first and the last."""
    step = max(1, len(history) // MILESTONES)
    chosen = sorted({0, *range(step - 1, len(history), step), len(history) - 1})
    columns = history.columns()
    if not classification:
        del columns["accuracy"]
    return [{name: values[row].item() for name, values in columns.items()} for row in chosen if row < len(history)]


def _plot(history: "History", data: "Dataset", path: str) -> None:
    from fastbp.pictures import pyplot, save_picture

    plt = pyplot()
    if data.class_names:
        figure = history.plot()[0].figure
    else:
        # accuracy means nothing where the targets are values
        figure, axes = plt.subplots(layout="constrained")
        axes.plot(history.epoch, history.loss)
        axes.set(xlabel="epoch", ylabel="loss")
        axes.grid(alpha=0.3)
    figure.suptitle(data.name)
    save_picture(figure, path)
    plt.close(figure)


# ---- tables ----------------------------------------------------------------------------------------------------------


def _show(report: dict[str, Any]) -> None:
    biases = "with" if report["bias"] else "without"
    print(f"{report['data']}: {'-'.join(map(str, report['units']))} {biases} biases, {report['dtype']}")
    if report["milestones"]:
        columns = list(report["milestones"][0])
        rows = [[f"{row['epoch']:,}", *(f"{row[column]:.6f}" for column in columns[1:])] for row in report["milestones"]]
        Table(rows, columns).show()
    Table(_summary(report)).show()


def _summary(report: dict[str, Any]) -> list[list[str]]:
    summary = []
    for part in ("train", "test"):
        for score, name in (("accuracy", "accuracy"), ("r2", "R2")):
            if f"{part}_{score}" in report:
                value = report[f"{part}_{score}"]
                shown = "undefined" if value is None else f"{value:.3f}"
                summary.append([f"{part} {name}", f"{shown} on {report[f'{part}_rows']} rows"])
    if "outputs" in report:
        summary.append(["outputs", " ".join(f"{value:.2f}" for value in report["outputs"])])
    if "speedup_over_numpy" in report:
        rates = f"{report['epochs_per_second']:,.0f} epochs/s, {report['samples_per_second']:,.0f} samples/s"
        summary.append(["speed", rates])
        slice_of_run = f"over the first {report['reference_epochs']:,} epochs"
        summary.append(["numpy reference", f"{report['reference_epochs_per_second']:,.0f} epochs/s {slice_of_run}"])
        summary.append(["speed-up", f"{report['speedup_over_numpy']:,.1f} times"])
    for key, name in (("plot", "picture"), ("save", "model")):
        if key in report:
            summary.append([name, report[key]])
    return summary


# ---- predict ---------------------------------------------------------------------------------------------------------


def _predict(arguments: argparse.Namespace) -> int:
    from fastbp.datasets import load_rows
    from fastbp.model_file import load

    model = load(arguments.model)
    X, answers = load_rows(arguments.data, model.feature_names, model.target_name)
    predictions = model.predict(X)
    score = {} if answers is None else _score(model, X, answers)
    named = [model.class_names[number] for number in predictions] if model.class_names else predictions.tolist()
    if arguments.json:
        print(json.dumps({"target": model.target_name, "predictions": named, **score}, allow_nan=False))
        return 0
    for prediction in named:
        print(prediction)
    for name, value in score.items():
        print(f"{name} {value:.3f} on {len(X)} rows", file=sys.stderr)
    return 0


def _score(model: "Model", X: "np.ndarray", answers: list[str]) -> dict[str, float | None]:
    import numpy as np

    if model.class_names:
        number_of = {name: number for number, name in enumerate(model.class_names)}
        # a class that the model has never seen is never predicted
        return {"accuracy": model.score(X, np.array([number_of.get(answer, -1) for answer in answers]))}
    return {"r2": _known(model.score(X, np.array([float(answer) for answer in answers])))}


def _known(score: float) -> float | None:
    """R2 of rows with a single value is undefined: nan in numpy, null in JSON."""
    return None if math.isnan(score) else score
