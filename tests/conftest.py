import collections
import os

import pytest

LEFT_OUT = {"compiled": "needs compiled kernels", "no_kernel": "is the same with compiled kernels"}


def pytest_addoption(parser):
    parser.addoption("--plain-python", action="store_true", help="run the kernels as plain Python: NUMBA_DISABLE_JIT=1")


def pytest_configure(config):
    if config.getoption("--plain-python"):  # before anything has imported fastbp or numba
        os.environ["NUMBA_DISABLE_JIT"] = "1"
    if not plain_python():
        import once

        once.share()


def plain_python():
    return os.environ.get("NUMBA_DISABLE_JIT", "0") not in ("", "0")


def pytest_collection_modifyitems(items):
    if not plain_python():
        return
    seen = collections.Counter()
    for item in items:
        for name in LEFT_OUT.keys() & item.keywords.keys():
            item.add_marker(pytest.mark.skip(reason=LEFT_OUT[name]))
        if (marker := item.get_closest_marker("one_of")) is not None:
            function = item.path, item.originalname
            if seen[function] % marker.args[0]:
                item.add_marker(pytest.mark.skip(reason="others are enough for plain Python"))
            seen[function] += 1
