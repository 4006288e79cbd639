"""A profile as pictures: roofline and phases, one HTML page, trace events; and the heat map of a sweep."""

import base64
import html
import io
import json
from pathlib import Path
from typing import Any

from fastbp.files import replacing
from fastbp.profiling.tables import BOUND_BY, figure, tables, title_of
from fastbp.tables import Table

FORMATS = (".png", ".pdf", ".svg", ".html")
COLOURS = {"compute": "#2b6cb0", "memory": "#c05621", "latency": "#6b46c1", "overhead": "#718096"}
MARKERS = {"forward": "o", "delta": "s", "gradient": "^"}
LEVEL_STYLES = {"L2": "-", "L3": "--", "memory": ":"}
DOTS_PER_INCH = 120


def pyplot() -> Any:
    """Matplotlib's functions, drawing into files."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt


def save_profile(profile: Any, path: Any) -> None:
    """Write the picture of a profile, or a page with it.

    Parameters
    ----------
    profile : fastbp.profiling.report.Profile
    path : str or Path
        Ending in one of `FORMATS`.
    """
    path = Path(path)
    if path.suffix.lower() not in FORMATS:
        raise ValueError(f"path must end in {', '.join(FORMATS)}, got {str(path)!r}")
    plt = pyplot()
    drawn = draw(profile, plt)
    try:
        if path.suffix.lower() == ".html":
            with replacing(path) as stream:
                stream.write(page(profile, drawn).encode())
        else:
            save_picture(drawn, path)
    finally:
        plt.close(drawn)


def save_picture(drawn: Any, path: Any) -> None:
    """Write a figure of matplotlib in the format that the name ends in."""
    with replacing(path) as stream:
        drawn.savefig(stream, dpi=DOTS_PER_INCH, format=Path(path).suffix[1:])


def draw(profile: Any, plt: Any) -> Any:
    """Roofline on the left, phases on the right."""
    height = max(5.2, 2.2 + 0.34 * len(profile.phases))
    drawn, (left, right) = plt.subplots(1, 2, figsize=(13, height), layout="constrained", width_ratios=(1.15, 1))
    draw_roofline(profile, left)
    draw_bars(profile, right)
    rate = profile.samples_per_second.median
    speed = f"{figure(rate)} samples/s, {figure(profile.gflops.median)} GFLOP/s, {profile.fraction_of_peak:.0%} of the peak"
    network = profile.network
    batches = f"batches of {network['batch_size']:,}, {network['threads']} thread{'s' * (network['threads'] > 1)}"
    drawn.suptitle(f"{title_of(network)}, {batches}\n{speed}", fontsize=11)
    return drawn


def draw_roofline(profile: Any, axes: Any) -> None:
    """GFLOP/s over operations per byte, below the ceilings of the machine."""
    threads, peak = profile.network["threads"], profile.peak_gflops
    points = [phase for phase in profile.phases if phase.gflops and phase.intensity]
    least = min([phase.intensity for phase in points if phase.intensity] + [0.5]) / 2
    most = max([phase.intensity for phase in points if phase.intensity] + [100]) * 3
    for level, style in LEVEL_STYLES.items():
        bandwidth = profile.ceilings.bandwidth(level, threads)
        ridge = min(max(peak / bandwidth, least), most)
        axes.plot([least, ridge], [least * bandwidth, ridge * bandwidth], color="black", lw=1, ls=style,
                  label=f"{level}, {figure(bandwidth)} GB/s")  # fmt: skip
    fastest = profile.ceilings.bandwidth("L2", threads)
    axes.plot([min(peak / fastest, most), most], [peak, peak], color="black", lw=2, label=f"peak, {figure(peak)} GFLOP/s")
    for number, phase in enumerate(points):
        axes.plot(phase.intensity, phase.gflops, MARKERS[phase.name], color=f"C{number % 10}", ms=9, mec="black", mew=0.5,
                  ls="", label=f"{phase.label}, {phase.share:.0%}")  # fmt: skip
    copies = [(phase, least * phase.gbs) for phase in profile.phases if phase.gbs and not phase.gflops]
    for number, (phase, height) in enumerate(copies, len(points)):
        # at the left edge, where the lines of the bandwidths begin, so that heights can be compared with them
        label = f"{phase.label}, {phase.share:.0%}: {figure(phase.gbs or 0.0)} GB/s"
        axes.plot(
            least, height, "<", color=f"C{number % 10}", ms=9, mec="black", mew=0.5, clip_on=False, zorder=3, label=label
        )
    lowest = min([*[phase.gflops for phase in points if phase.gflops], *[height for _, height in copies], peak / 50])
    axes.set(xscale="log", yscale="log", xlim=(least, most), ylim=(lowest / 3, peak * 1.6))
    axes.set_title("Roofline (at the left edge: phases without products, by their bytes)", fontsize=10)
    axes.set(xlabel="operations per byte that has to be loaded or stored (FLOP/B)", ylabel="speed (GFLOP/s)")
    axes.grid(alpha=0.25, which="both", lw=0.5)
    axes.figure.legend(*axes.get_legend_handles_labels(), fontsize=8, loc="outside lower left", ncols=4, frameon=False)


def draw_bars(profile: Any, axes: Any) -> None:
    """Microseconds per step of every phase, in the order of a step."""
    steps = profile.network["steps_per_epoch"]
    times = [phase.seconds / steps * 1e6 for phase in profile.phases]
    places = range(len(times))
    axes.barh(places, times, color=[COLOURS[phase.bound] for phase in profile.phases])
    for place, (phase, time) in enumerate(zip(profile.phases, times, strict=True)):
        reached = "" if phase.reached is None else f", {phase.reached:.0%} of ceiling"
        axes.annotate(
            f"{phase.share:.1%}{reached}", (time, place), (4, 0), textcoords="offset points", va="center", fontsize=8
        )
    axes.set_yticks(list(places), [phase.label for phase in profile.phases], fontsize=9)
    axes.invert_yaxis()
    axes.set(
        xlim=(0, 1.45 * max([*times, 1e-9])), xlabel="time per step (us)", ylabel="phase [layer]", title="Where a step goes"
    )
    axes.grid(alpha=0.25, axis="x", lw=0.5)
    handles = [axes.barh([0], [0], color=colour) for colour in COLOURS.values()]
    names = [f"bound by {BOUND_BY[bound]}" for bound in COLOURS]
    axes.figure.legend(handles, names, fontsize=8, loc="outside lower right", ncols=2, frameon=False)


# ---- one page --------------------------------------------------------------------------------------------------------

STYLE = (
    "body{font:15px sans-serif;margin:2em auto;max-width:75em;padding:0 1em}img{max-width:100%}"
    "table{display:block;overflow-x:auto}"
    "table{border-collapse:collapse;margin:1em 0 2em}td,th{padding:.2em .8em;border-bottom:1px solid #ddd;text-align:right}"
    "td.w,th.w{text-align:left}caption{text-align:left;font-weight:bold;padding:.3em 0}"
)


def page(profile: Any, drawn: Any) -> str:
    """A page that needs nothing else: the picture is in it."""
    picture = io.BytesIO()
    drawn.savefig(picture, dpi=DOTS_PER_INCH, format="png")
    data = base64.b64encode(picture.getvalue()).decode()
    title = html.escape(title_of(profile.network))
    body = "\n".join(html_table(table) for table in tables(profile))
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>fastbp: {title}</title><style>{STYLE}</style>"
        f'</head>\n<body><h1>{title}</h1>\n<img alt="roofline and phases" src="data:image/png;base64,{data}">\n{body}\n'
        "</body></html>\n"
    )


def html_table(table: Table) -> str:
    """One table in HTML."""

    def line(cells: Any, tag: str) -> str:
        words = [len(cells)] * (table.columns is None) or [table.words]
        shown = (f"<{tag}{' class=w' * (place < words[0])}>{html.escape(cell)}</{tag}>" for place, cell in enumerate(cells))
        return f"<tr>{''.join(shown)}</tr>"

    caption = f"<caption>{html.escape(table.title)}</caption>" if table.title else ""
    head = f"<thead>{line(table.columns, 'th')}</thead>" if table.columns else ""
    return f"<table>{caption}{head}<tbody>{''.join(line(row, 'td') for row in table.rows)}</tbody></table>"


# ---- trace events ----------------------------------------------------------------------------------------------------


def save_trace(profile: Any, path: Any) -> None:
    """Write an average step, a track for each thread, in the order in which phases follow each other."""
    with replacing(path) as stream:
        stream.write(json.dumps(trace_events(profile), allow_nan=False).encode() + b"\n")


def trace_events(profile: Any) -> dict[str, Any]:
    """The step in the trace event format; times are in microseconds."""
    phase_of = {phase.label: phase for phase in profile.phases}
    events: list[dict[str, Any]] = [named("process_name", 0, f"fastbp: an average step of {title_of(profile.network)}")]
    for thread, slices in enumerate(profile.threads):
        events.append(named("thread_name", thread, f"thread {thread}"))
        at = 0.0
        for label, seconds in slices:
            phase = phase_of[label]
            args = {"share": phase.share, "bound": phase.bound, "visits_per_epoch": phase.visits}
            known = {"gflops": phase.gflops, "gbs": phase.gbs, "of_ceiling": phase.reached}
            args |= {name: value for name, value in known.items() if value is not None}
            event = {"name": label, "cat": phase.bound, "ph": "X", "pid": 0, "tid": thread, "ts": at, "dur": seconds * 1e6}
            events.append(event | {"args": args})
            at += seconds * 1e6
    described = {name: str(value) for name, value in profile.network.items()}
    return {"traceEvents": events, "displayTimeUnit": "ns", "otherData": described}


def named(kind: str, thread: int, name: str) -> dict[str, Any]:
    """An event that gives a process or a thread its name."""
    return {"name": kind, "ph": "M", "pid": 0, "tid": thread, "args": {"name": name}}


# ---- sweep -----------------------------------------------------------------------------------------------------------


def save_sweep(found: Any, path: Any) -> None:
    """Draw a heat map of samples per second, with the figures in it."""
    import numpy as np
    from matplotlib.ticker import EngFormatter

    plt, short = pyplot(), EngFormatter(places=1)
    widths, sizes = found.widths, found.batch_sizes
    rates = np.array([cell.samples_per_second.median for cell in found.cells]).reshape(len(widths), len(sizes))
    drawn, axes = plt.subplots(figsize=(2.6 + 1.25 * len(sizes), 2.4 + 0.65 * len(widths)), layout="constrained")
    logs = np.log10(rates)
    image = axes.imshow(logs, cmap="viridis", aspect="auto")
    middle = (logs.min() + logs.max()) / 2
    for (row, column), rate in np.ndenumerate(rates):
        kernel = found.cells[row * len(sizes) + column].kernel
        colour = "white" if logs[row, column] < middle else "black"
        axes.text(column, row, f"{short(rate)}\n{kernel}", ha="center", va="center", color=colour, fontsize=9)
    axes.set_xticks(range(len(sizes)), [f"{size:,}" for size in sizes])
    axes.set_yticks(range(len(widths)), [f"{width:,}" for width in widths])
    axes.set(xlabel="batch size (rows per step)", ylabel="width w of the hidden layers (units)")
    axes.set_title(f"{found.name}, {found.settings['dtype']}: samples/s, and which kernel", fontsize=10)
    ticks = drawn.colorbar(image, ax=axes, label="samples/s")
    ticks.ax.yaxis.set_major_formatter(lambda value, _: short(10**value))
    save_picture(drawn, path)
    plt.close(drawn)
