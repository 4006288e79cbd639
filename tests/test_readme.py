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


def test_the_map_is_the_tree():
    text = README.read_text(encoding="utf-8")
    drawn = re.search(r"^```text\nfastbp/\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)[1]
    folder, modules = "", []
    for line in drawn.splitlines():
        indent, names = re.match(r"( +)(\S+(?: \S+)*)", line).groups()
        if names.endswith("/"):
            folder = names
        else:
            modules += [f"{folder if len(indent) == 4 else ''}{name}.py" for name in names.split()]
    files = {path.relative_to(ROOT / "fastbp").as_posix() for path in (ROOT / "fastbp").rglob("*.py")}
    # a package's own file needs no line: its modules have them
    assert sorted(modules) == sorted(path for path in files if not path.endswith(("__init__.py", "__main__.py")))
    for path in re.findall(r"`((?:fastbp|bench|tests|\.ci)/[\w/.]*|tox\.ini)`", text):
        assert (ROOT / path).exists(), path
