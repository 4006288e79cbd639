"""What README says to type is what is run."""

import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"


def shell_blocks():
    return re.findall(r"^```sh\n(.*?)^```$", README.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def test_readme_has_one_command_to_train_and_one_to_test():
    train, check = shell_blocks()
    assert train.endswith("fastbp train digits --plot\n")
    assert check.endswith("/tox\n")


@pytest.mark.skipif(os.name != "posix", reason="needs a shell")
def test_ci_runs_the_test_command_of_readme():
    printed = subprocess.run(["bash", ROOT / ".ci" / "run", "--print"], check=True, capture_output=True, text=True)
    assert printed.stdout == shell_blocks()[1]


def test_every_module_is_on_the_map():
    text = README.read_text(encoding="utf-8")
    modules = {path.relative_to(ROOT).as_posix() for path in (ROOT / "fastbp").rglob("*.py")}
    unlisted = {path for path in modules if f"`{path}`" not in text}
    # a package's own file needs no line: its modules have them
    assert unlisted == {path for path in modules if path.endswith(("/__init__.py", "/__main__.py"))}
    for path in re.findall(r"`((?:fastbp|bench|\.ci)/[\w/.]+|tox\.ini)`", text):
        assert (ROOT / path).exists(), path
