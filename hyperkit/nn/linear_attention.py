"""Attention whose cost grows linearly with the number of points."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hyperkit._checks import floats, full_precision, width
from hyperkit.nn._base import LorentzCurvature, LorentzLayer
from hyperkit.nn.attention import _sizes
from hyperkit.nn.linear import LorentzLinear
from hyperkit.ops import lorentz as ops

# Added to the rectified features: a query or key without a positive coordinate attends evenly.
_FLOOR = 1e-6


def _focus(x: Tensor, power: float) -> Tensor:
    """``|y| / |y^p| y^p`` with ``y = relu(x) + 1e-6``: positive, as long as y, nearer to its largest axes.

    The ratio does not see the scale of y, which is divided out first, so that no power under- or overflows.
    """
    y = torch.relu(x) + _FLOOR
    top = y.detach().amax(-1, keepdim=True)
    sharp = (y / top) ** power
    size = torch.linalg.vector_norm(y, dim=-1, keepdim=True)
    return sharp * (size / torch.linalg.vector_norm(sharp, dim=-1, keepdim=True))


class LorentzLinearAttention(LorentzLayer):
    """Linear attention on the Lorentz model (Yang et al., Hypformer, KDD 2024).

    Queries, keys and values are the space parts of linear maps of whole points (Hypformer's HTC). With the
    focusing function ``f(x) = |y|/|y^p| y^p``, ``y = relu(x)/|t|``, an output's space part is
    ``f(q) (sum_j f(k_j)^T v_j) / (f(q) . sum_j f(k_j)) + V v``; the sums over keys are computed once, so N
    points cost ``O(N d^2/heads)`` and no matrix of scores exists. The time follows from the space part, heads
    are joined by direct concatenation and a Lorentz linear layer.

    Parameters
    ----------
    features : int
        Dimension d of the manifold.
    num_heads : int
        Divides `features`.
    c : float or Lorentz
        Curvature, > 0, or a manifold.
    power : float
        ``p >= 1`` of the focusing function; 1 leaves the direction, 2 is the paper's.
    scale : float
        Of the output layer, see :class:`~hyperkit.nn.LorentzLinear`.

    Examples
    --------
    >>> import torch
    >>> from hyperkit.nn import LorentzLinearAttention, geometry
    >>> attention = LorentzLinearAttention(8, 2)
    >>> attention(geometry("lorentz").random_normal(1, 5000, features=8)).shape
    torch.Size([1, 5000, 9])
    """

    def __init__(
        self,
        features: int,
        num_heads: int,
        *,
        c: LorentzCurvature = 1.0,
        power: float = 2.0,
        scale: float = 10.0,
    ) -> None:
        super().__init__(c)
        self.head_features = _sizes(features, num_heads, 0.0)
        if not power >= 1.0:
            raise ValueError(f"power must be >= 1, got {power}")
        self.features, self.num_heads, self.power = features, num_heads, power
        self.in_proj = nn.Linear(features + 1, 3 * features)
        self.skip = nn.Linear(self.head_features, self.head_features)
        self.log_norm = nn.Parameter(torch.zeros(1))
        self.out = LorentzLinear(features, features, c=self.manifold, scale=scale)
        with torch.no_grad():
            self.in_proj.weight[:, 0] = 0.0

    def _project(self, x: Tensor, first: int, last: int) -> tuple[Tensor, ...]:
        """Projections `first` to `last` of (query, key, value), each ``(B, H, T, head_features)``."""
        rows = slice(first * self.features, last * self.features)
        z = nn.functional.linear(x, self.in_proj.weight[rows], self.in_proj.bias[rows])
        (z,) = floats(z=z)
        z = z.view(*x.shape[:2], last - first, self.num_heads, self.head_features)
        return z.permute(2, 0, 3, 1, 4).unbind(0)

    def forward(
        self,
        x: Tensor,
        memory: Tensor | None = None,
        *,
        mask: Tensor | None = None,
        causal: bool = False,
    ) -> Tensor:
        """Attend from `x` to itself, or to `memory`.

        Parameters
        ----------
        x : Tensor
            Points ``(B, T, d + 1)``.
        memory : Tensor, optional
            Points ``(B, S, d + 1)`` to attend to in place of `x`.
        mask : Tensor, optional
            Boolean ``(B, S)``, True where a key may be seen: a linear attention has no mask for pairs.
        causal : bool
            A step sees itself and earlier ones: running sums, ``T d^2/heads`` numbers a sequence in memory.

        Returns
        -------
        Tensor
            Points ``(B, T, d + 1)``.

        Raises
        ------
        TypeError
            If `mask` is not boolean.
        ValueError
            If a shape does not fit, or `causal` is asked for with a `memory`.
        """
        width(x, self.features + 1, "x", "features + 1")
        if x.ndim != 3:
            raise ValueError(f"x must have shape (B, T, features + 1), got {tuple(x.shape)}")
        if memory is None:
            q, k, v = self._project(x, 0, 3)
        else:
            if causal:
                raise ValueError("causal=True needs memory=None: the order of a memory is its own")
            width(memory, self.features + 1, "memory", "features + 1")
            (q,), (k, v) = self._project(x, 0, 1), self._project(memory, 1, 3)
        norm = self.log_norm.exp()
        q, k = _focus(q / norm, self.power), _focus(k / norm, self.power)
        if mask is not None:
            k = k * self._keys(mask, k)
        with full_precision(x):
            if causal:
                total = (k.unsqueeze(-1) * v.unsqueeze(-2)).cumsum(-3)
                summed = (q.unsqueeze(-2) @ total).squeeze(-2)
                size = (q * k.cumsum(-2)).sum(-1, keepdim=True)
            else:
                summed = q @ (k.transpose(-1, -2) @ v)
                size = q @ k.sum(-2).unsqueeze(-1)
        mean = summed / torch.where(size > 0, size, torch.ones_like(size))
        if memory is None:
            (skip,) = floats(skip=self.skip(v))
            mean = mean + skip
        heads = mean.transpose(1, 2).flatten(2)
        return self.out(ops.from_space(heads, self.c))

    def _keys(self, mask: Tensor, k: Tensor) -> Tensor:
        if mask.dtype != torch.bool:
            raise TypeError(f"mask must be boolean (True = may be seen), got {mask.dtype}")
        if mask.shape != (k.shape[0], k.shape[2]):
            raise ValueError(
                f"mask must have shape (B, S) = {(k.shape[0], k.shape[2])}, got {tuple(mask.shape)}"
            )
        return mask[:, None, :, None]

    def extra_repr(self) -> str:
        return f"features={self.features}, num_heads={self.num_heads}, power={self.power:g}"
