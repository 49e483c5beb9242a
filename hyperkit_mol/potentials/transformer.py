"""The graph-free Transformer (arXiv:2510.02259): atoms are tokens, everything else is learned."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hyperkit.nn import EuclideanAttention, LorentzAttention
from hyperkit.ops import lorentz
from hyperkit_mol.potentials.batch import CHARGES, SPINS, AtomicBatch
from hyperkit_mol.potentials.config import ModelConfig
from hyperkit_mol.potentials.errors import ModelError
from hyperkit_mol.potentials.escaip import BackboneOutput

__all__ = ["Transformer"]

_STATE = 2  # tokens before the atoms: charge and spin


class _SwiGLU(nn.Module):
    def __init__(self, width: int, hidden: int, out: int) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(width, 2 * hidden, bias=False), nn.Linear(hidden, out, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.up(x).chunk(2, -1)
        return self.down(nn.functional.silu(gate) * value)


class _Block(nn.Module):
    def __init__(self, cfg: ModelConfig, double_backward: bool) -> None:
        super().__init__()
        self.lorentz, self.c = cfg.attention == "lorentz", cfg.curvature
        if self.lorentz:
            self.attention: LorentzAttention | EuclideanAttention = LorentzAttention(
                cfg.width, cfg.heads, c=cfg.curvature, scale=2.0, double_backward=double_backward
            )
        else:
            self.attention = EuclideanAttention(cfg.width, cfg.heads, double_backward=double_backward)
        self.double_backward = double_backward
        self.norm1, self.norm2 = nn.RMSNorm(cfg.width), nn.RMSNorm(cfg.width)
        self.forward_layer = _SwiGLU(cfg.width, cfg.feed_forward * cfg.width, cfg.width)

    def forward(self, x: Tensor, mask: Tensor | None, causal: bool = False) -> Tensor:
        # The fused kernel has no second derivative, and only training needs one. Set here and not in `train`,
        # which Lightning goes around.
        self.attention.double_backward = self.double_backward and self.training
        h = self.norm1(x)
        if self.lorentz:
            # Tokens are the space coordinates of points; what comes back is read the same way.
            x = x + self.attention(lorentz.from_space(h, self.c), mask=mask, causal=causal)[..., 1:]
        else:
            x = x + self.attention(h, mask=mask, causal=causal)
        return x + self.forward_layer(self.norm2(x))


class Transformer(nn.Module):
    """All-to-all attention on atoms, charge and spin, with RMSNorm and SwiGLU as in LLaMA.

    The paper's second stage: one token for the charge, one for the spin, one for each atom (embedding of the
    element plus a linear map of its coordinates from the mean of the atoms), bidirectional attention, no
    positional embedding. So energies do not change when atoms change places or all move together; rotation
    is learned from augmentation and holds as well as that. A head for each atom gives its energy, and a
    second one its force where forces are direct, as in the paper; by default forces are the gradient.

    Parameters
    ----------
    config : ModelConfig
    elements : list of int
        Atomic numbers that the model knows.

    Raises
    ------
    ModelError
        On call, for periodic structures: without a graph there are no images.
    """

    lookup: Tensor

    def __init__(self, config: ModelConfig, elements: list[int]) -> None:
        super().__init__()
        self.config = config
        w = config.width
        lookup = torch.full((119,), -1)
        lookup[torch.tensor(elements)] = torch.arange(len(elements))
        self.register_buffer("lookup", lookup, persistent=False)
        self.element = nn.Embedding(len(elements), w)
        self.charge, self.spin = nn.Embedding(len(CHARGES), w), nn.Embedding(len(SPINS), w)
        self.coordinates = nn.Linear(3, w, bias=False)
        direct = config.forces == "direct"
        self.blocks = nn.ModuleList(_Block(config, not direct) for _ in range(config.layers))
        self.norm = nn.RMSNorm(w)
        self.energy = _SwiGLU(w, w, 1)
        self.force = _SwiGLU(w, w, 3) if direct else None

    def readouts(self) -> list[nn.Linear]:
        """The last layers, of the energy and of direct forces: what they give is in units of the scale."""
        heads = [self.energy] if self.force is None else [self.energy, self.force]
        return [head.down for head in heads]

    def layout(self, batch: AtomicBatch) -> tuple[Tensor, ...]:
        """Where each atom stands among the tokens ``(N,)`` and which tokens are real ``(B, longest + 2)``.

        What depends on the batch's numbers and not only on its shapes is here, so that :meth:`forward` can be
        traced.

        Raises
        ------
        ModelError
            For periodic structures.
        """
        if bool(batch.pbc.any()):
            raise ModelError("the Transformer has no periodic images; use escaip for periodic structures")
        counts, longest = batch.counts, int(batch.counts.max())
        first = torch.cumsum(counts, 0) - counts
        place = torch.arange(len(batch.numbers), device=counts.device) - first[batch.index] + _STATE
        mask = torch.arange(longest + _STATE, device=counts.device) < counts.unsqueeze(-1) + _STATE
        return place, mask

    def forward(self, batch: AtomicBatch, layout: tuple[Tensor, ...] | None = None) -> BackboneOutput:
        """Energies (and direct forces) of the atoms of `batch`, with its :meth:`layout` where it is known."""
        place, mask = layout or self.layout(batch)
        mean = torch.zeros(batch.size, 3, dtype=batch.positions.dtype, device=mask.device)
        mean = mean.index_add(0, batch.index, batch.positions) / batch.counts.unsqueeze(-1)
        atoms = self.element(self.lookup[batch.numbers])
        atoms = atoms + self.coordinates(batch.positions - mean[batch.index])
        tokens = atoms.new_zeros(*mask.shape, atoms.shape[-1])
        tokens = tokens.index_put((batch.index, place), atoms)
        state = torch.stack([self.charge(batch.charge - CHARGES[0]), self.spin(batch.spin)], 1)
        tokens = tokens + nn.functional.pad(state, (0, 0, 0, mask.shape[1] - _STATE))
        for block in self.blocks:
            tokens = block(tokens, mask[:, None, None, :])
        found = self.norm(tokens[batch.index, place])
        forces = None if self.force is None else self.force(found)
        return BackboneOutput(self.energy(found).squeeze(-1), None, forces)
