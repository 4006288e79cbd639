import collections
import os
import secrets
import signal

import pytest

LEFT_OUT = {"compiled": "needs compiled kernels", "no_kernel": "is the same with compiled kernels"}


def pytest_addoption(parser):
    parser.addoption("--plain-python", action="store_true", help="run the kernels as plain Python: NUMBA_DISABLE_JIT=1")
    parser.addoption("--vectors", help="run kernels for vectors and registers that are not the processor's, as in 16x32")


def pytest_configure(config):
    if config.getoption("--plain-python"):  # before anything has imported fastbp or numba
        os.environ["NUMBA_DISABLE_JIT"] = "1"
    if config.getoption("--vectors"):
        os.environ["FASTBP_VECTORS"] = config.getoption("--vectors")
    if (
        signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    ):  # as in the background of a shell, where tests of interrupts would wait
        signal.signal(signal.SIGINT, signal.default_int_handler)
    # one for all processes of a run
    os.environ.setdefault("FASTBP_SEED", str(secrets.randbelow(2**32)))
    if not plain_python():
        import once

        once.share()


def pytest_report_header():
    return f"random networks: FASTBP_SEED={os.environ['FASTBP_SEED']}"


def plain_python():
    return os.environ.get("NUMBA_DISABLE_JIT", "0") not in ("", "0")


def says_more_for_other_vectors(item):
    """Whether a test may fail for these vectors alone: not with layers and batches that fit a few of any length."""
    case = getattr(item, "callspec", None) and item.callspec.params.get("case")
    return "own_vectors" not in item.keywords and not (hasattr(case, "units") and max(case.units) <= 5 and case.n_rows < 99)


def pytest_collection_modifyitems(config, items):
    if config.getoption("--vectors"):
        left_out = [item for item in items if not says_more_for_other_vectors(item)]
        items[:] = [item for item in items if says_more_for_other_vectors(item)]
        config.hook.pytest_deselected(items=left_out)
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
