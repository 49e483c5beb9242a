"""From tokens and Euclidean features to points."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hyperkit._checks import floats, width
from hyperkit.nn._base import LorentzCurvature, LorentzLayer, positive
from hyperkit.ops import lorentz as ops


class ExpMap0(LorentzLayer):
    """Lift Euclidean features ``(*, features)`` to points: the exponential map at the origin (HAEGAN's E2H).

    Parameters
    ----------
    features : int, optional
        Dimension, checked when given.
    c : float or Lorentz
        Curvature, > 0, or a manifold.

    Examples
    --------
    >>> import torch
    >>> from hyperkit.nn import ExpMap0
    >>> ExpMap0(3)(torch.zeros(2, 3))[0]
    tensor([1., 0., 0., 0.])
    """

    def __init__(self, features: int | None = None, *, c: LorentzCurvature = 1.0) -> None:
        super().__init__(c)
        self.features = features

    def forward(self, x: Tensor) -> Tensor:
        """Map vectors ``(*, d)`` to points ``(*, d + 1)``."""
        (x,) = floats(x=x)
        if self.features is not None:
            width(x, self.features, "x", "features")
        return ops.expmap0(nn.functional.pad(x, (1, 0)), self.c)


class LorentzEmbedding(LorentzLayer):
    """Embedding with Euclidean weights, lifted by the exponential map at the origin (HAEGAN's HEmbed).

    Parameters
    ----------
    num_embeddings : int
        Size of the vocabulary.
    features : int
        Dimension d of the manifold.
    c : float or Lorentz
        Curvature, > 0, or a manifold.
    padding_idx : int, optional
        Row that stays at the origin.

    Notes
    -----
    Weights start at N(0, 1/d), so that points start at a distance of about 1 from the origin.

    Examples
    --------
    >>> import torch
    >>> from hyperkit.nn import LorentzEmbedding
    >>> LorentzEmbedding(100, 8)(torch.tensor([[3, 1, 4]])).shape
    torch.Size([1, 3, 9])
    """

    def __init__(
        self,
        num_embeddings: int,
        features: int,
        c: LorentzCurvature = 1.0,
        *,
        padding_idx: int | None = None,
    ) -> None:
        super().__init__(c)
        positive(num_embeddings=num_embeddings, features=features)
        self.embedding = _embedding(num_embeddings, features, padding_idx)

    def forward(self, index: Tensor) -> Tensor:
        """Map indices ``(*)`` to points ``(*, d + 1)``."""
        weight = self.embedding.weight
        if index.numel() > weight.shape[0]:
            # Lift each row of the table once instead of each occurrence.
            table = ops.expmap0(nn.functional.pad(weight, (1, 0)), self.c)
            return nn.functional.embedding(index, table, self.embedding.padding_idx)
        return ops.expmap0(nn.functional.pad(self.embedding(index), (1, 0)), self.c)


class EuclideanEmbedding(nn.Module):
    """Euclidean twin of :class:`LorentzEmbedding`, with the same weights."""

    def __init__(
        self,
        num_embeddings: int,
        features: int,
        c: LorentzCurvature = 1.0,
        *,
        padding_idx: int | None = None,
    ) -> None:
        super().__init__()
        positive(num_embeddings=num_embeddings, features=features)
        self.embedding = _embedding(num_embeddings, features, padding_idx)

    def forward(self, index: Tensor) -> Tensor:
        """Map indices ``(*)`` to vectors ``(*, d)``."""
        return self.embedding(index)


def _embedding(num_embeddings: int, features: int, padding_idx: int | None) -> nn.Embedding:
    out = nn.Embedding(num_embeddings, features, padding_idx=padding_idx)
    with torch.no_grad():
        out.weight.normal_(0.0, features**-0.5)
        if padding_idx is not None:
            out.weight[padding_idx] = 0.0
    return out


class EuclideanLift(nn.Module):
    """Euclidean twin of :class:`ExpMap0`: the identity."""

    def __init__(self, features: int | None = None, *, c: LorentzCurvature = 1.0) -> None:
        super().__init__()
        self.features = features

    def forward(self, x: Tensor) -> Tensor:
        """Return `x`, of shape ``(*, d)``."""
        if self.features is not None:
            width(x, self.features, "x", "features")
        return x
