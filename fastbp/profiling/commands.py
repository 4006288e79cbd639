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

from fastbp.arguments import (
    PICTURE_FORMATS,
    check_different,
    check_output,
    check_picture,
    did_you_mean,
    names,
    positive,
    sizes,
    units,
)
from fastbp.tables import Table

UNITS = (784, 128, 10)
MEMBERS_BATCH = 4  # rows: lanes are for networks that are trained in small batches
DTYPES = ("float32", "float64")
# The estimators' words for the solvers.
SOLVERS: dict[str, dict[str, Any]] = {
    "sgd": {"solver": "sgd", "momentum": 0.0},
    "momentum": {"solver": "sgd", "nesterovs_momentum": False},
    "nesterov": {"solver": "sgd"},
    "adam": {"solver": "adam"},
}
OPTIONS = ("dtype", "solver", "activation", "n_jobs")
READING = ("target", "task", "header", "decimal", "ignore")


def add_commands(commands) -> None:
    """Add the four commands to the parsers of `fastbp.cli`."""
    add = new_command(
        commands, _profile,
        "measure how fast a network trains on this machine, where the time goes, how far that is from what the machine can\n"
        "do, and which other settings would be faster",
        "examples:\n  fastbp profile --units 784,128,10 --batch-size 128 --plot profile.html --trace trace.json\n"
        "  fastbp profile flowers.csv --target species --hidden 64,32 --n-jobs 2",
    )  # fmt: skip
    data = "a file with a table, or a named data set: what fastbp train trains on it; random rows without it"
    add("data", metavar="DATA", nargs="?", help=data)
    add_reading(add)
    hidden = "units of the hidden layers, with DATA (default: as fastbp train)"
    add("--hidden", type=sizes, metavar="N[,N...]", help=hidden)
    _add_network(add, 2.0, "; with DATA, that of fastbp train")
    add("--batch-size", type=positive, metavar="N", help="rows per update (default: 200; with DATA, as fastbp train)")
    add("--rows", type=positive, metavar="N", help="random rows (default: some batches)")
    add(
        "--members",
        type=positive,
        metavar="N",
        help="networks to train in one call, and one after the other, by default in batches of 4",
    )
    add("--compare", action="store_true", help="train with numpy, scikit-learn, torch and jax as well")
    add("--plot", metavar="FILE", help="draw roofline and phases: .png, .pdf, .svg or .html")
    add("--trace", metavar="FILE", help="write an average step as Chrome trace events, for Perfetto")
    add = new_command(
        commands, _sweep, "measure samples per second over batch sizes and widths of the hidden layers",
        "example:\n  fastbp sweep --units 64,100,10 --batch-sizes 1,10,100,1000 --widths 16,64,256 --plot sweep.png",
    )  # fmt: skip
    _add_network(add, 5.0)
    add("--batch-sizes", type=sizes, metavar="N[,N...]", default=(1, 8, 32, 128, 512))
    add("--widths", type=sizes, metavar="N[,N...]", default=(16, 64, 256, 1024), help="of the hidden layers")
    add("--plot", metavar="FILE", help="draw a heat map: .png, .pdf or .svg")
    new_command(
        commands, _info, "show versions, processor, caches, BLAS, and where compiled kernels are kept",
        "example:\n  fastbp info --json > machine.json",
    )  # fmt: skip
    add = new_command(
        commands, _warmup, "compile all kernels into the cache on disk, so that nothing is compiled later",
        "example:\n  fastbp warmup --dtype float32",
    )  # fmt: skip
    add("--dtype", choices=DTYPES, help="default: both")


def new_command(commands, run: Callable, what: str, epilog: str, description: str = "", **settings: Any) -> Callable:
    """Add a command that is called as the function that runs it; returns what adds its arguments."""
    description = description or f"{what[0].upper()}{what[1:]}."
    parser = commands.add_parser(
        run.__name__[1:], help=what, description=description, epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter, **settings,
    )  # fmt: skip
    parser.set_defaults(run=run)
    parser.add_argument("--json", action="store_true", default=False, help="print one JSON object and nothing else")
    return parser.add_argument


def add_reading(add: Callable) -> None:
    """Add what can be said about a file: `READING`."""
    add("--target", metavar="COLUMN", help="the column of a file to learn")
    kinds = ("classification", "regression")
    add("--task", choices=kinds, help="what the target holds (default: inferred from the file)")
    header = "whether the first line has the columns' names (default: inferred from the file)"
    add("--header", action=argparse.BooleanOptionalAction, help=header)
    add("--decimal", choices=(".", ","), help="what marks decimals in the file (default: .)")
    add("--ignore", type=names, action="extend", metavar="COLUMN[,...]", help="columns that are no inputs")


def _add_network(add: Callable, seconds: float, of_data: str = "") -> None:
    """Add `--units`, `OPTIONS` and `--seconds`; `of_data` says which defaults there are with DATA."""
    shown = f"layer sizes, both ends included (default: {','.join(map(str, UNITS))})"
    add("--units", type=units, metavar="N,N[,N...]", help=shown)
    add("--dtype", choices=DTYPES, help=f"default: float32{of_data}")
    add("--solver", choices=tuple(SOLVERS), help=f"default: adam{of_data}")
    words = "identity, logistic, tanh, relu, leaky_relu, elu, softplus or selu"
    add("--activation", metavar="NAME", help=f"of the hidden layers: {words} (default: relu{of_data})")
    add("--n-jobs", type=int, metavar="N", help="threads, -1 for all processors (default: 1)")
    add("--seconds", type=float, default=seconds, metavar="S", help=f"how long to measure, about (default: {seconds:g})")


def _given(arguments: argparse.Namespace, *names: str) -> dict[str, Any]:
    """Options that were given."""
    return {name: vars(arguments)[name] for name in names if vars(arguments).get(name) is not None}


def _check_files(arguments: argparse.Namespace, formats: tuple[str, ...]) -> None:
    """Refuse files that cannot be written before the work that they would hold."""
    for option, path in _given(arguments, "plot", "trace").items():
        if option == "plot":
            check_picture("--plot", path, formats)
        check_output(f"--{option}", path, vars(arguments).get("data"))
    check_different(_given(arguments, "plot", "trace"))


def _report(arguments: argparse.Namespace, measure: Callable, *what: Any, title: str = "", **options: Any) -> int:
    """Measure, and say meanwhile what is being done, on one line of a terminal that is wiped in the end; then report."""

    def say(words: str = "") -> None:
        if sys.stderr is not None and sys.stderr.isatty():
            print(f"\r\x1b[K{words}", end="", file=sys.stderr, flush=True)

    try:
        found = measure(*what, **options, seconds=arguments.seconds, progress=lambda words: say(f"{words} ..."))
    finally:
        say()
    for option, path in _given(arguments, "plot", "trace").items():
        getattr(found, option)(path)
    summary, *others = found.tables()
    return _print(arguments, found.to_dict(), replace(summary, title=title or summary.title), *others)


def _print(arguments: argparse.Namespace, report: dict[str, Any], *tables: Table) -> int:
    if arguments.json:
        print(json.dumps(report, allow_nan=False))
    else:
        for table in tables:
            table.show()
    return 0


# ---- profile ---------------------------------------------------------------------------------------------------------


def _profile(arguments: argparse.Namespace) -> int:
    _check_files(arguments, (*PICTURE_FORMATS, ".html"))
    if arguments.data is None:
        for option, value in _given(arguments, "hidden", *READING).items():
            raise ValueError(f"--{option} is for DATA, got {value!r} without it")
        what, options, title = (arguments.units or UNITS,), _given(arguments, "batch_size", "rows", *OPTIONS), ""
    else:
        what, options = _of_data(arguments)
        title = f"What fastbp train {arguments.data} trains, with the settings that are shown"
    if arguments.members is not None:
        return _members(arguments, what, options)
    from fastbp.profiling.report import profile

    return _report(arguments, profile, *what, title=title, compare=arguments.compare, **options)


def _members(arguments: argparse.Namespace, what: tuple, options: dict[str, Any]) -> int:
    """Measure many networks: of some units, or a founding one."""
    from fastbp.neural_network import NeuralNetwork
    from fastbp.profiling.members import members
    from fastbp.profiling.workload import network_of

    for option, value in _given(arguments, "plot", "trace").items():
        raise ValueError(f"--{option} is for one network, got {value!r} with --members")
    if arguments.compare:
        raise ValueError("--compare is for one network, got it with --members")
    if arguments.data is not None and not isinstance(what[0], NeuralNetwork):
        raise ValueError(f"--members is for --units, xor and iris, got it with {arguments.data}")
    n_jobs, options = options.pop("n_jobs", None), {"batch_size": MEMBERS_BATCH} | options
    *rows, batch_size = (*what, options["batch_size"]) if arguments.data else network_of(*what, **options)
    return _report(arguments, members, *rows, arguments.members, batch_size=batch_size, n_jobs=n_jobs)


def _of_data(arguments: argparse.Namespace) -> tuple[tuple, dict[str, Any]]:
    """What is profiled with data: the network that `fastbp train` would train, but for the options."""
    for option in _given(arguments, "units", "rows"):
        raise ValueError(f"--{option} is for random rows, got it with {arguments.data}; see --hidden")
    data, batch_size = load(arguments), arguments.batch_size
    if batch_size is not None and batch_size > len(data.X_train):
        raise ValueError(f"--batch-size must be at most the number of rows, {len(data.X_train)}, got {batch_size}")
    from fastbp.lessons import PRESETS, new_model

    given = _given(arguments, *OPTIONS)
    if arguments.data in PRESETS:  # a founding network, with all rows in a batch
        model = new_model(data, PRESETS[arguments.data] | _given(arguments, "hidden"), random_state=0, **given)
        rows = model.inputs(data.X_train), model.targets(data.y_train)
        return (model.net, *rows), {"batch_size": batch_size or len(data.X_train)}
    from fastbp.estimators.tabular import TabularClassifier, TabularRegressor

    solver = SOLVERS[given.pop("solver", "adam")]
    given |= _given(arguments, "batch_size") | ({"hidden_layer_sizes": arguments.hidden} if arguments.hidden else {})
    est = (TabularClassifier if data.class_names else TabularRegressor)(**given)
    network, X, y = est.untrained(data.X_train, data.y_train)
    return (network.set_params(**solver), X, y), {}


def load(arguments: argparse.Namespace) -> Any:
    """The data that a command is given: a named data set, or a file read as its options say."""
    from fastbp.datasets import NAMES, load_named, load_table

    name, given = arguments.data, _given(arguments, *READING)
    if name in NAMES:
        for option, value in given.items():
            raise ValueError(f"--{option} is for files, got {value!r} with {name}")
        return load_named(name)
    if name != "-" and not os.path.exists(name):
        raise ValueError(f"DATA must be {', '.join(NAMES)}, or a file with a table, got {name!r}{did_you_mean(name, NAMES)}")
    if "target" not in given:
        raise ValueError(f"--target COLUMN is needed to train on {name}")
    return load_table(name, **given)


# ---- sweep, info, warmup ---------------------------------------------------------------------------------------------


def _sweep(arguments: argparse.Namespace) -> int:
    _check_files(arguments, PICTURE_FORMATS)
    from fastbp.profiling.report import sweep

    what = arguments.units or UNITS, arguments.batch_sizes, arguments.widths
    return _report(arguments, sweep, *what, **_given(arguments, *OPTIONS))


def _info(arguments: argparse.Namespace) -> int:
    from fastbp.profiling.machine import facts

    found = facts()
    cache, caches = found["cache"], found["caches"]
    rows = [
        *map(list, found["versions"].items()),
        ["processor", f"{found['processor']}, {found['processors']} usable"],
        ["compiled for", f"{found['level']}, of which {found['target']} is one; vectors of {found['vector_bytes']} bytes"],
        ["caches", ", ".join(f"{name} {size / 2**20:g} MiB" for name, size in caches.items())],
        ["threads", found["threads"]],
        *([["kernels", f"{cache['came_compiled']} came with the package"]] if cache["came_compiled"] else []),
        ["kernels in", cache["folder"] or "nowhere: each process compiles, for no folder is the user's alone"],
        ["", f"{cache['files']} files, {cache['bytes'] / 1e6:.1f} MB, {cache['current_files']} of them for this version"],
        *[["BLAS" if not number else "", line] for number, line in enumerate(found["blas"])],
    ]
    return _print(arguments, found, Table(rows))


def _warmup(arguments: argparse.Namespace) -> int:
    from fastbp.kernels.jit import PLAIN_PYTHON
    from fastbp.profiling.machine import cache_contents
    from fastbp.training import ProgressBar
    from fastbp.warmup import kernels_for, warm

    if PLAIN_PYTHON:
        raise ValueError("nothing is compiled with NUMBA_DISABLE_JIT set")
    kernels = kernels_for(DTYPES if arguments.dtype is None else (arguments.dtype,))
    shown = sys.stderr is not None and sys.stderr.isatty()
    with ProgressBar(len(kernels), shown, "kernel", "compiling") as bar:
        compiled = warm(kernels, bar.update)
    cache = cache_contents()
    report = {"kernels": len(kernels), "compiled": compiled, "folder": cache["folder"], "bytes": cache["bytes"]}
    done = f"{len(kernels)}, of which {len(kernels) - compiled} were there already"
    return _print(arguments, report, Table([["kernels", done], ["kept in", str(cache["folder"])]]))
