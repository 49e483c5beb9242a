"""Batches, made by array operations, against the same things written as loops."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import pytest
from rdkit import Chem

from hyperkit_mol.chem.assemble import assemble
from hyperkit_mol.chem.batch import UNSEEN, Batch, Collator
from hyperkit_mol.chem.prepare import TreeDataset, prepare


@pytest.fixture(scope="module")
def data(awkward: list[str], moses_sample: list[str]) -> TreeDataset:
    return prepare(moses_sample[:400] + awkward, jobs=1)


@pytest.fixture(scope="module")
def batch(data: TreeDataset) -> Batch:
    return Collator(data.vocabulary)(data, np.arange(len(data)))


def test_decisions(data: TreeDataset, batch: Batch) -> None:
    """Every child in turn and then "no more", each among the sites that have a hydrogen left."""
    v = data.vocabulary
    none = int(v.atom_offset[-1])
    width = batch.label.shape[1]
    rows, pairs = defaultdict(list), defaultdict(list)
    for row, node in enumerate(batch.row_node.tolist()):
        rows[node].append(row)
    for row, site in zip(batch.pair_row.tolist(), batch.pair_site.tolist(), strict=True):
        pairs[row].append(site)
    for b in range(len(data)):
        label, parent, site = data.tree(b)
        for n in range(len(label)):
            motif, attach = v.labels[label[n]]
            offset = int(v.atom_offset[motif])
            children = [site[j] for j in range(len(label)) if parent[j] == n]
            free = [a.hydrogens for a in v.motifs[motif].atoms]
            if attach >= 0:
                free[attach] -= 1
            expected, last = [], -1
            for k, child in enumerate([*children, -1]):
                choices = [offset + i for i, h in enumerate(free) if h > 0 and i >= last]
                if choices:
                    wanted = none if child < 0 else offset + child
                    expected.append(
                        (k, none if last < 0 else offset + last, sorted([*choices, none]), wanted)
                    )
                if child >= 0:
                    free[child] -= 1
                    last = child
            found = [
                (
                    int(batch.row_count[r]),
                    int(batch.row_previous[r]),
                    sorted(pairs[r]),
                    int(batch.pair_site[batch.row_target[r]]),
                )
                for r in sorted(rows[b * width + n], key=lambda r: batch.row_count[r])
            ]
            assert found == expected
    assert np.array_equal(batch.pair_row[batch.row_target], np.arange(len(batch.row_node)))


def test_molecular_graph(data: TreeDataset, batch: Batch) -> None:
    """Atoms and bonds are those of the assembled molecule, whose atoms come in the same order."""
    v = data.vocabulary
    code = {
        Chem.BondType.SINGLE: 1,
        Chem.BondType.DOUBLE: 2,
        Chem.BondType.TRIPLE: 3,
        Chem.BondType.AROMATIC: 4,
    }
    for b in range(len(data)):
        label, parent, site = data.tree(b)
        own = [v.labels[x] for x in label]
        mol = assemble([v.motifs[m] for m, _ in own], [a for _, a in own], parent, site)
        n = mol.GetNumAtoms()
        assert batch.atom_mask[b].sum() == n
        motif_of = np.repeat(np.arange(len(label)), [len(v.motifs[m]) for m, _ in own])
        expected = np.zeros_like(batch.bonds[b])
        attachments = np.zeros(n, int)
        for bond in mol.GetBonds():
            i, j = bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()
            between = motif_of[i] != motif_of[j]
            expected[i, j] = expected[j, i] = 5 if between else code[bond.GetBondType()]
            attachments[[i, j]] += between
        expected[np.arange(n), np.arange(n)] = 6
        # A motif's bonds are aromatic where the motif alone is: a substituent does not change that.
        assert np.array_equal(batch.bonds[b], expected), Chem.MolToSmiles(mol)
        assert np.array_equal(batch.atom_attachments[b][:n], attachments)
        kinds = [v.atom_kinds[k] for k in batch.atom_kind[b][:n]]
        assert [k.number for k in kinds] == [a.GetAtomicNum() for a in mol.GetAtoms()]
        assert [k.charge for k in kinds] == [a.GetFormalCharge() for a in mol.GetAtoms()]


def test_tree_arrays(data: TreeDataset, batch: Batch) -> None:
    v = data.vocabulary
    for b in range(len(data)):
        label, parent, site = data.tree(b)
        n = len(label)
        assert batch.label[b, :n].tolist() == label
        assert batch.node_mask[b].sum() == n
        depth = [0] * n
        for i in range(1, n):
            depth[i] = depth[parent[i]] + 1
            assert batch.slot[b, i] == v.atom_offset[v.labels[label[parent[i]]][0]] + site[i]
            assert batch.children[b, parent[i], i]
            assert batch.tree_edges[b, i, parent[i]] == 1
            assert batch.tree_edges[b, parent[i], i] == 2
            promised = sum(parent[j] < i for j in range(1, n))  # by nodes placed before i
            assert batch.pending[b, i] == promised - (i - 1)
        assert batch.depth[b, :n].tolist() == depth
        assert batch.children[b].sum() == n - 1


def test_packed_rows_hold_the_same(data: TreeDataset, batch: Batch) -> None:
    """Every molecule's arrays are found again in its part of a row, and nothing is seen outside of it."""
    packed = Collator(data.vocabulary)(data, np.arange(len(data)), pack=True)
    width = packed.label.shape[1]
    assert packed.label.size < 0.7 * batch.label.size
    assert packed.node_mask.sum() == batch.node_mask.sum() == batch.size.sum()
    assert packed.node_mask.mean() > 0.9
    assert (packed.relation[:, ~np.tri(width, dtype=bool)] == UNSEEN).all()
    for b, n in enumerate(batch.size.tolist()):
        row, start = divmod(int(packed.root[b]), width)
        part = slice(start, start + n)
        assert packed.node_mask[row, part].all()
        assert (packed.molecule[row, part] == b).all()
        assert packed.position[row, part].tolist() == list(range(n))
        for name in ("label", "parent", "site", "slot", "depth", "pending"):
            assert np.array_equal(getattr(packed, name)[row, part], getattr(batch, name)[b, :n]), name
        for name, nothing in (("tree_edges", 0), ("children", False), ("relation", UNSEEN)):
            rows = getattr(packed, name)[row, part]
            assert np.array_equal(rows[:, part], getattr(batch, name)[b, :n, :n]), name
            assert (np.delete(rows, np.arange(start, start + n), axis=1) == nothing).all(), name
    assert np.array_equal(packed.pair_site, batch.pair_site)
    for name in ("label", "slot", "position"):
        ours, theirs = (getattr(x, name).ravel()[x.row_node] for x in (packed, batch))
        assert np.array_equal(ours, theirs), name
