"""Pictures and tables of attention against distance."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np

from hyperkit_mol.files import replacing
from hyperkit_mol.potentials.attention_maps import AttentionProfile

__all__ = ["plot_attention", "write_attention"]


def plot_attention(profile: AttentionProfile) -> Any:
    """A matplotlib figure: a panel for each layer and head; below, all layers, radii and crowding.

    Returns
    -------
    matplotlib.figure.Figure
    """
    from matplotlib import colormaps
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    layers, heads, _ = profile.mean.shape
    width, row = max(8.0, 1.35 * heads + 1.0), 1.25
    figure = Figure(figsize=(width, row * layers + 3.9), layout="constrained", dpi=150)
    FigureCanvasAgg(figure)
    parts: Any = figure.subfigures(2, 1, height_ratios=[row * layers + 0.5, 3.4])
    top, bottom = parts
    colors = colormaps["viridis"](np.linspace(0.05, 0.8, layers))
    x, there = profile.centers, profile.pairs > 0
    grid = top.subplots(layers, heads, sharex=True, sharey=True, squeeze=False)
    for k in range(layers):
        for h in range(heads):
            axes = grid[k, h]
            axes.fill_between(x[there], profile.mean[k, h, there], color=colors[k], alpha=0.18, linewidth=0)
            axes.plot(x[there], profile.mean[k, h, there], color=colors[k], linewidth=1.3)
            axes.set_title(f"layer {k + 1}, head {h + 1}", fontsize=7, pad=2)
            axes.tick_params(labelsize=6)
            axes.spines[["top", "right"]].set_visible(False)
    grid[0, 0].set_ylim(0.0, 1.05 * float(np.nanmax(profile.mean)))  # shared by all
    number = f"{profile.structures} structure" + "s" * (profile.structures > 1)
    tokens = "atom to atom" if profile.kind == "transformer" else "neighbour to neighbour of one atom"
    top.suptitle(f"Mean attention weight against distance (Å), {tokens}; {number}", fontsize=9)

    left, middle, right = bottom.subplots(1, 3)
    for k in range(layers):
        y = profile.mean[k].mean(0)
        used = there & (np.nan_to_num(y) > 0)
        label = f"layer {k + 1}: $r^{{{-profile.exponent[k]:.2f}}}$"
        left.plot(x[used], y[used], "o-", color=colors[k], markersize=2.5, linewidth=1, label=label)
    y = profile.mean.mean((0, 1))
    used = there & (np.nan_to_num(y) > 0)
    scale = np.exp(np.average(np.log(y[used] * x[used]), weights=profile.pairs[used]))
    left.plot(x[used], scale / x[used], "k--", linewidth=1, label="1/r")
    left.set(xscale="log", yscale="log", xlabel="distance (Å)", ylabel="mean weight")
    left.xaxis.set_major_formatter("{x:g}")
    left.xaxis.set_minor_formatter("{x:g}")
    left.legend(fontsize=6, frameon=False)

    middle.bar(np.arange(1, layers + 1), profile.radius, color=colors)
    middle.axhline(profile.radius_even, color="k", linestyle="--", linewidth=1, label="even attention")
    middle.set(xlabel="layer", ylabel="radius of 90 % of it (Å)", xticks=np.arange(1, layers + 1))
    middle.set_ylim(0.0, 1.2 * float(np.nanmax([*profile.radius, profile.radius_even])))
    middle.legend(fontsize=6, frameon=False, loc="upper right")

    correlation, even = profile.crowding()
    for k in range(layers):
        label = f"layer {k + 1}: {correlation[k]:.2f}"
        right.plot(profile.spacing, profile.reach[k], ".", color=colors[k], markersize=3, label=label)
    right.plot(profile.spacing, profile.reach_even, "kx", markersize=3, label=f"even: {even:.2f}")
    right.set(xlabel="mean distance to 4 nearest (Å)", ylabel="reach of an atom (Å)")
    right.margins(y=0.3)
    right.legend(
        fontsize=6, frameon=False, title="rank correlation", title_fontsize=6, loc="lower left", ncols=2
    )
    for axes in (left, middle, right):
        axes.tick_params(labelsize=6, which="both")
        axes.xaxis.label.set_size(8)
        axes.yaxis.label.set_size(8)
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def write_attention(profile: AttentionProfile, path: str | Path) -> list[Path]:
    """Write the picture, and beside it a CSV file (weights by bin) and a JSON file (everything else).

    Parameters
    ----------
    profile : AttentionProfile
    path : str or Path
        Of the picture: .png, .svg or .pdf.

    Returns
    -------
    list of Path
        Picture, CSV, JSON.

    Raises
    ------
    ValueError
        For another kind of picture.
    """
    path = Path(path)
    kind = path.suffix.lower().removeprefix(".")
    if kind not in ("png", "svg", "pdf"):
        raise ValueError(f"output must end in .png, .svg or .pdf, got {path.name}")
    with replacing(path) as temporary:
        plot_attention(profile).savefig(temporary, format=kind)
    table, figures = path.with_suffix(".csv"), path.with_suffix(".json")
    with replacing(table) as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["layer", "head", "distance", "pairs", "mean_weight"])
        for (k, h, b), value in np.ndenumerate(profile.mean):
            if profile.pairs[b]:
                row = [k + 1, h + 1, f"{profile.centers[b]:.4f}", int(profile.pairs[b]), f"{value:.6g}"]
                writer.writerow(row)
    with replacing(figures) as temporary:
        temporary.write_text(json.dumps(profile.figures(), indent=1), encoding="utf-8")
    return [path, table, figures]
