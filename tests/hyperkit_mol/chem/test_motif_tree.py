"""Molecule -> motif tree -> molecule: lossless, canonical, and valid whatever is attached where."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rdkit import Chem, RDLogger

from hyperkit_mol.chem.assemble import assemble, tree_to_mol
from hyperkit_mol.chem.fragment import Fragmenter, UnsupportedMolecule
from hyperkit_mol.chem.motif import Motif

RDLogger.DisableLog("rdApp.*")


def flat(smiles: str) -> str:
    """Canonical SMILES without stereochemistry."""
    mol = Chem.MolFromSmiles(smiles)
    Chem.RemoveStereochemistry(mol)
    return Chem.CanonSmiles(Chem.MolToSmiles(mol))


def round_trip(fragmenter: Fragmenter, smiles: str) -> str:
    return Chem.MolToSmiles(tree_to_mol(fragmenter.tree(smiles), fragmenter.motif))


def test_awkward_molecules_survive(awkward: list[str]) -> None:
    fragmenter = Fragmenter()
    assert {s: round_trip(fragmenter, s) for s in awkward} == {s: flat(s) for s in awkward}


def test_tree_does_not_depend_on_the_input_order(awkward: list[str], moses_sample: list[str]) -> None:
    fragmenter = Fragmenter()
    for i, smiles in enumerate(awkward + moses_sample[:500]):
        mol = Chem.MolFromSmiles(smiles)
        Chem.RemoveStereochemistry(mol)
        order = list(range(mol.GetNumAtoms()))
        random.Random(i).shuffle(order)
        assert fragmenter.tree_of(Chem.RenumberAtoms(mol, order)) == fragmenter.tree(smiles), smiles


@pytest.mark.moses
@pytest.mark.slow
def test_lossless_on_20000_moses_molecules(moses_train: list[str]) -> None:
    fragmenter = Fragmenter()
    sample = random.Random(7).sample(moses_train, 20_000)
    wrong = [s for s in sample if round_trip(fragmenter, s) != Chem.CanonSmiles(s)]
    assert len(wrong) <= 20, wrong[:5]  # 99.9 %; none is seen


@pytest.mark.slow
def test_lossless_on_zinc() -> None:
    folder = os.environ.get("HYPERKIT_DATA")
    if not folder:
        pytest.skip("HYPERKIT_DATA is not set; the benchmark data sets are optional")
    rows = (Path(folder) / "molecules" / "zinc250k_valid.smi").read_text().split()
    fragmenter = Fragmenter()
    sample = random.Random(7).sample(rows, 3000)
    wrong = [s for s in sample if round_trip(fragmenter, s) != flat(s)]
    assert len(wrong) <= 3, wrong[:5]


@pytest.mark.parametrize(
    ("smiles", "reason"),
    [
        ("CC.O", "salt or mixture"),
        ("not a molecule", "not a SMILES"),
        ("c1cccc1", "not a SMILES"),
        ("", "no atoms"),
        ("[2H]C", "explicit hydrogen or dummy atom"),
        ("*C", "explicit hydrogen or dummy atom"),
        ("C" * 200, "more than 96 heavy atoms"),
        ("N->[Fe]", "bond type dative"),
    ],
)
def test_what_has_no_tree_is_refused_with_its_reason(smiles: str, reason: str) -> None:
    with pytest.raises(UnsupportedMolecule, match=reason):
        Fragmenter().tree(smiles)


def test_largest_fragment_on_request() -> None:
    fragmenter = Fragmenter(keep_largest_fragment=True)
    assert round_trip(fragmenter, "[Na+].CC(=O)[O-]") == "CC(=O)[O-]"


def test_symmetry_of_motifs() -> None:
    assert len(Motif.from_smiles("c1ccccc1").automorphisms) == 12
    assert Motif.from_smiles("c1ccccc1").orbit == (0,) * 6
    # Imidazole's two nitrogens differ by a hydrogen that a substructure match does not see.
    assert len(Motif.from_smiles("c1c[nH]cn1").automorphisms) == 1


def test_root_is_the_centroid() -> None:
    tree = Fragmenter().tree("CCCCCC(=O)CCCCC")
    assert tree.motifs[0] == "C=O"
    assert tree.parent[0] == tree.attach[0] == tree.site[0] == -1


@pytest.mark.parametrize(
    ("attach", "parent", "site", "match"),
    [
        ([-1, 0], [-1, 0], [-1, 9], "has no atom 9"),
        ([-1, 0], [-1, 1], [-1, 0], "must be an earlier node"),
        ([-1, 0, 0], [-1, 0, 0], [-1, 0, 0], "no hydrogen left"),
    ],
)
def test_assemble_refuses_what_is_no_tree(
    attach: list[int], parent: list[int], site: list[int], match: str
) -> None:
    motifs = [Motif.from_smiles("F")] + [Motif.from_smiles("C")] * (len(attach) - 1)
    with pytest.raises(ValueError, match=match):
        assemble(motifs, attach, parent, site)


_MOTIFS = [
    Motif.from_smiles(s)
    for s in """C N O F S C=O O=[SH2]=O c1ccccc1 c1cc[nH]c1 O=c1cccc[nH]1 O=[NH+][O-] C1CC12CC2 [NH4+] C#N
    N=c1cc[nH]cc1 c1ccc2[nH]ccc2c1 [OH-] O=[PH3]""".split()
]


@given(st.lists(st.tuples(st.integers(0), st.integers(0), st.integers(0), st.integers(0)), max_size=14))
@settings(max_examples=300, deadline=None)
def test_any_attachments_to_free_hydrogens_give_a_valid_molecule(
    picks: list[tuple[int, int, int, int]],
) -> None:
    motifs, attach, parent, site = [_MOTIFS[7]], [-1], [-1], [-1]
    free = [[a.hydrogens for a in motifs[0].atoms]]
    for kind, up, where, hang in picks:
        open_ = [(n, i) for n, counts in enumerate(free) for i, h in enumerate(counts) if h]
        if not open_:
            break
        motif = _MOTIFS[kind % len(_MOTIFS)]
        n, i = open_[(up * 31 + where) % len(open_)]
        own = [j for j, a in enumerate(motif.atoms) if a.hydrogens]
        j = own[hang % len(own)]
        motifs.append(motif)
        attach.append(j)
        parent.append(n)
        site.append(i)
        free[n][i] -= 1
        free.append([a.hydrogens - (k == j) for k, a in enumerate(motif.atoms)])
    smiles = Chem.MolToSmiles(assemble(motifs, attach, parent, site))
    assert Chem.MolFromSmiles(smiles) is not None
    assert smiles == round_trip(Fragmenter(max_atoms=500), smiles)


# -- found by tests/benchmarks/fuzz.py ---------------------------------------------------------------------


def test_a_motif_that_rdkit_reads_with_other_charges_is_refused() -> None:
    """Cut out of its molecule, an iodosyl group would come back as I+ and O-."""
    with pytest.raises(UnsupportedMolecule, match="does not survive its own SMILES"):
        Fragmenter().tree("CC(N)I(=O)O")


@pytest.mark.timeout(5)
def test_hundreds_of_nested_rings_are_refused_at_once() -> None:
    """RDKit takes seconds to find their rings; they are too large anyway."""
    smiles = "OC(=O)C1=CN(C2CC2)c2cc(N3CCNCCC" + "C2)c2cc(N3CCNCCC" * 29 + "C2)c2cc(N3CCNCC3)c(F)cc2C1=O"
    with pytest.raises(UnsupportedMolecule, match="more than 96 heavy atoms"):
        Fragmenter().tree(smiles)
