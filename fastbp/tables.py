"""Tables of text, with rich where it is installed."""

import importlib.util
import shutil
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass


def printable(text: str) -> str:
    """Text whose control characters are escaped, so that it stays on its line and no terminal obeys it."""
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


def figure(value: float | None) -> str:
    """Three digits, or all before the point; nothing for None."""
    if value is None:
        return ""
    size = abs(value)
    return f"{value:,.{0 if size >= 100 else 1 if size >= 10 else 2 if size >= 1 else 3}f}"


LEAST_ROOM = 20  # characters for a value, however narrow the terminal


@dataclass(frozen=True)
class Table:
    """Figures under their columns, or without `columns` names and what they stand for.

    The first `words` columns hold words, which stand to the left.
    """

    rows: Sequence[Sequence[str]]
    columns: Sequence[str] | None = None
    title: str = ""
    words: int = 0

    def text(self, width: int | None = None) -> str:
        """Lines that any terminal shows; what names stand for is wrapped where a width is given."""
        lines = [[printable(cell) for cell in line] for line in ([self.columns] if self.columns else []) + [*self.rows]]
        if self.columns is None and width is not None:
            room = max(LEAST_ROOM, width - max(len(line[0]) for line in lines) - 2)
            lines = [
                [name if not number else "", part]
                for name, value in lines
                for number, part in enumerate(textwrap.wrap(value, room) or [""])
            ]
        widths = [max(map(len, cells)) for cells in zip(*lines, strict=True)]
        justify = [str.ljust if self.left(place) else str.rjust for place in range(len(widths))]
        text = (
            "  ".join(just(cell, width) for just, cell, width in zip(justify, line, widths, strict=True)).rstrip()
            for line in lines
        )
        return "\n".join(["", *([self.title] if self.title else []), *text])

    def show(self) -> None:
        """Print it, with rich where it is installed."""
        if importlib.util.find_spec("rich") is None:
            print(self.text(shutil.get_terminal_size().columns if sys.stdout.isatty() else None))
            return
        from rich import box
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table(box=box.SIMPLE, show_header=self.columns is not None)
        for place, column in enumerate(self.columns or [""] * len(self.rows[0])):
            table.add_column(Text(printable(column)), justify="left" if self.left(place) else "right", no_wrap=place == 0)
        for row in self.rows:
            table.add_row(*(Text(printable(cell)) for cell in row))

        class Output(Console):
            def on_broken_pipe(self) -> None:  # rich would end the process here
                raise BrokenPipeError

        if self.title:
            Output().print(Text(self.title, "bold"))
        Output().print(table)

    def left(self, place: int) -> bool:
        """Whether a column stands to the left."""
        return self.columns is None or place < self.words
