"""Axes that know which model they show, and points on them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from hyperkit._checks import curvature
from hyperkit.ops.convert import convert

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.collections import PathCollection

_MODEL = "_hyperkit_model"


def pyplot() -> Any:
    """Matplotlib, imported when the first picture is drawn."""
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError("hyperkit.plot needs matplotlib: pip install 'hyperkit[plot]'") from error
    return plt


def _given(ax: Axes | None) -> Axes:
    return pyplot().subplots()[1] if ax is None else ax


def disk(ax: Axes | None = None, *, title: str | None = None) -> Axes:
    """Make an axes the Poincaré disk: its edge, equal scales, no ticks.

    Parameters
    ----------
    ax : Axes, optional
        A new figure's by default.
    title : str, optional
        Above the disk.

    Returns
    -------
    Axes
        To give to the other functions of this module. The disk has radius 1 for every curvature.
    """
    ax = _given(ax)
    from matplotlib.patches import Circle

    ax.add_patch(Circle((0.0, 0.0), 1.0, facecolor="#f6f7fb", edgecolor="#333333", lw=1.0, zorder=0))
    ax.set(aspect="equal", xlim=(-1.04, 1.04), ylim=(-1.04, 1.04))
    return _named(ax, "poincare", title)


def half_plane(
    ax: Axes | None = None, *, width: float = 3.0, height: float = 4.0, title: str | None = None
) -> Axes:
    """Make an axes the upper half-plane ``{y > 0}``; the origin of the other models is ``(0, 1)``.

    Parameters
    ----------
    ax : Axes, optional
        A new figure's by default.
    width, height : float
        The part that is shown: ``|x| <= width``, ``0 < y <= height``.
    title : str, optional
        Above the axes.
    """
    if not (width > 0 and height > 0):
        raise ValueError(f"width and height must be > 0, got {width} and {height}")
    ax = _given(ax)
    ax.axhspan(0.0, height, facecolor="#f6f7fb", zorder=0)
    ax.axhline(0.0, color="#333333", lw=1.2)
    ax.set(aspect="equal", xlim=(-width, width), ylim=(-0.04 * height, height))
    return _named(ax, "halfspace", title)


def _named(ax: Axes, model: str, title: str | None) -> Axes:
    setattr(ax, _MODEL, model)
    ax.set_xticks([])
    ax.set_yticks([])
    for spine in ax.spines.values():
        spine.set_visible(False)
    if title:
        ax.set_title(title, fontsize=10)
    return ax


def model_of(ax: Axes) -> str:
    """The model that an axes shows."""
    model = getattr(ax, _MODEL, None)
    if model is None:
        raise ValueError("ax must come from hyperkit.plot.disk or hyperkit.plot.half_plane, got a plain axes")
    return model


def ball(name: str, x: Any, c: float | Tensor) -> Tensor:
    """Points as float64 points ``(*, 2)`` of the ball of curvature -1, whatever their model."""
    c = curvature(c)
    c = float(c.detach()) if isinstance(c, Tensor) else float(c)
    x = torch.as_tensor(x).detach().cpu().double().as_subclass(Tensor)
    if x.ndim == 0 or x.shape[-1] not in (2, 3):
        raise ValueError(
            f"{name} must hold points of the plane, (*, 3) Lorentz or (*, 2) Poincaré, "
            f"got shape {tuple(x.shape)}"
        )
    if not bool(x.isfinite().all()):
        raise ValueError(f"{name} holds NaN or infinity")
    x = c**0.5 * x
    if x.shape[-1] == 3:
        return convert(x, "lorentz", "poincare")
    worst = float(x.norm(dim=-1).max()) if x.numel() else 0.0
    if worst >= 1.0:
        raise ValueError(f"{name} must lie in the ball of c={c:g}, got sqrt(c) |x| = {worst:.6g}")
    return x


def show(ax: Axes, x: Tensor) -> Any:
    """What matplotlib draws for points of the ball of curvature -1: an array ``(*, 2)``."""
    return convert(x, "poincare", model_of(ax)).numpy()


def points(ax: Axes, x: Any, c: float | Tensor = 1.0, **style: Any) -> PathCollection:
    """Draw points; colours, sizes and markers as in :meth:`matplotlib.axes.Axes.scatter`.

    Parameters
    ----------
    ax : Axes
        From :func:`disk` or :func:`half_plane`.
    x : Tensor
        Points ``(*, 3)`` (Lorentz) or ``(*, 2)`` (Poincaré).
    c : float or Tensor
        Curvature, > 0.
    **style
        For example ``color=labels`` (numbers), ``s=4``, ``cmap="viridis"``.
    """
    xy = show(ax, ball("x", x, c)).reshape(-1, 2)
    color = style.pop("color", None)
    if isinstance(color, Tensor):
        color = color.detach().cpu().numpy()
    if color is not None and not isinstance(color, str):
        style["c"] = color
    elif color is not None:
        style["color"] = color
    return ax.scatter(xy[:, 0], xy[:, 1], **{"s": 12.0, "zorder": 3, "linewidths": 0, **style})
