import collections
import os
import secrets
import signal
import sys

import pytest

# before anything imports numpy: tests run side by side, and a thread that waits for another's small product counts as work
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


# Coverage of what these test is measured where some of them run with the kernels as plain Python.
MEASURED_AS_PLAIN_PYTHON = {
    "test_cases",
    "test_gradients",
    "test_kernels",
    "test_pointwise",
    "test_random_networks",
    "test_reference",
    "test_sparse",
}


def pytest_addoption(parser):
    parser.addoption("--all", action="store_true", help="run all cases of long tables, of which a run otherwise draws some")
    parser.addoption("--plain-python", action="store_true", help="run the kernels as plain Python: NUMBA_DISABLE_JIT=1")
    parser.addoption("--vectors", help="run kernels for vectors and registers that are not the processor's, as in 16x32")
    parser.addoption("--level", help="run kernels for a level of processors below this one's: FASTBP_LEVEL")


def pytest_configure(config):
    if config.getoption("--plain-python"):  # before anything has imported fastbp or numba
        os.environ["NUMBA_DISABLE_JIT"] = "1"
    if config.getoption("--vectors"):
        os.environ["FASTBP_VECTORS"] = config.getoption("--vectors")
    if config.getoption("--level"):
        os.environ["FASTBP_LEVEL"] = config.getoption("--level")
    if config.getoption("--all"):
        os.environ["FASTBP_ALL"] = "1"
    if (
        signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    ):  # as in the background of a shell, where tests of interrupts would wait
        signal.signal(signal.SIGINT, signal.default_int_handler)
    # one for all processes of a run
    os.environ.setdefault("FASTBP_SEED", str(secrets.randbelow(2**32)))
    if not plain_python():
        import once

        once.share()
        if config.getoption("numprocesses", None) and not hasattr(config, "workerinput") and not came_compiled():
            once.compile_all()


def came_compiled():
    """Whether the package's kernels came with it."""
    from fastbp.kernels import objects

    return (objects.FOLDER.parent / objects.COMPILED).is_dir()


@pytest.fixture(autouse=True)
def nothing_idle():
    """What a test changes of how workspaces are made is seen by all of its trainings, and by no other's."""
    training = sys.modules.get("fastbp.training")
    for idle in (training.idle_workspaces, training.idle_predictors) if training else ():
        idle.clear()


@pytest.fixture
def run(capsys, tmp_path, monkeypatch):
    """Run a command in an empty folder; its status, and what it prints on both streams."""
    from fastbp import cli

    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        try:
            status = cli.main([str(argument) for argument in arguments])
        except SystemExit as exit:
            status = exit.code
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


def pytest_report_header():
    return f"random networks, and cases that are drawn: FASTBP_SEED={os.environ['FASTBP_SEED']}"


def plain_python():
    return os.environ.get("NUMBA_DISABLE_JIT", "0") not in ("", "0")


def says_more_for_other_vectors(item):
    """Whether a test may fail for these vectors alone: not with layers and batches that fit a few of any length."""
    case = getattr(item, "callspec", None) and item.callspec.params.get("case")
    return "own_vectors" not in item.keywords and not (hasattr(case, "units") and max(case.units) <= 5 and case.n_rows < 99)


def says_more_as_plain_python(item):
    return "compiled" not in item.keywords and "no_kernel" not in item.keywords


def some_of_each(items):
    """The items of which every test with the marker `draw` has as many as a run draws."""
    import draws

    tables = collections.defaultdict(list)
    for item in items:
        if "draw" in item.keywords:
            tables[item.nodeid.split("[")[0]].append(item)
    left_out = set()
    for name, cases in tables.items():
        marker = cases[0].get_closest_marker("draw")
        share = marker.kwargs.get("plain", marker.args[0]) if plain_python() else marker.args[0]
        left_out |= {*cases} - {*draws.some(cases, share, name)}
    return [item for item in items if item not in left_out]


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config, items):
    chosen = items
    if config.getoption("--vectors"):
        chosen = [item for item in chosen if says_more_for_other_vectors(item)]
    if came_compiled():
        chosen = [item for item in chosen if "compiles" not in item.keywords]
    if plain_python():
        chosen = [item for item in chosen if says_more_as_plain_python(item)]
    # who asks for tests by name has all of their cases
    if not (config.getoption("keyword") or any("::" in argument for argument in config.args)):
        chosen = some_of_each(chosen)
    for item in chosen:
        if not plain_python() and item.path.stem in MEASURED_AS_PLAIN_PYTHON:
            item.add_marker("no_cover")
    if len(chosen) < len(items):
        kept = {*chosen}
        config.hook.pytest_deselected(items=[item for item in items if item not in kept])
        items[:] = chosen
