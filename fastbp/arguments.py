"""What arguments of the command line may be."""

import argparse
import csv
import difflib
import importlib.util
import io
import itertools
import os
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NoReturn

EXIT_USAGE = 2
PICTURE_FORMATS = (".png", ".pdf", ".svg")


class Parser(argparse.ArgumentParser):
    """A parser that says in one line what was wrong."""

    def error(self, message: str) -> NoReturn:
        """Leave with status 2."""
        self.exit(EXIT_USAGE, f"{self.prog}: error: {message}\n")


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A question for a word that is almost one of those known, else nothing."""
    close = difflib.get_close_matches(word, list(known), 1)
    return f": did you mean {close[0]!r}?" if close else ""


def positive(text: str, least: int = 1) -> int:
    """A whole number > 0, or >= `least`."""
    if not text.isdecimal() or int(text) < least:
        raise argparse.ArgumentTypeError(f"must be a whole number {'> 0' if least else '>= 0'}, got {text!r}")
    return int(text)


def seed(text: str) -> int:
    """A whole number >= 0."""
    return positive(text, 0)


def sizes(text: str) -> tuple[int, ...]:
    """Whole numbers > 0 between commas."""
    return tuple(positive(size) for size in text.split(","))


def names(text: str) -> tuple[str, ...]:
    """Names between commas; where one is quoted, as in a line of a CSV file."""
    try:
        return tuple(next(csv.reader(io.StringIO(text, newline=""), strict=True)) if '"' in text else text.split(","))
    except csv.Error as error:
        raise argparse.ArgumentTypeError(f"must be names between commas, got {text!r}: {error}") from None


def units(text: str) -> tuple[int, ...]:
    """Layer sizes, of which there are two at least."""
    result = sizes(text)
    if len(result) < 2:
        raise argparse.ArgumentTypeError(f"must be two numbers or more, inputs and outputs included, got {text!r}")
    return result


def batch_size(text: str) -> int | None:
    """A whole number > 0, or None for all rows."""
    return None if text == "full" else positive(text)


def check_picture(option: str, path: str, formats: tuple[str, ...] = PICTURE_FORMATS) -> None:
    """Refuse a picture that cannot be drawn, before the work that it would show."""
    if Path(path).suffix.lower() not in formats:
        raise ValueError(f"{option} must name a file ending in {', '.join(formats)}, got {path!r}")
    if importlib.util.find_spec("matplotlib") is None:
        raise ValueError(f"{option} needs matplotlib: pip install 'fastbp[cli]'")


def check_output(option: str, path: str, source: str | None = None) -> None:
    """Refuse a file that cannot be written, or that the work reads, before the work that it would hold."""
    file = Path(os.path.realpath(path))  # what a link points at, which need not be there
    if source is not None and os.path.exists(path) and os.path.exists(source) and os.path.samefile(path, source):
        raise ValueError(f"{option} must not name the file that is read, got {path!r}")
    if not os.path.isdir(file.parent):
        raise ValueError(f"{option} must name a file in an existing folder, got {path!r}")
    if file.exists() and not file.is_file():
        raise ValueError(f"{option} must name a file, got {path!r}")
    try:
        if file.exists():
            file.open("r+b").close()
        tempfile.TemporaryFile(dir=file.parent).close()  # nothing comes to be or goes that others might see
    except OSError as error:
        raise ValueError(f"{option} must name a file that can be written, got {path!r}: {error.strerror}") from None


def check_different(outputs: Mapping[str, str]) -> None:
    """Raise a ValueError where two options name one file."""
    for (one, path), (other, same) in itertools.combinations(outputs.items(), 2):
        if os.path.realpath(path) == os.path.realpath(same):
            raise ValueError(f"--{other} and --{one} must name two files, got {path!r} twice")
