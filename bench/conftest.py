"""Where benches run: on one core, with one thread in every library, unless a bench asks for more."""

import contextlib
import os

import numpy  # noqa: F401  threadpoolctl sees only what is loaded
import pytest
from threadpoolctl import threadpool_limits

CORES = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []


def pytest_addoption(parser):
    parser.addoption("--quick", action="store_true", help="only the cases that the table marks as quick")


def pytest_collection_modifyitems(config, items):
    """Leave out what is not quick, where asked, and everything else that has no case."""
    if not config.getoption("--quick"):
        return
    quick = [item for item in items if getattr(getattr(item, "callspec", None), "params", {}).get("case", None) is not None]
    quick = [item for item in quick if item.callspec.params["case"].quick]
    config.hook.pytest_deselected(items=[item for item in items if item not in quick])
    items[:] = quick


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


@pytest.fixture
def cores():
    return on_cores


@pytest.fixture(autouse=True)
def one_core():
    with on_cores(1), threadpool_limits(1):
        yield
