"""Programs of their own, in processes that import what the tests import."""

import os
import subprocess
import sys
from pathlib import Path


def environment(first=(), env=()):
    """The variables of such a process; packages in the folders `first` come before all others."""
    path = os.pathsep.join(map(str, [*first, Path(__file__).parent, *sys.path]))
    return os.environ | {"PYTHONPATH": path} | dict(env)


def run_python(*arguments, first=(), env=(), timeout=120, **options):
    """Run Python to its end and keep what it prints."""
    options = {"capture_output": True, "text": True} | options
    return subprocess.run([sys.executable, *map(str, arguments)], env=environment(first, env), timeout=timeout, **options)
