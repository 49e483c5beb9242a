"""Batched sampling: latents, then the depth-first walk for a whole batch at once, then RDKit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from rdkit import rdBase
from torch import Tensor

from hyperkit.nn import KVCache
from hyperkit_mol.chem.assemble import assemble_smiles
from hyperkit_mol.chem.batch import RELATIONS, SiteTable
from hyperkit_mol.generator.autoencoder import Latent
from hyperkit_mol.generator.heads import gumbel, pick
from hyperkit_mol.generator.model import MoleculeGenerator

__all__ = ["SampledTrees", "Sampler"]

Array = npt.NDArray[Any]


@dataclass
class SampledTrees:
    """Motif trees of a batch: ``(B, T)`` arrays, and the number of nodes of each."""

    label: Array
    parent: Array
    site: Array
    length: Array


class Sampler:
    """Samples molecules from a generator.

    Parameters
    ----------
    model : MoleculeGenerator
    batch_size : int
    max_nodes : int
        A walk that has promised this many motifs promises no more; every open site is still filled, so the
        molecule is whole.
    temperature : float, optional
        Of the decoder's choices: 1 samples the model as it is, 0 takes the likeliest choice every time. Left
        out, it is ``model.config.temperature``.
    """

    def __init__(
        self,
        model: MoleculeGenerator,
        batch_size: int = 1024,
        max_nodes: int = 40,
        temperature: float | None = None,
    ) -> None:
        temperature = model.config.temperature if temperature is None else temperature
        if temperature < 0:
            raise ValueError(f"temperature must be >= 0, got {temperature}")
        if batch_size < 1:
            raise ValueError(f"batch_size must be >= 1, got {batch_size}")
        if not 1 <= max_nodes <= 63:
            raise ValueError(f"max_nodes must be from 1 to 63, got {max_nodes}")
        self.model, self.batch_size, self.max_nodes, self.temperature = (
            model,
            batch_size,
            max_nodes,
            temperature,
        )
        v = model.vocabulary
        self.sites = SiteTable(v)
        is_root = torch.from_numpy(v.label_attach < 0)
        self._allowed = (is_root, ~is_root)
        if not is_root.any():
            raise ValueError("the vocabulary has no root label")

    def sample(self, count: int, seed: int = 0) -> Iterator[list[str]]:
        """Yield lists of canonical SMILES, `count` in all, the same for the same seed and batch size."""
        for number, begin in enumerate(range(0, count, self.batch_size)):
            yield self.batch(number, min(self.batch_size, count - begin), seed)

    def batch(self, number: int, size: int, seed: int) -> list[str]:
        """Batch `number` of :meth:`sample`: it depends on nothing that was sampled before."""
        # Mixed by numpy: torch's generator for the CPU takes no more than 32 bits of a seed.
        mixed = int(np.random.SeedSequence([seed, number]).generate_state(1)[0])
        generator = torch.Generator().manual_seed(mixed)
        latents = self.model.sample_latents(size, generator)
        return self.smiles(self.decode(latents, generator, fade=self.model.config.fade))

    def smiles(self, trees: SampledTrees) -> list[str]:
        """Canonical SMILES of trees. Every tree is a valid molecule; nothing is filtered."""
        v = self.model.vocabulary
        out = []
        with rdBase.BlockLogs():
            for label, parent, site, length in zip(
                trees.label.tolist(),
                trees.parent.tolist(),
                trees.site.tolist(),
                trees.length.tolist(),
                strict=True,
            ):
                labels = [v.labels[x] for x in label[:length]]
                motifs = [v.motifs[m] for m, _ in labels]
                attach = [a for _, a in labels]
                out.append(assemble_smiles(motifs, attach, parent[:length], site[:length]))
        return out

    @torch.no_grad()
    def decode(
        self,
        latent: Latent,
        generator: torch.Generator | None = None,
        start: tuple[list[int], list[int], list[int]] | None = None,
        fade: float = 0.0,
    ) -> SampledTrees:
        """Walk depth first from each latent, all at once.

        Parameters
        ----------
        latent : Latent
        generator : torch.Generator, optional
        start : (labels, parents, sites), optional
            A motif tree that every result contains: its nodes are decided before, others may be added.
        fade : float
            How far the latents are faded (:meth:`~hyperkit_mol.generator.autoencoder.Autoencoder.blur`):
            ``model.config.fade`` for a prior's, 0 for a molecule's.

        Raises
        ------
        ValueError
            If `start` has more than `max_nodes` nodes.
        """
        auto = self.model.autoencoder
        if start is not None and len(start[0]) > self.max_nodes:
            raise ValueError(
                f"start must have at most max_nodes = {self.max_nodes} motifs, got {len(start[0])}"
            )
        walk = _Walk(self, auto.condition(latent, fade), generator, _Start(*start) if start else None)
        while walk.step():
            pass
        return SampledTrees(walk.label, walk.parent, walk.site, walk.length)


class _Start:
    """A tree that is given: the label of each node, and the sites and nodes of its children in order."""

    def __init__(self, label: list[int], parent: list[int], site: list[int]) -> None:
        size = len(label)
        children = [[k for k in range(size) if parent[k] == n] for n in range(size)]
        self.label = np.array(label, np.int64)
        self.count = np.array([len(c) for c in children], np.int64)
        most = int(self.count.max()) + 1  # one more, so that "the next one" can always be looked up
        self.node = np.full((size, most), -1, np.int64)
        self.site = np.full((size, most), -1, np.int64)
        for n, c in enumerate(children):
            self.node[n, : len(c)], self.site[n, : len(c)] = c, [site[k] for k in c]


class _Walk:
    """The state of a batch of walks. Rows that are finished are dropped as the walk goes on."""

    def __init__(
        self, sampler: Sampler, z: Tensor, generator: torch.Generator | None, start: _Start | None = None
    ) -> None:
        self.sampler, self.generator, self.start = sampler, generator, start
        self.decoder = sampler.model.autoencoder.decoder
        v = sampler.model.vocabulary
        self.label_motif, self.label_attach, self.offset = v.label_motif, v.label_attach, v.atom_offset
        size, most = len(z), sampler.max_nodes
        # What is built, for every molecule of the batch.
        self.label = np.zeros((size, most), np.int64)
        self.parent = np.full((size, most), -1, np.int64)
        self.site = np.full((size, most), -1, np.int64)
        self.length = np.zeros(size, np.int64)
        # What is needed to go on, for the rows that are still open.
        self.row = np.arange(size)
        self.z = z
        self.caches = [KVCache() for _ in self.decoder.blocks]
        self.depth = np.zeros((size, most), np.int64)
        self.stack_parent = np.full((size, most), -1, np.int64)
        self.stack_site = np.full((size, most), -1, np.int64)
        self.height = np.ones(size, np.int64)  # the root's slot
        # Of a given tree: the node that each open slot is for (-1: free), and nodes without a slot so far.
        self.stack_given = np.full((size, most), -1, np.int64)
        self.owed = np.zeros(size, np.int64)
        if start is not None:
            self.stack_given[:, 0] = 0
            self.owed += len(start.label) - 1
        self.last_label = np.full(size, self.decoder.num_labels, np.int64)
        inner = self.decoder.sites.site.embedding_dim
        self.children = z.new_zeros(size, inner)
        self.mass = z.new_zeros(size)
        self.n = 0

    def step(self) -> bool:
        """Decode one node in every open row; False when none is left."""
        rows, n = self.row, self.n
        at = np.arange(len(rows))
        top = self.height - 1
        up, where = self.stack_parent[at, top], self.stack_site[at, top]
        pending = self.height.copy()
        self.height -= 1
        above = np.maximum(up, 0)
        slot = np.full(len(rows), self.decoder.sites.num_sites)
        if n:
            slot = self.offset[self.label_motif[self.label[rows, above]]] + where
        depth = self.depth[at, above] + 1 if n else np.zeros(len(rows), np.int64)

        x = self.decoder.inputs(
            self.z[:, None],
            torch.from_numpy(self.last_label)[:, None],
            torch.from_numpy(slot)[:, None],
            self.children[:, None],
            torch.from_numpy(depth)[:, None],
            torch.from_numpy(pending)[:, None],
            torch.tensor([n]),
            self.mass[:, None],
        )
        biases = self.decoder.biases(torch.from_numpy(self._relation(up))[:, None])
        for i, block in enumerate(self.decoder.blocks):
            x = block(x, bias=biases[i], cache=self.caches[i])
        x = x[:, 0]

        out = self.decoder.leave(self.decoder.join(x, self.z))
        allowed = self.sampler._allowed[0 if n == 0 else 1]
        label = self.decoder.labels.sample(out, allowed, self.sampler.temperature, self.generator)
        given = self.stack_given[at, top]
        if self.start is not None:
            label = torch.where(
                torch.from_numpy(given >= 0), torch.from_numpy(self.start.label[given]), label
            )
        self.mass = self.mass + self.decoder.label_mass[label]
        state = self.decoder.state(x, label, self.mass)
        label = label.numpy()
        self.label[rows, n], self.parent[rows, n], self.site[rows, n] = label, up, where
        self.length[rows] = n + 1
        self.depth[at, n] = depth
        self.last_label = label
        self.n += 1
        self._children(state, self.label_motif[label], self.label_attach[label], given)

        open_ = np.flatnonzero(self.height > 0)
        if len(open_) < len(rows):
            self._keep(open_)
        return bool(len(self.row))

    def _relation(self, up: Array) -> Array:
        """Relations of the slot to be filled to positions 0 .. n, as in ``Collator._relations``."""
        rows, n = self.row, self.n
        at = np.arange(len(rows))
        relation = np.zeros((len(rows), n + 1), np.int64)
        if n:
            relation[:, 1:][self.parent[rows, :n] == up[:, None]] = RELATIONS["sibling"]
            kind, ancestor = RELATIONS["parent"], up
            while (real := ancestor >= 0).any():
                r = at[real]
                relation[r, ancestor[real] + 1] = kind
                kind = min(kind + 1, RELATIONS["ancestor"])
                ancestor = np.where(real, self.parent[rows, np.maximum(ancestor, 0)], -1)
        relation[:, 0] = RELATIONS["start"]
        own = relation[:, n]
        relation[:, n] = np.where(own == 0, RELATIONS["self"], own)
        return relation

    def _children(self, state: Tensor, motif: Array, attach: Array, given: Array) -> None:
        """Let the new node of every row promise its children, one after the other.

        A node of a given tree (`given` >= 0) promises that tree's children too: until it has, no site beyond
        the next of them may be chosen, and it may not stop.
        """
        sampler, head = self.sampler, self.decoder.sites
        count = len(motif)
        last, run = np.full(count, -1, np.int64), np.zeros(count, np.int64)
        number = np.zeros(count, np.int64)
        chosen = np.full((count, sampler.max_nodes), -1, np.int64)
        self.children = self.children.new_zeros(count, self.children.shape[1])
        chosen_given = np.full((count, sampler.max_nodes), -1, np.int64)
        fulfilled = np.zeros(count, np.int64)
        begun = self.start

        def room(rows: Array) -> Array:
            """Whether there is room for a child that nobody asked for."""
            return self.n + self.height[rows] + number[rows] + self.owed[rows] < sampler.max_nodes

        def may_go_on(rows: Array) -> Array:
            return room(rows) if begun is None else room(rows) | (due(rows) >= 0)

        def due(rows: Array) -> Array:
            """Site of the given child that comes next, -1 for none."""
            assert begun is not None
            node = given[rows]
            return np.where(node >= 0, begun.site[np.maximum(node, 0), fulfilled[rows]], -1)

        active = np.arange(count)
        active = active[may_go_on(active)]
        while len(active):
            row, column = sampler.sites.choices(motif[active], attach[active], last[active], run[active])
            bound = None
            if begun is not None:
                bound = due(active)
                fits = (bound[row] < 0) | (column == bound[row]) | (room(active)[row] & (column < bound[row]))
                row, column = row[fits], column[fits]
            able = np.zeros(len(active), bool)
            able[row] = True
            index = np.cumsum(able) - 1
            active, base = active[able], self.offset[motif[active]]
            if not len(active):
                break
            stop = np.arange(len(active))
            if bound is not None:
                stop = stop[bound[able] < 0]
            pair_row = torch.from_numpy(np.concatenate([index[row], stop]))
            pair_site = torch.from_numpy(
                np.concatenate([base[row] + column, np.full(len(stop), head.num_sites)])
            )
            before = last[active]
            base = self.offset[motif[active]]
            previous = np.where(before < 0, head.num_sites, base + np.maximum(before, 0))
            scores = head(
                state,
                torch.from_numpy(active),
                torch.from_numpy(previous),
                torch.from_numpy(number[active]),
                pair_row,
                pair_site,
            )
            noise = gumbel(scores.shape, sampler.temperature, self.generator, scores)
            site = pair_site[pick(scores + noise, pair_row, len(active))].numpy()
            more = site != head.num_sites
            active, site, base = active[more], site[more], base[more]
            if not len(active):
                break
            local = site - base
            self.children[torch.from_numpy(active)] += head.embed(torch.from_numpy(site))
            run[active] = np.where(last[active] == local, run[active] + 1, 1)
            last[active] = local
            chosen[active, number[active]] = local
            if begun is not None:
                hit = due(active) == local
                kept = active[hit]
                chosen_given[kept, number[kept]] = begun.node[given[kept], fulfilled[kept]]
                fulfilled[kept] += 1
                self.owed[kept] -= 1
            number[active] += 1
            active = active[may_go_on(active)]
        # The smallest site is filled first, so it goes on top.
        for k in range(int(number.max(initial=0)) - 1, -1, -1):
            r = np.flatnonzero(number > k)
            self.stack_parent[r, self.height[r]] = self.n - 1
            self.stack_site[r, self.height[r]] = chosen[r, k]
            self.stack_given[r, self.height[r]] = chosen_given[r, k]
            self.height[r] += 1

    def _keep(self, open_: Array) -> None:
        index = torch.from_numpy(open_)
        for name in (
            "row",
            "depth",
            "stack_parent",
            "stack_site",
            "stack_given",
            "owed",
            "height",
            "last_label",
        ):
            setattr(self, name, getattr(self, name)[open_])
        self.z, self.children, self.mass = self.z[index], self.children[index], self.mass[index]
        for cache in self.caches:
            cache.select(index)
