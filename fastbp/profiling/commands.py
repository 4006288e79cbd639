"""The commands ``fastbp profile``, ``sweep``, ``info`` and ``warmup``.

Only the standard library is imported at the top, so that ``--help`` and a mistyped option answer at once.
"""

import argparse
import json
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from fastbp.arguments import PICTURE_FORMATS, check_output, check_picture, did_you_mean, names, positive, sizes, units
from fastbp.tables import Table

UNITS = (784, 128, 10)
DTYPES = ("float32", "float64")
DATA_HELP = "a file with a table, or a named data set: what fastbp train trains on it; random rows without it"
# The estimators' words for the solvers.
SOLVERS: dict[str, dict[str, Any]] = {
    "sgd": {"solver": "sgd", "momentum": 0.0},
    "momentum": {"solver": "sgd", "nesterovs_momentum": False},
    "nesterov": {"solver": "sgd"},
    "adam": {"solver": "adam"},
}
SETTINGS = ("dtype", "solver", "activation", "n_jobs")
READING = ("target", "task", "header", "decimal", "ignore")
JSON_HELP = "print one JSON object and nothing else"


def add_commands(commands) -> None:
    """Add the four commands to the parsers of `fastbp.cli`."""
    _add_profile(commands)
    _add_sweep(commands)
    _add_info(commands)
    _add_warmup(commands)


def _new_command(commands, name: str, run: Callable, **texts: str) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, formatter_class=argparse.RawDescriptionHelpFormatter, **texts)
    parser.set_defaults(run=run)
    parser.add_argument("--json", action="store_true", help=JSON_HELP)
    return parser


def add_reading(parser: argparse.ArgumentParser) -> None:
    """Add what can be said about a file: `READING`."""
    parser.add_argument("--target", metavar="COLUMN", help="the column of a file to learn")
    parser.add_argument(
        "--task", choices=("classification", "regression"), help="what the target holds (default: inferred from the file)"
    )
    parser.add_argument(
        "--header", action=argparse.BooleanOptionalAction,
        help="whether the first line has the columns' names (default: inferred from the file)",
    )  # fmt: skip
    parser.add_argument("--decimal", choices=(".", ","), help="what marks decimals in the file (default: .)")
    parser.add_argument("--ignore", type=names, action="extend", metavar="COLUMN[,...]", help="columns that are no inputs")


def _add_network(parser: argparse.ArgumentParser, of_data: str = "") -> None:
    """Add `--units` and `SETTINGS`; `of_data` says which defaults there are with DATA."""
    shown = ",".join(map(str, UNITS))
    parser.add_argument(
        "--units", type=units, metavar="N,N[,N...]", help=f"layer sizes, both ends included (default: {shown})"
    )
    parser.add_argument("--dtype", choices=DTYPES, help=f"default: float32{of_data}")
    parser.add_argument("--solver", choices=tuple(SOLVERS), help=f"default: adam{of_data}")
    words = "identity, logistic, tanh, relu, leaky_relu, elu, softplus or selu"
    parser.add_argument("--activation", metavar="NAME", help=f"of the hidden layers: {words} (default: relu{of_data})")
    parser.add_argument("--n-jobs", type=int, metavar="N", help="threads, -1 for all processors (default: 1)")


def _add_profile(commands) -> None:
    parser = _new_command(
        commands,
        "profile",
        _profile,
        help="measure how fast a network trains here, and where the time goes",
        description="Measure how fast a network trains on this machine, where the time goes, how far that is from what the\n"
        "machine can do, and which other settings would be faster.",
        epilog="examples:\n  fastbp profile --units 784,128,10 --batch-size 128 --plot profile.html --trace trace.json\n"
        "  fastbp profile flowers.csv --target species --hidden 64,32 --n-jobs 2",
    )
    parser.add_argument("data", metavar="DATA", nargs="?", help=DATA_HELP)
    add_reading(parser)
    parser.add_argument(
        "--hidden", type=sizes, metavar="N[,N...]", help="units of the hidden layers, with DATA (default: as fastbp train)"
    )
    _add_network(parser, "; with DATA, that of fastbp train")
    parser.add_argument(
        "--batch-size", type=positive, metavar="N", help="rows per update (default: 200; with DATA, as fastbp train)"
    )
    parser.add_argument("--rows", type=positive, metavar="N", help="random rows (default: some batches)")
    parser.add_argument("--seconds", type=float, default=2.0, metavar="S", help="how long to measure, about (default: 2)")
    parser.add_argument("--compare", action="store_true", help="train with numpy, scikit-learn, torch and jax as well")
    parser.add_argument("--plot", metavar="FILE", help="draw roofline and phases: .png, .pdf, .svg or .html")
    parser.add_argument("--trace", metavar="FILE", help="write an average step as Chrome trace events, for Perfetto")


def _add_sweep(commands) -> None:
    parser = _new_command(
        commands,
        "sweep",
        _sweep,
        help="measure samples/s over batch sizes and widths",
        description="Measure samples per second over batch sizes and widths of the hidden layers.",
        epilog="example:\n  fastbp sweep --units 64,100,10 --batch-sizes 1,10,100,1000 --widths 16,64,256 --plot sweep.png",
    )
    _add_network(parser)
    parser.add_argument("--batch-sizes", type=sizes, metavar="N[,N...]", default=(1, 8, 32, 128, 512))
    parser.add_argument("--widths", type=sizes, metavar="N[,N...]", default=(16, 64, 256, 1024), help="of the hidden layers")
    parser.add_argument("--seconds", type=float, default=5.0, metavar="S", help="how long to measure, about (default: 5)")
    parser.add_argument("--plot", metavar="FILE", help="draw a heat map: .png, .pdf or .svg")


def _add_info(commands) -> None:
    _new_command(
        commands,
        "info",
        _info,
        help="show versions, processor, caches, and where compiled kernels are kept",
        description="Show what fastbp runs on: versions, processor, vectors, threads, compiled kernels, BLAS.",
        epilog="example:\n  fastbp info --json > machine.json",
    )


def _add_warmup(commands) -> None:
    parser = _new_command(
        commands,
        "warmup",
        _warmup,
        help="compile all kernels ahead of time",
        description="Compile all kernels into the cache on disk, so that nothing is compiled later.",
        epilog="example:\n  fastbp warmup --dtype float32",
    )
    parser.add_argument("--dtype", choices=DTYPES, help="default: both")


# ---- profile ---------------------------------------------------------------------------------------------------------


def _profile(arguments: argparse.Namespace) -> int:
    if arguments.plot:
        check_picture("--plot", arguments.plot, (*PICTURE_FORMATS, ".html"))
    for option in ("plot", "trace"):
        if vars(arguments)[option]:
            check_output(f"--{option}", vars(arguments)[option], arguments.data)
    what, options = _random(arguments) if arguments.data is None else _of_data(arguments)
    from fastbp.profiling.report import profile

    with _Status(sys.stderr.isatty()) as status:
        found = profile(*what, **options, seconds=arguments.seconds, compare=arguments.compare, progress=status.say)
    for option, save in (("plot", found.plot), ("trace", found.trace)):
        if vars(arguments)[option]:
            save(vars(arguments)[option])
    summary, *others = found.tables()
    if arguments.data is not None:
        summary = replace(summary, title=f"What fastbp train {arguments.data} trains, with the settings that are shown")
    _print(arguments, found.to_dict(), [summary, *others])
    return 0


def _print(arguments: argparse.Namespace, report: dict[str, Any], tables: list[Table]) -> None:
    if arguments.json:
        print(json.dumps(report, allow_nan=False))
        return
    for table in tables:
        table.show()


def _given(arguments: argparse.Namespace, *names: str) -> dict[str, Any]:
    """Options that were given."""
    return {name: vars(arguments)[name] for name in names if vars(arguments)[name] is not None}


def _random(arguments: argparse.Namespace) -> tuple[tuple, dict[str, Any]]:
    """What is profiled without data."""
    for option in ("target", "hidden"):
        if vars(arguments)[option] is not None:
            raise ValueError(f"--{option} is for DATA, got {vars(arguments)[option]!r} without it")
    return (arguments.units or UNITS,), _given(arguments, "batch_size", "rows", *SETTINGS)


def _of_data(arguments: argparse.Namespace) -> tuple[tuple, dict[str, Any]]:
    """What is profiled with data: the network that `fastbp train` would train, but for the options."""
    for option in ("units", "rows"):
        if vars(arguments)[option] is not None:
            raise ValueError(f"--{option} is for random rows, got it with {arguments.data}; see --hidden")
    data, batch_size = load(arguments), arguments.batch_size
    if batch_size is not None and batch_size > len(data.X_train):
        raise ValueError(f"--batch-size must be at most the number of rows, {len(data.X_train)}, got {batch_size}")
    from fastbp.lessons import PRESETS

    given = _given(arguments, *SETTINGS)
    if arguments.data in PRESETS:
        return _lesson(data, PRESETS[arguments.data], arguments, given)
    solver = SOLVERS[given.pop("solver", "adam")]
    from fastbp.estimators.tabular import TabularClassifier, TabularRegressor

    given |= _given(arguments, "batch_size") | ({"hidden_layer_sizes": arguments.hidden} if arguments.hidden else {})
    est = (TabularClassifier if data.class_names else TabularRegressor)(**given)
    network, X, y = est.untrained(data.X_train, data.y_train)
    return (network.set_params(**solver), X, y), {}


def _lesson(data: Any, preset: Any, arguments: argparse.Namespace, given: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
    """A founding network, with all rows in a batch."""
    from fastbp.lessons import new_model

    preset = replace(preset, hidden=arguments.hidden or preset.hidden)
    model = new_model(data, preset, random_state=0, **given)
    rows = model.inputs(data.X_train), model.targets(data.y_train)
    return (model.net, *rows), {"batch_size": arguments.batch_size or len(data.X_train)}


def load(arguments: argparse.Namespace) -> Any:
    """The data that a command is given: a named data set, or a file read as its options say."""
    from fastbp.datasets import NAMES, load_named, load_table

    name, given = arguments.data, {option: vars(arguments).get(option) for option in READING}
    if name in NAMES:
        for option, value in given.items():
            if value is not None:
                raise ValueError(f"--{option} is for files, got {value!r} with {name}")
        return load_named(name)
    if name != "-" and not os.path.exists(name):
        raise ValueError(f"DATA must be {', '.join(NAMES)}, or a file with a table, got {name!r}{did_you_mean(name, NAMES)}")
    if given["target"] is None:
        raise ValueError(f"--target COLUMN is needed to train on {name}")
    return load_table(name, **{option: value for option, value in given.items() if value is not None})


class _Status:
    """What is being done, on one line of a terminal that is wiped in the end."""

    def __init__(self, shown: bool):
        self.shown = shown

    def __enter__(self) -> "_Status":
        return self

    def say(self, words: str) -> None:
        if self.shown:
            sys.stderr.write(f"\r\x1b[K{words} ...")
            sys.stderr.flush()

    def __exit__(self, *exception: object) -> None:
        if self.shown:
            sys.stderr.write("\r\x1b[K")


# ---- sweep, info, warmup ---------------------------------------------------------------------------------------------


def _sweep(arguments: argparse.Namespace) -> int:
    if arguments.plot:
        check_picture("--plot", arguments.plot)
        check_output("--plot", arguments.plot)
    from fastbp.profiling.sweep import sweep

    with _Status(sys.stderr.isatty()) as status:
        found = sweep(
            arguments.units or UNITS, arguments.batch_sizes, arguments.widths, seconds=arguments.seconds,
            progress=status.say, **_given(arguments, *SETTINGS),
        )  # fmt: skip
    if arguments.plot:
        found.plot(arguments.plot)
    _print(arguments, found.to_dict(), found.tables())
    return 0


def _info(arguments: argparse.Namespace) -> int:
    from fastbp.profiling.machine import facts

    found = facts()
    _print(arguments, found, [Table(_facts_rows(found))])
    return 0


def _facts_rows(found: dict[str, Any]) -> list[list[str]]:
    cache, caches = found["cache"], found["caches"]
    kept = f"{cache['files']} files, {cache['bytes'] / 1e6:.1f} MB, {cache['current_files']} of them for these versions"
    versions = [[name, version] for name, version in found["versions"].items()]
    blas = [["BLAS" if not number else "", line] for number, line in enumerate(found["blas"])]
    return [
        *versions,
        ["processor", f"{found['processor']}, {found['processors']} usable"],
        ["compiled for", f"{found['target']}, vectors of {found['vector_bytes']} bytes"],
        ["caches", ", ".join(f"{name} {size / 2**20:g} MiB" for name, size in caches.items())],
        ["threads", found["threads"]],
        ["kernels in", cache["folder"] or "nowhere: each process compiles, for no folder is the user's alone"],
        ["", kept],
        *blas,
    ]


def _warmup(arguments: argparse.Namespace) -> int:
    from fastbp.profiling.machine import cache_contents
    from fastbp.training import ProgressBar
    from fastbp.warmup import kernels_for, warm

    kernels = kernels_for(DTYPES if arguments.dtype is None else (arguments.dtype,))
    with ProgressBar(len(kernels), sys.stderr.isatty(), "kernel", "compiling") as bar:
        compiled = warm(kernels, bar.update)
    cache = cache_contents()
    report = {"kernels": len(kernels), "compiled": compiled, "folder": cache["folder"], "bytes": cache["bytes"]}
    done = f"{len(kernels)}, of which {len(kernels) - compiled} were there already"
    _print(arguments, report, [Table([["kernels", done], ["kept in", str(cache["folder"])]])])
    return 0
