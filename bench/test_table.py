"""Every case of the table, each in a group with what it is compared with."""

import pytest
from measure import check, measured, tell, work_of
from table import CASES


@pytest.fixture(scope="session")
def group_of(request, cores):
    """A function that returns what was found of each case of a group, of which those are measured that were asked for."""
    cases = [item.callspec.params["case"] for item in request.session.items if item.originalname == "test_case"]
    groups = {}

    def measured_group(name):
        if name not in groups:
            groups[name] = measured([case for case in cases if case.group == name], cores)
        return groups[name]

    return measured_group


@pytest.mark.parametrize("case", CASES, ids=str)
def test_case(benchmark, group_of, case):
    benchmark.group = case.group
    if benchmark.enabled:
        tell(benchmark, group_of(case.group)[case])
        return
    if case.threads > 1:
        pytest.skip("tests run every number of threads")
    check(work_of(case, short=True))
    benchmark(lambda: None)
