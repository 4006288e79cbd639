"""Random networks, others in every run, and that wrong kernels are found by them."""

import shutil
from pathlib import Path

import draws
import pytest
from processes import run_python
from random_networks import run

import fastbp
from fastbp.kernels.jit import OTHER_VECTORS

NETWORKS = draws.examples(400, 4 if OTHER_VECTORS else 2)  # of a run
SHARES = NETWORKS // 50  # parts that processes may take
MOST_LEFT_OUT = 0.2  # of all networks: rounding errors of the others stay rounding errors


@pytest.mark.compiled
@pytest.mark.parametrize("share", range(SHARES))
def test_random_networks_agree_with_the_reference(share):
    numbers = range(share, NETWORKS, SHARES)
    wrong, left_out, compared = run(draws.SEED, numbers)
    assert not wrong, "run random_networks.py with these arguments:\n" + "\n".join(wrong)
    assert left_out + compared == len(numbers)
    assert left_out <= MOST_LEFT_OUT * len(numbers)


@pytest.mark.compiled
def test_a_network_whose_loss_is_too_large_for_numpy_too_is_left_out():
    assert run(502633902, [137]) == ([], 1, 0)


@pytest.mark.compiled
@pytest.mark.parametrize(("seed", "number"), [(3685261872, 3967), (3784399199, 16)])
def test_rounding_errors_that_numpy_makes_by_chance_alone_are_allowed(seed, number):
    """In the first network they grow together; in the second one, of one input, ten tries of numpy were once the same."""
    assert run(seed, [number]) == ([], 0, 1)


# Mistakes that only some shapes show: a kernel, a file, what stands there, and what it is made into.
MUTANTS = {
    "panels begin a row late": ("wide", "products", "element(job.table, lines + k) + first, job.memory, to",
                                "element(job.table, lines + k) + first + (first > 5), job.memory, to"),
    "a strip's last tile is dropped": ("wide", "products", "repeat(ceil_div(count, tallest), lambda number: self.tile",
                                       "repeat(count // tallest, lambda number: self.tile"),
    "rows are read from the middle of a panel": ("wide", "products", "from_on(job.table, learning.panel_rows + i), HEIGHT)",
                                                 "from_on(job.table, learning.panel_rows + i // HEIGHT * HEIGHT), HEIGHT)"),
    "inputs that fill no vector are left out": ("narrow", "direct", "[load_first(x, whole * L, layer.n_in - whole * L)",
                                                "[load_first(x, whole * L, 0)"),
    "gradients of a second block replace the first one's": ("narrow", "direct", "either(fresh,", "either(1,"),
    "the first rows are read again": ("narrow", "direct", "x = inputs_of(job, layer, first + r)",
                                      "x = inputs_of(job, layer, r)"),
}  # fmt: skip


@pytest.mark.compiles
@pytest.mark.compiled
@pytest.mark.own_vectors
@pytest.mark.draw(3)
@pytest.mark.parametrize("name", MUTANTS)
def test_random_networks_find_a_wrong_gradient(name, tmp_path):
    kernel, file, old, new = MUTANTS[name]
    package = tmp_path / "fastbp"
    shutil.copytree(Path(fastbp.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    source = (package / "kernels" / f"{file}.py").read_text(encoding="utf-8")
    assert source.count(old) == 1
    (package / "kernels" / f"{file}.py").write_text(source.replace(old, new), encoding="utf-8")
    options = "--count", 600, "--like", kernel, "float64", "--seed", 1, "--first"
    result = run_python("-m", "random_networks", *options, first=[tmp_path], cwd=tmp_path, timeout=300)
    assert result.returncode == 1, result.stderr[-2000:]
    assert "differ by" in result.stdout
