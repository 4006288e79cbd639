"""What README says to type is what is run."""

import os
import re
import subprocess
from pathlib import Path

import pytest
from test_packaging import MODULES, module_name, own_imports

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


def lines_of_the_map():
    """Lines of README's map by module."""
    drawn = re.search(r"^```text\nfastbp/\n(.*?)^```$", README.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)[1]
    folder, found = "", {}
    for number, line in enumerate(drawn.splitlines()):
        indent, names = re.match(r"( +)(\S+(?: \S+)*)", line).groups()
        if names.endswith("/"):
            folder = names.replace("/", ".")
        else:
            modules = {f"fastbp.{folder if len(indent) == 4 else ''}{name}": number for name in names.split()}
            assert not modules.keys() & found.keys()
            found |= modules
    return found


def test_the_map_is_the_tree():
    # of the checkout, as what makes wheels is in none; a package's own file needs no line: its modules have them
    files = {path.relative_to(ROOT).with_suffix("").parts for path in (ROOT / "fastbp").rglob("*.py")}
    assert lines_of_the_map().keys() == {".".join(parts) for parts in files if parts[-1] not in ("__init__", "__main__")}
    for path in re.findall(r"`((?:fastbp|bench|tests|\.ci)/[\w/.]*|tox\.ini)`", README.read_text(encoding="utf-8")):
        assert (ROOT / path).exists(), path


def test_a_module_imports_what_stands_below_it():
    lines = lines_of_the_map()
    for path in MODULES:
        module = module_name(path)
        for name in own_imports(path, module) & lines.keys():
            assert lines.get(module, -1) <= lines[name], (module, name)
