"""What a run leaves out: something else each time, and nothing for ever."""

import draws
import pytest

CASES = list("abcdefghij")


def test_a_seed_draws_the_same_cases_again_and_another_one_others():
    assert draws.drawn(CASES, 4, "x", seed=1) == draws.drawn(CASES, 4, "x", seed=1)
    runs = [draws.drawn(CASES, 4, "x", seed) for seed in range(100)]
    assert {len(run) for run in runs} == {3}
    assert all(run == sorted({*run}) for run in runs)
    assert {case for run in runs for case in run} == {*CASES}


def test_tests_draw_independently_of_each_other():
    assert len({tuple(draws.drawn(CASES, 2, name, seed=1)) for name in "abcdefgh"}) > 1


@pytest.mark.parametrize("share", [1, 3, 10, 99])
def test_at_least_one_case_is_drawn(share):
    assert len(draws.drawn(CASES, share, "x")) == {1: 10, 3: 4, 10: 1, 99: 1}[share]


def test_all_cases_are_run_where_that_is_asked_for(monkeypatch):
    monkeypatch.setattr(draws, "ALL", False)
    assert (len(draws.some(CASES, 5, "x")), draws.examples(100)) == (2, 25)
    monkeypatch.setattr(draws, "ALL", True)
    assert (draws.some(CASES, 5, "x"), draws.examples(100)) == (CASES, 100)
