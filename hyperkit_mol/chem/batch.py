"""Motif trees -> padded arrays for a batch, by array operations: no loop over molecules, motifs or atoms."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from hyperkit_mol.chem.prepare import TreeDataset
from hyperkit_mol.chem.vocabulary import Vocabulary

__all__ = ["RELATIONS", "UNSEEN", "Batch", "Collator", "SiteTable"]

Array = npt.NDArray[Any]

#: Relation of a decoding position to an earlier one, see :attr:`Batch.relation`.
RELATIONS = {"other": 0, "start": 1, "parent": 2, "grandparent": 3, "ancestor": 4, "sibling": 5, "self": 6}
UNSEEN = len(RELATIONS)  # no relation: a later position, or another molecule's
BOND_TYPES = 7  # none, single, double, triple, aromatic, attachment, self
TREE_EDGE_TYPES = 4  # none, to the parent, to a child, self


@dataclass
class Batch:
    """Arrays of a batch of `B` molecules with at most `A` atoms, their nodes in `S` rows of `T` places.

    A row is a molecule, or several one after the other if the batch is packed: then little is computed on
    padding, however the sizes are mixed.

    Attributes
    ----------
    size, root : (B,)
        Nodes of each molecule, and the flat place (``row * T + place``) of its first one.
    molecule, position : (S, T)
        Whose node this is, and which one of that molecule's.
    label, parent, site : (S, T)
        As in :class:`~hyperkit_mol.chem.prepare.TreeDataset`; 0 where there is no node.
    slot : (S, T)
        The site of the vocabulary (:attr:`Vocabulary.atom_offset`) that the node hangs on; `num_sites` for
        the root.
    node_mask : (S, T) bool
    depth, pending : (S, T)
        Depth of the node; slots that are open when it is decoded, its own included.
    tree_edges : (S, T, T)
        Types of the tree's edges (:data:`TREE_EDGE_TYPES`).
    relation : (S, T, T)
        What the node decoded just before place `s` is to the node at place `t` (:data:`RELATIONS`);
        :data:`UNSEEN` for what is decoded later and for other molecules.
    children : (S, T, T) bool
        ``children[r, p, n]``: the node at place `n` hangs on the one at `p`.
    atom_kind, atom_attachments : (B, A)
        Index into ``Vocabulary.atom_kinds``, and the number of bonds to other motifs.
    atom_mask : (B, A) bool
    bonds : (B, A, A)
        Bond types (:data:`BOND_TYPES`).
    row_node : (R,)
        Flat place of the node of every decision about where a node's next child goes.
    row_previous, row_count : (R,)
        Site taken by the child before (`num_sites` for none) and the number of children before.
    pair_row, pair_site : (P,)
        The choices of each decision: a site, or `num_sites` for "no more children".
    row_target : (R,)
        Index of the pair that is right.
    """

    size: Array
    root: Array
    molecule: Array
    position: Array
    label: Array
    parent: Array
    site: Array
    slot: Array
    node_mask: Array
    depth: Array
    pending: Array
    tree_edges: Array
    relation: Array
    children: Array
    atom_kind: Array
    atom_attachments: Array
    atom_mask: Array
    bonds: Array
    row_node: Array
    row_previous: Array
    row_count: Array
    pair_row: Array
    pair_site: Array
    row_target: Array

    def __len__(self) -> int:
        return len(self.size)


class SiteTable:
    """Which sites of a motif can still take a child; the one rule that makes every sample valid."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.offset = vocabulary.atom_offset
        self.num_sites = int(self.offset[-1])
        width = int(vocabulary.motif_size.max())
        self.hydrogens = np.zeros((len(vocabulary), width), np.int16)
        owner = np.repeat(np.arange(len(vocabulary)), vocabulary.motif_size)
        self.hydrogens[owner, np.arange(self.num_sites) - self.offset[owner]] = vocabulary.site_hydrogens
        self._columns = np.arange(width)

    def choices(self, motif: Array, attach: Array, last: Array, run: Array) -> tuple[Array, Array]:
        """Sites that may be chosen next, children being listed by rising site.

        Parameters
        ----------
        motif, attach : (R,)
            The node's motif and the atom by which it hangs on its parent (-1 for a root).
        last, run : (R,)
            Site of the last child (-1 for none) and how many children in a row sit there.

        Returns
        -------
        (row, column) : (P,), (P,)
            Allowed pairs, rows rising.
        """
        width = max(1, int((self.offset[motif + 1] - self.offset[motif]).max(initial=1)))
        free = self.hydrogens[motif, :width].copy()
        hung = np.flatnonzero(attach >= 0)
        free[hung, attach[hung]] -= 1
        begun = np.flatnonzero(last >= 0)
        free[begun, last[begun]] -= run[begun].astype(np.int16)
        row, column = np.nonzero((free > 0) & (self._columns[:width] >= last[:, None]))
        return row, column


def _within(counts: Array) -> Array:
    """0 .. count - 1 for each count, one after the other."""
    ends = np.cumsum(counts)
    return np.arange(ends[-1] if len(ends) else 0) - np.repeat(ends - counts, counts)


def _pack(lengths: Array) -> tuple[Array, Array, int]:
    """Place pieces of these lengths in rows: the row of each, its first place, and the width of rows.

    The longest first, each where it leaves the least room. Two of the mean length fit in a row: MOSES's
    trees fill 98 % of such rows, and 80 % of those as wide as the longest. All pieces of one length are
    placed together, so that the time hardly depends on how many there are.
    """
    row, start = np.zeros(len(lengths), np.int64), np.zeros(len(lengths), np.int64)
    width = max(int(lengths.max()), int(2.1 * lengths.mean()))
    rooms = [np.zeros(0, np.int64) for _ in range(width + 1)]  # rows with so much room
    opened = 0
    for length in range(int(lengths.max()), 0, -1):
        left = np.flatnonzero(lengths == length)
        while len(left):
            room = next((r for r in range(length, width + 1) if len(rooms[r])), None)
            if room is None:
                room, rooms[width] = width, np.arange(opened, opened - (-len(left) // (width // length)))
                opened += len(rooms[width])
            taken, rooms[room] = np.split(rooms[room], [len(left)])
            now, left = np.split(left, [len(taken)])
            row[now], start[now] = taken, width - room
            rooms[room - length] = np.concatenate([taken, rooms[room - length]])
    return row, start, width


class Collator:
    """Makes :class:`Batch` objects.

    Parameters
    ----------
    vocabulary : Vocabulary
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.vocabulary = vocabulary
        self.sites = SiteTable(vocabulary)

    @cached_property
    def _bond_counts(self) -> Array:
        return np.diff(self.vocabulary.bond_offset)

    def __call__(self, data: TreeDataset, index: Array, pack: bool = False) -> Batch:
        """Batch of the molecules `index` of `data`; see :class:`Batch` for `pack`."""
        lengths = data.sizes[index]
        flat = np.repeat(data.offsets[index], lengths) + _within(lengths)
        return self.from_flat(lengths, data.label[flat], data.parent[flat], data.site[flat], pack)

    def from_flat(
        self, lengths: Array, label: Array, parent: Array, site: Array, pack: bool = False
    ) -> Batch:
        """Batch of trees given one after the other; `lengths` says how many nodes each has."""
        v = self.vocabulary
        size, most = len(lengths), int(lengths.max())
        label, parent, site = (x.astype(np.int64) for x in (label, parent, site))
        row, start = np.arange(size), np.zeros(size, np.int64)
        if pack:
            row, start, most = _pack(lengths)
        rows = int(row.max()) + 1
        b = np.repeat(np.arange(size), lengths)
        n = _within(lengths)
        r, p = row[b], start[b] + n
        first = np.cumsum(lengths) - lengths  # flat index of each molecule's root
        motif, attach = v.label_motif[label], v.label_attach[label]
        child = np.flatnonzero(parent >= 0)
        above = first[b[child]] + parent[child]  # flat index of the parent

        def pad(values: Array, fill: int = 0) -> Array:
            out = np.full((rows, most), fill, np.int64)
            out[r, p] = values
            return out

        slot = np.full(len(label), self.sites.num_sites, np.int64)
        slot[child] = v.atom_offset[motif[above]] + site[child]
        offspring = np.bincount(above, minlength=len(label))
        # Open slots when node n is decoded: children promised so far less nodes placed so far.
        running = np.cumsum(offspring) - offspring
        pending = np.where(n == 0, 1, running - running[first][b] - (n - 1))

        molecule = pad(b, -1)
        relation, depth = self._relations(pad(np.where(parent < 0, -1, start[b] + parent), -1), molecule)
        children = np.zeros((rows, most, most), bool)
        children[r[child], p[above], p[child]] = True
        edges = np.zeros((rows, most, most), np.uint8)
        edges[r[child], p[child], p[above]] = 1
        edges[r[child], p[above], p[child]] = 2
        edges[r, p, p] = 3
        place = r * most + p
        return Batch(
            size=np.asarray(lengths, np.int64),
            root=row * most + start,
            molecule=np.maximum(molecule, 0),
            position=pad(n),
            label=pad(label),
            parent=pad(np.maximum(parent, 0)),
            site=pad(np.maximum(site, 0)),
            slot=pad(slot, self.sites.num_sites),
            node_mask=molecule >= 0,
            depth=depth,
            pending=pad(pending),
            tree_edges=edges,
            relation=relation,
            children=children,
            **self._atoms(size, b, motif, attach, site, child, above),
            **self._decisions(place, motif, attach, site, child, above, offspring),
        )

    @staticmethod
    def _relations(parents: Array, molecule: Array) -> tuple[Array, Array]:
        """Relations and depths of rows, given each node's parent's place and molecule, -1 for none."""
        rows, most = parents.shape
        relation = np.zeros((rows, most + 1, most + 1), np.uint8)  # column s + 1 is the node at place s
        # Siblings: the nodes with the same parent (the root has none and matches only other roots).
        relation[:, :most, 1:][parents[:, :, None] == parents[:, None, :]] = RELATIONS["sibling"]
        depth = np.zeros((rows, most), np.int64)
        up, kind = parents, RELATIONS["parent"]
        while (up >= 0).any():
            real = up >= 0
            depth += real
            r, c = np.nonzero(real)
            relation[r, c, up[r, c] + 1] = kind
            kind = min(kind + 1, RELATIONS["ancestor"])
            up = np.where(real, parents[np.arange(rows)[:, None], np.maximum(up, 0)], -1)
        relation = relation[:, :most, :most]
        r, c = np.nonzero(parents < 0)  # before a root comes nothing of its own molecule
        relation[r, :, c] = RELATIONS["start"]
        # Place t itself: what came just before it. Only where no closer relation is known.
        own = np.arange(most)
        relation[:, own, own] = np.where(relation[:, own, own] == 0, RELATIONS["self"], relation[:, own, own])
        seen = (molecule[:, :, None] == molecule[:, None, :]) & np.tri(most, dtype=bool)
        relation[~seen] = UNSEEN
        return relation, depth

    def _atoms(
        self, size: int, b: Array, motif: Array, attach: Array, site: Array, child: Array, above: Array
    ) -> dict[str, Array]:
        v = self.vocabulary
        sizes = v.motif_size[motif]
        start = np.cumsum(sizes) - sizes  # flat index of each node's first atom
        node = np.repeat(np.arange(len(motif)), sizes)
        molecule = b[node]
        per_molecule = np.bincount(molecule, minlength=size)
        mol_start = np.cumsum(per_molecule) - per_molecule
        position = np.arange(len(node)) - mol_start[molecule]
        most = int(per_molecule.max())
        kind = np.zeros((size, most), np.int64)
        mask = np.zeros((size, most), bool)
        kind[molecule, position] = v.site_kind[v.atom_offset[motif[node]] + _within(sizes)]
        mask[molecule, position] = True

        bonds = np.zeros((size, most, most), np.uint8)
        bonds[molecule, position, position] = 6
        counts = self._bond_counts[motif]
        owner = np.repeat(np.arange(len(motif)), counts)
        table = v.bonds[v.bond_offset[motif[owner]] + _within(counts)]
        base = start[owner] - mol_start[b[owner]]
        i, j, m = base + table[:, 0], base + table[:, 1], b[owner]
        bonds[m, i, j] = bonds[m, j, i] = table[:, 2]
        m = b[child]
        i = start[above] + site[child]
        j = start[child] + attach[child]
        bonds[m, i - mol_start[m], j - mol_start[m]] = bonds[m, j - mol_start[m], i - mol_start[m]] = 5
        attached = np.bincount(np.concatenate([i, j]), minlength=len(node))
        attachments = np.zeros((size, most), np.int64)
        attachments[molecule, position] = attached
        return {"atom_kind": kind, "atom_attachments": attachments, "atom_mask": mask, "bonds": bonds}

    def _decisions(
        self,
        place: Array,
        motif: Array,
        attach: Array,
        site: Array,
        child: Array,
        above: Array,
        offspring: Array,
    ) -> dict[str, Array]:
        # Children grouped by parent; depth-first order keeps siblings by rising site.
        order = np.argsort(above, kind="stable")
        owner, where = above[order], site[child][order]
        new = np.ones(len(owner), bool)
        new[1:] = owner[1:] != owner[:-1]
        rank = np.arange(len(owner)) - np.maximum.accumulate(np.where(new, np.arange(len(owner)), 0))
        before = np.where(new, -1, np.concatenate([[-1], where[:-1]])[: len(where)])
        # Length of the run of equal sites that ends at each child.
        step = new.copy()
        step[1:] |= where[1:] != where[:-1]
        run = np.arange(len(owner)) - np.maximum.accumulate(np.where(step, np.arange(len(owner)), 0)) + 1
        run_before = np.where(new, 0, np.concatenate([[0], run[:-1]])[: len(run)])
        last = np.full(len(motif), -1, np.int64)
        last_run = np.zeros(len(motif), np.int64)
        final = np.flatnonzero(np.append(new[1:], True)) if len(owner) else np.zeros(0, np.int64)
        last[owner[final]] = where[final]
        last_run[owner[final]] = run[final]

        node = np.concatenate([owner, np.arange(len(motif))])
        previous = np.concatenate([before, last])
        runs = np.concatenate([run_before, last_run])
        count = np.concatenate([rank, offspring])
        wanted = np.concatenate([where, np.full(len(motif), -1)])
        row, column = self.sites.choices(motif[node], attach[node], previous, runs)
        open_ = np.zeros(len(node), bool)
        open_[row] = True  # a row without a free site is no decision
        index = np.cumsum(open_) - 1
        pair_row = np.concatenate([index[row], np.arange(int(open_.sum()))])
        offset = self.vocabulary.atom_offset[motif[node]]
        pair_site = np.concatenate([offset[row] + column, np.full(int(open_.sum()), self.sites.num_sites)])
        target = np.zeros(int(open_.sum()), np.int64)
        hit = np.flatnonzero(wanted[row] == column)
        target[index[row[hit]]] = hit
        stop = np.flatnonzero(open_ & (wanted < 0))
        target[index[stop]] = len(row) + index[stop]
        keep = np.flatnonzero(open_)
        none = self.sites.num_sites
        return {
            "row_node": place[node[keep]],
            "row_previous": np.where(previous[keep] < 0, none, offset[keep] + np.maximum(previous[keep], 0)),
            "row_count": count[keep],
            "pair_row": pair_row,
            "pair_site": pair_site,
            "row_target": target,
        }
