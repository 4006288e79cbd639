"""Where benches run: on one core, with one thread in every library, unless a bench asks for more."""

import contextlib
import os

import numpy  # noqa: F401  threadpoolctl sees only what is loaded
import pytest
from threadpoolctl import threadpool_limits

CORES = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []


def pytest_addoption(parser):
    parser.addoption("--quick", action="store_true", help="only the cases that the table marks as quick")


def is_quick(item):
    case = item.callspec.params.get("case") if hasattr(item, "callspec") else None
    return case is not None and case.quick


def pytest_collection_modifyitems(config, items):
    if config.getoption("--quick"):
        config.hook.pytest_deselected(items=[item for item in items if not is_quick(item)])
        items[:] = filter(is_quick, items)


@contextlib.contextmanager
def on_cores(count):
    """Run this thread, and those that it starts, on `count` cores, where the system can be told so."""
    if not CORES:
        yield
        return
    if count > len(CORES):
        pytest.skip(f"needs {count} cores")
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, CORES[-count:])
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@pytest.fixture(scope="session")
def cores():
    return on_cores


@pytest.fixture(autouse=True)
def one_core(request):
    # benches that are not timed may run side by side
    with contextlib.nullcontext() if request.config.getoption("benchmark_disable") else on_cores(1), threadpool_limits(1):
        yield
