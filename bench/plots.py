"""Figures as pictures: the spread of the rounds of every bench, and README's comparison."""

import hashlib
import io
import json

import tables

from fastbp.profiling.pictures import new_figure

COLOURS = {
    "fastbp": "#0b6e4f",
    "fastbp n_jobs=2": "#6bbf59",
    "one by one": "#b3de69",
    "python": "#bbbbbb",
    "numpy": "#4c78a8",
    "reference": "#9ecae9",
    "scikit-learn": "#f58518",
    "torch": "#e45756",
    "jax": "#b279a2",
}
FONT = {"font.size": 9, "svg.hashsalt": "fastbp", "svg.fonttype": "none"}


def label(key):
    subject, batch, _, dtype = key
    return f"{subject}, {f'batch {batch}, ' * bool(batch)}{dtype}"


def histograms(figures, folder):
    """Draw kind.svg for every kind: a box of the rounds of each bench, those of one group below each other."""
    for kind in dict.fromkeys(row["kind"] for row in figures["rows"]):
        histogram(tables.grouped(figures, kind), kind, folder / f"{kind}.svg")


def histogram(groups, kind, file):
    import matplotlib as mpl
    from matplotlib.patches import Patch

    names = tables.columns_of(groups, tables.COLUMNS)
    boxes = [(key, name, group[name]) for key, group in groups.items() for name in names if name in group]
    with mpl.rc_context(FONT):
        figure = new_figure(9, 1.2 + 0.16 * len(boxes) + 0.12 * len(groups))
        axes = figure.subplots()
        place, ticks = 0.0, []
        for key, group in groups.items():
            members = [name for name in names if name in group]
            ticks.append((place + (len(members) - 1) / 2, label(key)))
            for name in members:
                rounds = group[name].get("rounds") or [group[name]["seconds"]]
                parts = axes.boxplot(rounds, positions=[place], orientation="horizontal", widths=0.8, patch_artist=True)
                for part in (*parts["boxes"], *parts["whiskers"], *parts["caps"]):
                    part.set_color(COLOURS[name])
                parts["medians"][0].set_color("white")
                place += 1
            place += 0.8
        axes.set(xscale="log", xlabel=f"seconds of {tables.TIMED[kind]}", title=kind)
        axes.set_yticks([at for at, _ in ticks], [words for _, words in ticks])
        axes.set_ylim(place, -1.5)
        axes.grid(axis="x", alpha=0.3)
        handles = [Patch(color=COLOURS[name], label=name) for name in names]
        figure.legend(handles=handles, loc="outside lower center", ncols=len(names))
        figure.savefig(file, metadata={"Date": None})


def digest(figures):
    """What a picture says that it was drawn from."""
    return hashlib.sha256(json.dumps(figures, sort_keys=True).encode()).hexdigest()


def lead(figures):
    """README's picture, as SVG: the times of others as multiples of fastbp's."""
    import matplotlib as mpl

    kinds = [(kind, title) for kind, title in (("epoch", "training steps"), ("fit", "whole fits"))]
    parts = [(title, {k: g for k, g in tables.grouped(figures, kind).items() if "fastbp" in g}) for kind, title in kinds]
    with mpl.rc_context(FONT):
        sizes = [len(groups) for _, groups in parts]
        figure = new_figure(8, 1.5 + 0.22 * sum(sizes))
        rows = figure.subplots(2, 1, height_ratios=sizes, sharex=True)
        for axes, (title, groups) in zip(rows, parts, strict=True):
            for name in tables.PEERS:
                points = [
                    (group[name]["seconds"] / group["fastbp"]["seconds"], place)
                    for place, group in enumerate(groups.values())
                    if name in group
                ]
                if points:
                    axes.plot(*zip(*points, strict=True), "o", color=COLOURS[name], label=name, alpha=0.8)
            axes.set_yticks(range(len(groups)), [label(key) for key in groups])
            axes.set(xscale="log", title=title)
            axes.axvline(1, color=COLOURS["fastbp"])
            axes.invert_yaxis()
            axes.grid(alpha=0.3)
        figure.legend(*rows[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(tables.PEERS))
        rows[1].set_xlabel("time of others / time of fastbp, one core (right of 1: fastbp is faster)")
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None, "Description": digest(figures)})
    return text.getvalue()
