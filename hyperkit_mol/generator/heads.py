"""The decoder's two ways out: the label of the next motif, and the sites where a motif takes children."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn

from hyperkit.nn import Geometry

__all__ = ["LabelHead", "SiteHead", "pick", "segment_log_softmax"]


def similarity(space: Geometry, x: Tensor, y: Tensor) -> Tensor:
    """Minus the squared distance that the distance heads use (squared Lorentzian, or Euclidean), ``(*,)``."""
    if space.is_lorentz:
        product = x * y
        return 2 / space.manifold.c + 2 * (product.sum(-1) - 2 * product[..., 0])
    return -(x - y).square().sum(-1)


_ROUNDS = 16


def segment_log_softmax(logits: Tensor, segment: Tensor, count: int) -> Tensor:
    """Log-softmax over the entries that share a segment.

    Parameters
    ----------
    logits, segment : Tensor
        ``(P,)``; the segment of each entry, 0 to ``count - 1``.
    count : int
        Number of segments.
    """
    top = logits.new_full((count,), -torch.inf).scatter_reduce(0, segment, logits.detach(), "amax")
    shifted = logits - top[segment]
    total = logits.new_zeros(count).index_add(0, segment, shifted.exp())
    return shifted - total.log()[segment]


def pick(scores: Tensor, segment: Tensor, count: int) -> Tensor:
    """Index of the largest entry of each segment, ``(count,)``; the first of equals."""
    top = scores.new_full((count,), -torch.inf).scatter_reduce(0, segment, scores, "amax")
    place = torch.arange(len(scores), device=scores.device)
    place = torch.where(scores == top[segment], place, len(scores))
    best = torch.full((count,), len(scores), dtype=torch.long, device=scores.device)
    return best.scatter_reduce(0, segment, place, "amin")


def gumbel(shape: torch.Size, temperature: float, generator: torch.Generator | None, like: Tensor) -> Tensor:
    """Noise that turns an argmax into a sample at `temperature`."""
    u = torch.rand(shape, generator=generator, device=like.device, dtype=like.dtype)
    return -temperature * torch.log(-torch.log(u.clamp(1e-20, 1 - 1e-7)))


class LabelHead(nn.Module):
    """Softmax over labels by distance to trainable points, in two levels.

    The most frequent labels stand in the first level beside one entry per cluster of rarer ones; a cluster
    is looked at only where it is needed. MOSES has thousands of motifs, of which 500 make up 99 % of nodes:
    a flat softmax would be most of a training step.
    """

    def __init__(self, space: Geometry, features: int, num_labels: int, head_size: int) -> None:
        super().__init__()
        cuts = [num_labels]
        if num_labels > head_size + head_size // 2:
            cuts = [head_size]
            while cuts[-1] < num_labels:
                grown = cuts[-1] * 4
                cuts.append(num_labels if grown > 0.7 * num_labels else grown)
        self.cuts = cuts
        self.head = space.MLR(features, cuts[0] + len(cuts) - 1)
        self.tails = nn.ModuleList(space.MLR(features, high - low) for low, high in itertools.pairwise(cuts))

    def forward(self, y: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probability of `label` and whether the greedy choice is `label`, both ``(M,)``."""
        bounds = torch.tensor(self.cuts, device=y.device)
        cluster = torch.bucketize(label, bounds, right=True)  # 0: first level
        first = torch.where(cluster == 0, label, self.cuts[0] + cluster - 1)
        logits = self.head(y).log_softmax(-1)
        log_prob = logits.gather(-1, first[:, None])[:, 0]
        right = logits.argmax(-1) == first
        for k, tail in enumerate(self.tails):
            rows = (cluster == k + 1).nonzero()[:, 0]
            if len(rows):
                inner = tail(y[rows]).log_softmax(-1)
                own = label[rows] - self.cuts[k]
                log_prob = log_prob.index_add(0, rows, inner.gather(-1, own[:, None])[:, 0])
                right = right.index_put((rows,), right[rows] & (inner.argmax(-1) == own))
        return log_prob, right

    @torch.no_grad()
    def sample(
        self, y: Tensor, allowed: Tensor, temperature: float, generator: torch.Generator | None = None
    ) -> Tensor:
        """Draw labels among the `allowed` ones (``(num_labels,)`` bool); temperature 0 is greedy.

        A cluster may hold labels that are not allowed. Drawing again where one comes up gives just the
        distribution of allowed labels; what is still wrong after some rounds is drawn with a mask.
        """
        first = self.cuts[0]
        logits = self.head(y).clone()
        logits[:, :first].masked_fill_(~allowed[:first], -torch.inf)
        for k in range(len(self.tails)):
            if not allowed[self.cuts[k] : self.cuts[k + 1]].any():
                logits[:, first + k] = -torch.inf
        label = torch.empty(len(y), dtype=torch.long, device=y.device)
        rows = torch.arange(len(y), device=y.device)
        for attempt in range(_ROUNDS):
            masked = temperature == 0 or attempt == _ROUNDS - 1
            drawn = self._draw(y[rows], logits[rows], allowed if masked else None, temperature, generator)
            label[rows] = drawn
            rows = rows[~allowed[drawn]]
            if not len(rows):
                break
        return label

    def _draw(
        self,
        y: Tensor,
        logits: Tensor,
        allowed: Tensor | None,
        temperature: float,
        generator: torch.Generator | None,
    ) -> Tensor:
        first = self.cuts[0]
        drawn = (logits + gumbel(logits.shape, temperature, generator, logits)).argmax(-1)
        label = drawn.clone()
        for k, tail in enumerate(self.tails):
            rows = (drawn == first + k).nonzero()[:, 0]
            if len(rows):
                inner = tail(y[rows])
                if allowed is not None:
                    inner = inner.masked_fill(~allowed[self.cuts[k] : self.cuts[k + 1]], -torch.inf)
                inner = inner + gumbel(inner.shape, temperature, generator, inner)
                label[rows] = self.cuts[k] + inner.argmax(-1)
        return label


class SiteHead(nn.Module):
    """Chooses among a motif's free sites, one child after the other, or "no more", by distance."""

    def __init__(self, space: Geometry, features: int, width: int, site_kind: Tensor, num_kinds: int) -> None:
        super().__init__()
        self.space = space
        self.lift = space.Lift()
        self.join = space.Concat()
        inner = width
        self.num_sites = len(site_kind)
        # A site's point is its own plus its atom kind's: a site of a rare motif starts from what is known.
        self.site = nn.Embedding(self.num_sites + 1, inner)
        self.kind = nn.Embedding(num_kinds + 1, inner)
        nn.init.normal_(self.site.weight, std=0.02)
        nn.init.normal_(self.kind.weight, std=0.3)
        self.register_buffer("site_kind", torch.cat([site_kind, torch.tensor([num_kinds])]), persistent=False)
        self.site_kind: Tensor
        self.bias = nn.Embedding(self.num_sites + 1, 1)
        nn.init.zeros_(self.bias.weight)
        self.count = nn.Embedding(8, inner)
        nn.init.normal_(self.count.weight, std=0.3)
        self.query = space.Linear(features + inner, inner, activation="relu")

    def embed(self, site: Tensor) -> Tensor:
        """Tangent vectors of sites (`num_sites`: none), ``(*, features)``."""
        return self.site(site) + self.kind(self.site_kind[site])

    def forward(
        self,
        node: Tensor,
        row_node: Tensor,
        previous: Tensor,
        count: Tensor,
        pair_row: Tensor,
        pair_site: Tensor,
    ) -> Tensor:
        """Scores of all pairs, ``(P,)``.

        Parameters
        ----------
        node : (M, features + time)
            State of each node.
        row_node : (R,)
            Node of each decision.
        previous, count : (R,)
            Site of the child before, number of children before.
        pair_row, pair_site : (P,)
            The choices.
        """
        so_far = self.lift(self.embed(previous) + self.count(count.clamp(max=7)))
        query = self.query(self.join(node[row_node], so_far))
        choice = self.lift(self.embed(pair_site))
        return similarity(self.space, query[pair_row], choice) + self.bias(pair_site)[:, 0]
