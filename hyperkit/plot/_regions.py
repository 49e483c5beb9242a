"""Regions of the plane that a classifier tells apart."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from hyperkit.ops.convert import convert
from hyperkit.plot._axes import model_of, pyplot

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def decision_regions(
    ax: Axes,
    classifier: Callable[[Tensor], Tensor],
    c: float | Tensor = 1.0,
    *,
    model: str = "poincare",
    resolution: int = 300,
    colors: Sequence[Any] | None = None,
    boundary: bool = True,
    alpha: float = 0.35,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Colour the plane by the class that a classifier gives it.

    Parameters
    ----------
    ax : Axes
        From :func:`disk` or :func:`half_plane`.
    classifier : callable
        From points ``(N, 2)`` (or ``(N, 3)``, see `model`) to logits ``(N, K)``, or ``(N)`` of two classes:
        for example :class:`hyperkit.nn.PoincareMLR`, or a network that ends in one.
    c : float or Tensor
        Curvature, > 0, of the points that it takes.
    model : {"poincare", "lorentz"}
        What it takes.
    resolution : int
        Points along a side of the picture.
    colors : sequence, optional
        A colour for each class.
    boundary : bool
        Draw the lines between regions.
    alpha : float
        Opacity of the regions.
    dtype : torch.dtype
        Of the points that it takes.

    Returns
    -------
    Tensor
        Classes ``(resolution, resolution)``, -1 outside of the plane.
    """
    if model not in ("poincare", "lorentz"):
        raise ValueError(f"model must be 'poincare' or 'lorentz', got {model!r}")
    if resolution < 2:
        raise ValueError(f"resolution must be >= 2, got {resolution}")
    from matplotlib.colors import ListedColormap

    shown = model_of(ax)
    xlim, ylim = ((-1.0, 1.0), (-1.0, 1.0)) if shown == "poincare" else (ax.get_xlim(), ax.get_ylim())
    across = torch.linspace(*xlim, resolution, dtype=torch.float64)
    up = torch.linspace(*ylim, resolution, dtype=torch.float64)
    grid = torch.stack(torch.meshgrid(across, up, indexing="xy"), -1)
    inside = grid.square().sum(-1) < 0.9999 if shown == "poincare" else grid[..., 1] > 1e-6
    unit = convert(grid[inside], shown, model)
    scale = float(torch.as_tensor(c).detach()) ** -0.5
    with torch.no_grad():
        logits = classifier((scale * unit).to(dtype))
    if logits.ndim == 1 or logits.shape[-1] == 1:
        logits = torch.stack([-logits.reshape(-1), logits.reshape(-1)], -1)
    if logits.shape[0] != unit.shape[0]:
        raise ValueError(
            f"classifier must give a row for each of {unit.shape[0]} points, got shape {tuple(logits.shape)}"
        )
    classes = torch.full(inside.shape, -1)
    classes[inside] = logits.argmax(-1).cpu()
    number = logits.shape[-1]
    named = pyplot().get_cmap(
        "tab10" if number <= 10 else "turbo", max(number, 10 if number <= 10 else number)
    )
    table = ListedColormap(list(colors) if colors is not None else [named(i) for i in range(number)])
    image = classes.double().masked_fill(classes < 0, math.nan).numpy()
    ax.imshow(
        image,
        extent=(*xlim, *ylim),
        origin="lower",
        cmap=table,
        vmin=-0.5,
        vmax=number - 0.5,
        alpha=alpha,
        interpolation="nearest",
        aspect="equal",
        zorder=0.5,
    )
    if boundary:
        for k in range(number - 1):
            above = torch.full(inside.shape, math.nan, dtype=torch.float64)
            rest = torch.cat([logits[:, :k], logits[:, k + 1 :]], -1).amax(-1)
            above[inside] = (logits[:, k] - rest).double().cpu()
            if bool((above[inside] > 0).any()) and bool((above[inside] < 0).any()):
                ax.contour(
                    across.numpy(), up.numpy(), above.numpy(), levels=[0.0], colors="#333333", linewidths=0.8
                )
    return classes
