"""Every case of the table, each in a group with what it is compared with."""

import pytest
from measure import WORK_OF, measure
from table import CASES


@pytest.mark.parametrize("case", CASES, ids=str)
def test_case(benchmark, cores, case):
    if case.threads > 1 and not benchmark.enabled:
        pytest.skip("tests run every number of threads")
    with cores(case.threads):
        measure(benchmark, case, WORK_OF[case.kind](case, short=not benchmark.enabled))
