"""A profile as pictures: roofline and phases, one HTML page, trace events; and the heat map of a sweep."""

import base64
import html
import io
import itertools
import json
from pathlib import Path
from typing import Any

from fastbp.arguments import PICTURE_FORMATS
from fastbp.files import replacing
from fastbp.profiling.phases import BOUND_BY
from fastbp.tables import Table, figure

FORMATS = (*PICTURE_FORMATS, ".html")
COLOURS = {"compute": "#2b6cb0", "memory": "#c05621", "latency": "#6b46c1", "overhead": "#718096"}
MARKERS = {"forward": "o", "delta": "s", "gradient": "^"}
LEVEL_STYLES = {"L2": "-", "L3": "--", "memory": ":"}
DOTS_PER_INCH = 120


def new_figure(width: float, height: float) -> Any:
    """A figure of matplotlib of so many inches, which no window shows."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def save_picture(drawn: Any, path: Any) -> None:
    """Write a figure of matplotlib in the format that the name ends in."""
    with replacing(path) as stream:
        drawn.savefig(stream, dpi=DOTS_PER_INCH, format=Path(path).suffix[1:])


# ---- roofline and phases ---------------------------------------------------------------------------------------------


def save_profile(profile: Any, path: Any) -> None:
    """Draw the roofline with every phase on it, and how long the phases take.

    Parameters
    ----------
    path : str or Path
        A .png, .pdf or .svg file, or .html for one page with the picture and the tables in it.

    Raises
    ------
    ValueError
        If the file ends otherwise.
    OSError
        If it cannot be written.
    """
    ending = Path(path).suffix.lower()
    if ending not in FORMATS:
        raise ValueError(f"path must end in {', '.join(FORMATS)}, got {str(path)!r}")
    drawn = draw(profile)
    with replacing(path) as stream:
        if ending == ".html":
            stream.write(page(profile, drawn).encode())
        else:
            drawn.savefig(stream, dpi=DOTS_PER_INCH, format=ending[1:])


def draw(profile: Any) -> Any:
    """Roofline on the left, phases on the right."""
    drawn = new_figure(13, max(5.2, 2.2 + 0.34 * len(profile.phases)))
    left, right = drawn.subplots(1, 2, width_ratios=(1.15, 1))
    draw_roofline(profile, left)
    draw_bars(profile, right)
    rate = profile.samples_per_second.median
    speed = f"{figure(rate)} samples/s, {figure(profile.gflops)} GFLOP/s, {profile.fraction_of_peak:.0%} of the peak"
    batch_size, threads = profile.network["batch_size"], profile.network["threads"]
    batches = f"batches of {batch_size:,}, {threads} thread{'s' * (threads > 1)}"
    drawn.suptitle(f"{profile.title}, {batches}\n{speed}", fontsize=11)
    return drawn


def draw_roofline(profile: Any, axes: Any) -> None:
    """GFLOP/s over operations per byte, below the ceilings of the machine."""
    peak = profile.peak_gflops
    points = [phase for phase in profile.phases if phase.gflops and phase.intensity]
    least = min([phase.intensity for phase in points] + [0.5]) / 2
    most = max([phase.intensity for phase in points] + [100]) * 3
    for level, style in LEVEL_STYLES.items():
        bandwidth = profile.ceilings.best(level, profile.network["threads"])
        ridge = min(max(peak / bandwidth, least), most)
        axes.plot([least, ridge], [least * bandwidth, ridge * bandwidth], color="black", lw=1, ls=style,
                  label=f"{level}, {figure(bandwidth)} GB/s")  # fmt: skip
    fastest = profile.ceilings.best("L2", profile.network["threads"])
    axes.plot([min(peak / fastest, most), most], [peak, peak], color="black", lw=2, label=f"peak, {figure(peak)} GFLOP/s")
    # copies stand at the left edge, where the lines of the bandwidths begin, so that heights can be compared with them
    copies = [phase for phase in profile.phases if phase.gbs and not phase.gflops]
    places = [(phase.intensity, phase.gflops) for phase in points] + [(least, least * phase.gbs) for phase in copies]
    for number, (phase, place) in enumerate(zip(points + copies, places, strict=True)):
        label = f"{phase.label}, {phase.share:.0%}" + ("" if phase.gflops else f": {figure(phase.gbs)} GB/s")
        axes.plot(*place, MARKERS[phase.name] if phase.gflops else "<", color=f"C{number % 10}", ms=9, mec="black", mew=0.5,
                  ls="", label=label, clip_on=bool(phase.gflops), zorder=2 if phase.gflops else 3)  # fmt: skip
    lowest = min([height for _, height in places] + [peak / 50])
    axes.set(xscale="log", yscale="log", xlim=(least, most), ylim=(lowest / 3, peak * 1.6))
    axes.set_title("Roofline (at the left edge: phases without products, by their bytes)", fontsize=10)
    axes.set(xlabel="operations per byte that has to be loaded or stored (FLOP/B)", ylabel="speed (GFLOP/s)")
    axes.grid(alpha=0.25, which="both", lw=0.5)
    axes.figure.legend(*axes.get_legend_handles_labels(), fontsize=8, loc="outside lower left", ncols=4, frameon=False)


def draw_bars(profile: Any, axes: Any) -> None:
    """Microseconds per step of every phase, in the order of a step."""
    steps = profile.network["steps_per_epoch"]
    times = [phase.seconds / steps * 1e6 for phase in profile.phases]
    bars = axes.barh(range(len(times)), times, color=[COLOURS[phase.bound] for phase in profile.phases])
    reached = ["" if phase.reached is None else f", {phase.reached:.0%} of ceiling" for phase in profile.phases]
    shares = [f"{phase.share:.1%}{words}" for phase, words in zip(profile.phases, reached, strict=True)]
    axes.bar_label(bars, shares, padding=4, fontsize=8)
    axes.set_yticks(range(len(times)), [phase.label for phase in profile.phases], fontsize=9)
    axes.invert_yaxis()
    words = {"xlabel": "time per step (us)", "ylabel": "phase [layer]", "title": "Where a step goes"}
    axes.set(xlim=(0, 1.45 * max([*times, 1e-9])), **words)
    axes.grid(alpha=0.25, axis="x", lw=0.5)
    handles = [axes.barh([0], [0], color=colour) for colour in COLOURS.values()]
    names = [f"bound by {BOUND_BY[bound]}" for bound in COLOURS]
    axes.figure.legend(handles, names, fontsize=8, loc="outside lower right", ncols=2, frameon=False)


# ---- one page --------------------------------------------------------------------------------------------------------

STYLE = (
    "body{font:15px sans-serif;margin:2em auto;max-width:75em;padding:0 1em}img{max-width:100%}"
    "table{display:block;overflow-x:auto;border-collapse:collapse;margin:1em 0 2em}"
    "td,th{padding:.2em .8em;border-bottom:1px solid #ddd;text-align:right}"
    "td.w,th.w{text-align:left}caption{text-align:left;font-weight:bold;padding:.3em 0}"
)


def page(profile: Any, drawn: Any) -> str:
    """A page that needs nothing else: the picture is in it."""
    picture = io.BytesIO()
    drawn.savefig(picture, dpi=DOTS_PER_INCH, format="png")
    data = base64.b64encode(picture.getvalue()).decode()
    title = html.escape(profile.title)
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>fastbp: {title}</title><style>{STYLE}</style>"
        f'</head>\n<body><h1>{title}</h1>\n<img alt="roofline and phases" src="data:image/png;base64,{data}">\n'
        + "\n".join(map(html_table, profile.tables()))
        + "\n</body></html>\n"
    )


def html_table(table: Table) -> str:
    """One table in HTML."""

    def line(cells: Any, tag: str) -> str:
        shown = (f"<{tag}{' class=w' * table.left(at)}>{html.escape(cell)}</{tag}>" for at, cell in enumerate(cells))
        return f"<tr>{''.join(shown)}</tr>"

    lines = [line(table.columns or [], "th"), *[line(row, "td") for row in table.rows]]
    return f"<table><caption>{html.escape(table.title)}</caption>{''.join(lines)}</table>"


# ---- trace events ----------------------------------------------------------------------------------------------------


def save_trace(profile: Any, path: Any) -> None:
    """Write an average step as Chrome trace events, which Perfetto and chrome://tracing show.

    Each thread has a track of its own; times are microseconds.

    Parameters
    ----------
    path : str or Path

    Raises
    ------
    OSError
        If it cannot be written.
    """
    threads, step = profile.network["threads"] * bool(profile.phases), 1e6 / profile.network["steps_per_epoch"]
    names = [("process_name", 0, f"fastbp: an average step of {profile.title}")]
    names += [("thread_name", thread, f"thread {thread}") for thread in range(threads)]
    events = [{"name": kind, "ph": "M", "pid": 0, "tid": thread, "args": {"name": name}} for kind, thread, name in names]
    ends = [0.0] * threads
    for phase, thread in itertools.product(profile.phases, range(threads)):
        args = {"share": phase.share, "bound": phase.bound, "visits_per_epoch": phase.visits}
        args |= {"gflops": phase.gflops, "gbs": phase.gbs, "of_ceiling": phase.reached}
        times = {"ts": ends[thread], "dur": phase.threads[thread] * step}
        ends[thread] += times["dur"]
        event = {"name": phase.label, "cat": phase.bound, "ph": "X", "pid": 0, "tid": thread, **times}
        events.append(event | {"args": {name: value for name, value in args.items() if value is not None}})
    described = {name: str(value) for name, value in profile.network.items()}
    trace = {"traceEvents": events, "displayTimeUnit": "ns", "otherData": described}
    with replacing(path) as stream:
        stream.write(json.dumps(trace, allow_nan=False).encode() + b"\n")


# ---- sweep -----------------------------------------------------------------------------------------------------------


def save_sweep(found: Any, path: Any) -> None:
    """Draw a heat map of samples per second, with the figures in it."""
    import numpy as np
    from matplotlib.ticker import EngFormatter

    short, widths, sizes = EngFormatter(places=1), found.widths, found.batch_sizes
    logs = np.log10([cell["samples_per_second"].median for cell in found.cells]).reshape(len(widths), len(sizes))
    drawn = new_figure(2.6 + 1.25 * len(sizes), 2.4 + 0.65 * len(widths))
    axes = drawn.subplots()
    image = axes.imshow(logs, cmap="viridis", aspect="auto")
    for (row, column), log in np.ndenumerate(logs):
        colour = "white" if log < (logs.min() + logs.max()) / 2 else "black"
        words = f"{short(10**log)}\n{found.cells[row * len(sizes) + column]['kernel']}"
        axes.text(column, row, words, ha="center", va="center", color=colour, fontsize=9)
    axes.set_xticks(range(len(sizes)), [f"{size:,}" for size in sizes])
    axes.set_yticks(range(len(widths)), [f"{width:,}" for width in widths])
    axes.set(xlabel="batch size (rows per step)", ylabel="width w of the hidden layers (units)")
    axes.set_title(f"{found.name}, {found.settings['dtype']}: samples/s, and which kernel", fontsize=10)
    ticks = drawn.colorbar(image, ax=axes, label="samples/s")
    ticks.ax.yaxis.set_major_formatter(lambda value, _: short(10**value))
    save_picture(drawn, path)
