import os

import pytest


def pytest_collection_modifyitems(items):
    if os.environ.get("NUMBA_DISABLE_JIT", "0") != "0":
        skip = pytest.mark.skip(reason="needs compiled kernels")
        for item in items:
            if "compiled" in item.keywords:
                item.add_marker(skip)
