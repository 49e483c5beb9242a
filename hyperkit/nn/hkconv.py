"""HKConv: hyperbolic convolution by kernel points (Qu and Zou, arXiv:2306.08862; LoG 2024)."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from hyperkit._checks import full_precision, lorentz_points, width
from hyperkit.manifolds.lorentz import Lorentz
from hyperkit.manifolds.poincare import PoincareBall
from hyperkit.nn._base import Activation, LorentzCurvature, activation_of, one_of
from hyperkit.nn._kernel_module import Correlation, KernelTransform
from hyperkit.nn._kernel_rows import join
from hyperkit.nn._pairs import Pairs, pairs, unpack
from hyperkit.nn.linear import LorentzLinear
from hyperkit.nn.poincare import BallCurvature, PoincareLinear
from hyperkit.ops import _fused
from hyperkit.ops import lorentz as ops
from hyperkit.ops import poincare as ball
from hyperkit.ops._poincare_core import ball_points

Aggregation = Literal["mean", "attention", "gin"]
_FUSED = {"distance": 0, "linear": 1, "gaussian": 2}  # correlations that the compiled kernel knows


class _Score(nn.Module):
    """Attention over neighbours: ``-|x - a|_L^2/tau`` for a learnable point a and temperature tau.

    It reads nothing but the relative features, so that Theorem 2 holds with it.
    """

    def __init__(self, features: int, manifold: Lorentz | PoincareBall) -> None:
        super().__init__()
        self.manifold = manifold
        # Space coordinates: any optimiser keeps the point on the hyperboloid.
        self.query = nn.Parameter(torch.randn(features) * features**-0.5)
        self.log_temperature = nn.Parameter(torch.tensor(features**0.5).log())

    def forward(self, x: Tensor) -> Tensor:
        """Scores ``(R)`` of points ``(R, d + 1)``."""
        c = self.manifold.c
        a = ops.from_space(self.query, c)
        flipped = torch.cat([-a[:1], a[1:]])
        with full_precision(x):
            return (2.0 / c + 2.0 * (x @ flipped)) * torch.exp(-self.log_temperature)


class _GIN(nn.Module):
    """Before the centroid a linear layer, after it a linear layer, the activation and a linear layer."""

    def __init__(
        self, features: int, manifold: Lorentz | PoincareBall, activation: Activation, scale: float
    ) -> None:
        super().__init__()
        self.manifold = manifold
        self.act = activation_of("relu" if activation is None else activation)
        self.layers = nn.ModuleList(
            PoincareLinear(features, features, c=manifold)
            if isinstance(manifold, PoincareBall)
            else LorentzLinear(features, features, c=manifold, scale=scale)
            for _ in range(3)
        )

    def _linear(self, i: int, x: Tensor, activate: bool = False) -> Tensor:
        c = self.manifold.c
        on_ball = isinstance(self.manifold, PoincareBall)
        if on_ball:
            x = ball.from_lorentz(x, c)
        if activate:
            assert self.act is not None
            x = ball.projx(self.act(x), c) if on_ball else self.act(x)
        x = self.layers[i](x)
        return ball.to_lorentz(x, c) if on_ball else x

    def before(self, x: Tensor) -> Tensor:
        """Of neighbours' points."""
        return self._linear(0, x)

    def after(self, x: Tensor) -> Tensor:
        """Of centroids."""
        return self._linear(2, self._linear(1, x), activate=True)


class _KernelConv(nn.Module):
    """What both models share; nodes are in Lorentz coordinates here."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        num_kernels: int,
        manifold: Lorentz | PoincareBall,
        correlation: Correlation,
        aggregation: Aggregation,
        self_loop: bool,
        empty: Literal["origin", "self"],
        activation: Activation,
        scale: float,
        options: dict[str, Any],
    ) -> None:
        super().__init__()
        one_of(aggregation=(aggregation, ("mean", "attention", "gin")), empty=(empty, ("origin", "self")))
        if empty == "self" and in_features != out_features:
            raise ValueError(
                "empty='self' needs in_features equal to out_features, "
                f"got in_features={in_features} and out_features={out_features}"
            )
        self.in_features, self.out_features, self.num_kernels = in_features, out_features, num_kernels
        self.correlation, self.aggregation = correlation, aggregation
        self.self_loop, self.empty = self_loop, empty
        self.manifold = manifold
        self.kernels = KernelTransform(
            in_features,
            out_features,
            num_kernels,
            manifold=manifold,
            correlation=correlation,
            activation=activation,
            scale=scale,
            **options,
        )
        self.score = _Score(out_features, manifold) if aggregation == "attention" else None
        self.gin = _GIN(out_features, manifold, activation, scale) if aggregation == "gin" else None

    @property
    def c(self) -> float | Tensor:
        """Curvature of the layer's manifold."""
        return self.manifold.c

    def kernel_points(self) -> Tensor:
        """Kernel points ``(K, in_features + 1)`` in Lorentz coordinates, the first at the origin."""
        return self.kernels.points()

    def _fusable(self, x: Tensor) -> bool:
        """Whether the compiled kernel does what this layer is set to."""
        k = self.kernels
        return (
            k.model == "lorentz"
            and self.aggregation == "mean"
            and self.correlation in _FUSED
            and k.activation is None
            and not (k.dropout and self.training)
            and _fused.conv_takes(self.c, x, k.weight, k.bias, k.log_scale)
        )

    def _convolve(self, x: Tensor, graph: Pairs) -> Tensor:
        if self._fusable(x):
            k = self.kernels
            assert k.log_scale is not None
            out, total = _fused.conv(
                x,
                k.weight,
                k.bias,
                k.log_scale,
                k.points(),
                graph.source,
                graph.target,
                graph.weight,
                graph.width,
                _FUSED[self.correlation],
                k.sigma,
                float(self.c),
            )
            return torch.where(total == 0, x, out) if self.empty == "self" else out
        points, weight = self.kernels(x[graph.source], x[graph.target])
        if graph.weight is not None:
            weight = weight * graph.weight
        if self.gin is not None:
            points = self.gin.before(points)
        if self.score is not None:
            weight = weight * self._softmax(self.score(points), weight, graph).unsqueeze(-1)
        total = graph.sum(weight)
        out = join(graph.sum(weight * points), total, self.c)
        if self.gin is not None:
            out = self.gin.after(out)
        alone = x if self.empty == "self" else self._origin(out)
        return torch.where(total == 0, alone, out)  # a NaN goes on, it is not taken for nobody

    def _origin(self, like: Tensor) -> Tensor:
        return ops.origin(1, self.out_features + 1, c=self.c, dtype=like.dtype, device=like.device)

    def _softmax(self, score: Tensor, weight: Tensor, graph: Pairs) -> Tensor:
        """``exp`` of the scores over that of the largest; their sum is left to the centroid."""
        with torch.no_grad():
            highest = graph.max(score.masked_fill(weight.squeeze(-1) <= 0, -torch.inf))
            highest = torch.where(highest.isfinite(), highest, torch.zeros_like(highest))
        # A pair of weight 0 is not under the maximum: kept from overflowing to infinity times zero.
        over = torch.where(weight.squeeze(-1) > 0, score - highest[graph.target], torch.zeros_like(score))
        return torch.exp(over)

    def extra_repr(self) -> str:
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, "
            f"num_kernels={self.num_kernels}, correlation={self.correlation!r}, "
            f"aggregation={self.aggregation!r}"
        )


class HKConv(_KernelConv):
    """Hyperbolic kernel convolution on a graph, Lorentz model (Qu and Zou, arXiv:2306.08862).

    For a node x with neighbours ``x_i`` and kernel points ``k_1 = o, ..., k_K``:

    1. ``z_i = x_i (-) x``: the boost that takes x to the origin, applied to ``x_i``;
    2. ``x_i' = centroid_k(HLinear_k(z_i), weights w(d(z_i, k_k)))``;
    3. ``x' = centroid_i(x_i')``.

    With the defaults this is the paper's layer: ``w(d) = d``, so that a *farther* kernel weighs *more*, and
    the kernels are fixed. Moving x and its neighbours along the geodesic from the origin through x leaves the
    output (Theorem 2): the layer sees how neighbours lie around a node, not where the node is.

    Parameters
    ----------
    in_features, out_features : int
        Dimensions d and o of the manifolds; points have one coordinate more.
    num_kernels : int
        K; 2 to 9 in the paper.
    c : float or Lorentz
        Curvature, > 0, or a manifold, whose curvature may be learnable.
    correlation : {"distance", "linear", "gaussian", "learned"}
        Weight of a kernel for a neighbour at distance D from it: ``D`` (the paper), ``max(0, 1 - D/sigma)``
        (KPConv), ``exp(-D^2/(2 sigma^2))``, or ``softmax(A D + b)`` over the K distances with learnable A and
        b. With ``"linear"`` a neighbour counts with the sum of its weights, and not at all beyond the reach
        of every kernel; the others have weight 1.
    aggregation : {"mean", "attention", "gin"}
        Over neighbours: their centroid (the paper's w = 1); softmax of the negative squared Lorentzian
        distance to a learnable point; a linear layer before the centroid and two with the activation (relu
        if none is given) between them after it.
    self_loop : bool
        Count a node among its neighbours. Its relative feature is the origin whatever the node, so this adds
        one learned point, the same for all nodes, and no information about the node.
    trainable_kernels : bool
        Train the kernel points, as tangent vectors at the origin with any optimiser.
    empty : {"origin", "self"}
        Output of a node without neighbours: the origin, or its own feature (with ``out_features`` equal to
        ``in_features``).
    bias, activation, dropout, scale
        Of ``HLinear_k``, see :class:`~hyperkit.nn.LorentzLinear`.
    extent : float
        Distance of the outermost kernel point from the origin.
    sigma : float, optional
        Width of the linear (default ``4/sqrt(c)``) and gaussian (default ``1/sqrt(c)``) correlation.

    Raises
    ------
    ValueError
        If an option is none of those accepted, or a number is out of its range.

    Examples
    --------
    >>> import torch
    >>> from hyperkit.nn import HKConv, geometry
    >>> x = geometry("lorentz").random_normal(3, features=8)
    >>> conv = HKConv(8, 16, num_kernels=4)
    >>> conv(x, torch.tensor([[1, 2, 0], [0, 0, 1]])).shape  # 1 -> 0, 2 -> 0, 0 -> 1
    torch.Size([3, 17])
    >>> neighbors = torch.tensor([[1, 2], [0, -1], [-1, -1]])
    >>> torch.allclose(conv(x, neighbors=neighbors), conv(x, torch.tensor([[1, 2, 0], [0, 0, 1]])), atol=1e-5)
    True
    """

    manifold: Lorentz

    def __init__(
        self,
        in_features: int,
        out_features: int,
        num_kernels: int,
        *,
        c: LorentzCurvature = 1.0,
        correlation: Correlation = "distance",
        aggregation: Aggregation = "mean",
        self_loop: bool = False,
        trainable_kernels: bool = False,
        empty: Literal["origin", "self"] = "origin",
        bias: bool = True,
        activation: Activation = None,
        dropout: float = 0.0,
        scale: float = 10.0,
        extent: float = 0.66,
        sigma: float | None = None,
    ) -> None:
        options = {"trainable_kernels": trainable_kernels, "bias": bias, "dropout": dropout}
        super().__init__(
            in_features,
            out_features,
            num_kernels,
            c if isinstance(c, Lorentz) else Lorentz(c),
            correlation,
            aggregation,
            self_loop,
            empty,
            activation,
            scale,
            {**options, "extent": extent, "sigma": sigma},
        )

    def forward(
        self,
        x: Tensor | Any,
        edge_index: Tensor | None = None,
        *,
        neighbors: Tensor | None = None,
        mask: Tensor | None = None,
        edge_weight: Tensor | None = None,
    ) -> Tensor:
        """Apply the layer to a graph given by its edges or by its neighbours.

        Parameters
        ----------
        x : Tensor or object
            Nodes ``(N, in_features + 1)``; or an object with ``x``, ``edge_index`` and maybe ``edge_weight``
            (PyG's ``Data``), given alone.
        edge_index : Tensor, optional
            ``(2, E)`` as in PyG: row 0 the neighbours (source), row 1 the nodes that they are neighbours of
            (target). An undirected graph holds both directions.
        neighbors : Tensor, optional
            ``(N, M)`` in place of `edge_index`: row n names the neighbours of node n. Without a mask -1
            stands for none (:func:`hyperkit.graphs.knn`, :func:`hyperkit.graphs.pad_neighbors`).
        mask : Tensor, optional
            Boolean ``(N, M)``, True where `neighbors` holds a neighbour.
        edge_weight : Tensor, optional
            >= 0, ``(E)`` or ``(N, M)``: weights of the centroid over neighbours. Only ratios matter.

        Returns
        -------
        Tensor
            Points ``(N, out_features + 1)``.

        Raises
        ------
        ValueError
            If both or none of `edge_index` and `neighbors` are given, shapes do not fit, or (on the CPU) an
            index is out of range or a weight is negative.
        TypeError
            If indices are no integers, the mask is not boolean, or `x` is neither form.
        """
        if not isinstance(x, Tensor):
            x, edge_index, edge_weight = unpack(x, edge_index, neighbors, edge_weight)
        width(x, self.in_features + 1, "x", "in_features + 1")
        (x,) = lorentz_points(self.c, x=x)
        return self._convolve(x, pairs(x, edge_index, neighbors, mask, edge_weight, self.self_loop))


class PoincareHKConv(_KernelConv):
    """:class:`HKConv` on the Poincaré ball: the same steps, with the linear layers of HNN++.

    ``z_i = (-x) (+) x_i`` is Möbius addition (the same isometry as the boost), ``HLinear_k`` is
    :class:`~hyperkit.nn.PoincareLinear`, centroids are Einstein midpoints. All of it is computed in Lorentz
    coordinates, where the midpoint is a sum and the linear layer a matrix product.

    Parameters
    ----------
    in_features, out_features : int
        Dimensions of the balls.
    num_kernels : int
        K.
    c : float or PoincareBall
        Curvature, > 0, or a manifold.
    correlation, aggregation, self_loop, trainable_kernels, empty, extent, sigma
        As in :class:`HKConv`.
    bias : bool
        Of the linear layers.
    activation : str or callable, optional
        Applied to the space coordinates of ``z_i``.
    dropout : float
        Of the space coordinates of ``z_i``.

    Raises
    ------
    ValueError
        As :class:`HKConv`.

    Examples
    --------
    >>> import torch
    >>> from hyperkit.nn import PoincareHKConv
    >>> conv = PoincareHKConv(8, 4, num_kernels=3)
    >>> conv(torch.zeros(2, 8), torch.tensor([[0], [1]])).shape
    torch.Size([2, 4])
    """

    manifold: PoincareBall

    def __init__(
        self,
        in_features: int,
        out_features: int,
        num_kernels: int,
        *,
        c: BallCurvature = 1.0,
        correlation: Correlation = "distance",
        aggregation: Aggregation = "mean",
        self_loop: bool = False,
        trainable_kernels: bool = False,
        empty: Literal["origin", "self"] = "origin",
        bias: bool = True,
        activation: Activation = None,
        dropout: float = 0.0,
        extent: float = 0.66,
        sigma: float | None = None,
    ) -> None:
        options = {"trainable_kernels": trainable_kernels, "bias": bias, "dropout": dropout}
        super().__init__(
            in_features,
            out_features,
            num_kernels,
            c if isinstance(c, PoincareBall) else PoincareBall(c),
            correlation,
            aggregation,
            self_loop,
            empty,
            activation,
            1.0,
            {**options, "extent": extent, "sigma": sigma},
        )

    def forward(
        self,
        x: Tensor | Any,
        edge_index: Tensor | None = None,
        *,
        neighbors: Tensor | None = None,
        mask: Tensor | None = None,
        edge_weight: Tensor | None = None,
    ) -> Tensor:
        """Map points of the ball ``(N, in_features)`` to ``(N, out_features)``, as :meth:`HKConv.forward`."""
        if not isinstance(x, Tensor):
            x, edge_index, edge_weight = unpack(x, edge_index, neighbors, edge_weight)
        width(x, self.in_features, "x", "in_features")
        (x,) = ball_points(self.c, x=x)
        graph = pairs(x, edge_index, neighbors, mask, edge_weight, self.self_loop)
        return ball.from_lorentz(self._convolve(ball.to_lorentz(x, self.c), graph), self.c)
