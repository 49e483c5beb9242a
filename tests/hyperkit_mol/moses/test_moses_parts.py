"""The parts against slow, plain computations of the same thing."""

import math
import random
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest
from moses_molecules import ODD, bad_set, drawn, pains_molecules
from rdkit import Chem, DataStructs
from rdkit.Chem import QED, Crippen, Descriptors, rdFingerprintGenerator

from hyperkit_mol.moses import _chemistry, _compat, _features, _reference, training_floor
from hyperkit_mol.moses._nearest import bit_columns, nearest_similarity, popcounts
from hyperkit_mol.moses._smarts import Look, PatternScreen
from hyperkit_mol.moses._statistics import internal_diversity, nearest_in_set
from hyperkit_mol.moses._workers import Job, Pool, WorkerDiedError
from hyperkit_mol.moses.floor import floor_table

pytestmark = pytest.mark.moses


def random_bits(n, density, seed, width=1024):
    bits = np.random.default_rng(seed).random((n, width)) < density
    return bits, np.packbits(bits, axis=1)


def tanimoto(a, b):
    common = a.astype(float) @ b.T.astype(float)
    union = a.sum(1)[:, None] + b.sum(1)[None] - common
    return np.where(union == 0, 1.0, common / np.where(union == 0, 1, union))


@pytest.mark.parametrize("density", [0.0, 0.001, 0.05, 0.9])
@pytest.mark.parametrize("n", [1, 63, 64, 200])
def test_nearest_similarity(density, n):
    bits, packed = random_bits(n, 0.05, seed=1)
    bits[: n // 3], packed[: n // 3] = random_bits(n // 3, density, seed=2)
    queries, packed_queries = random_bits(20, density, seed=3)
    reference = bit_columns(packed)
    assert reference.columns.shape[0] == 1024
    expected = tanimoto(queries, bits).max(axis=1).astype(np.float32)
    np.testing.assert_allclose(nearest_similarity(packed_queries, reference), expected, rtol=1e-7)
    assert popcounts(packed).tolist() == bits.sum(axis=1).tolist()


@pytest.mark.parametrize("full", [False, True])
def test_nearest_of_two_references(full):
    """Blocks, duplicates and references in threads as one by one; 1024 set bits do not fit the kernel."""
    _, queries = random_bits(700, 0.05, seed=6)
    queries[600:] = queries[:100]
    if full:
        queries[3] = 255
    sets = [bit_columns(random_bits(n, 0.05, seed=n)[1]) for n in (90, 200)]
    features = SimpleNamespace(fingerprints=queries)
    references = [
        SimpleNamespace(
            columns_path=None, columns=columns.columns, starts=columns.starts, popcounts=columns.popcounts
        )
        for columns in sets
    ]
    ticks = []
    found = _features.nearest(
        features,  # type: ignore[arg-type]
        references,  # type: ignore[arg-type]
        pool=Pool(2),
        progress=lambda done, total: ticks.append((done, total)),
    )
    assert len(found) == 2
    for values, columns in zip(found, sets, strict=True):
        assert (values == nearest_similarity(queries, columns)).all()
    if ticks:  # the kernel is there and took them
        assert not full
        assert ticks == [(k, 4) for k in range(1, 5)]


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_internal_similarities(n_jobs):
    bits, packed = random_bits(150, 0.05, seed=4)
    bits[0], packed[0] = 0, 0
    bits[7], packed[7] = 0, 0
    weights = np.random.default_rng(5).integers(1, 4, 150)
    full = np.repeat(bits, weights, axis=0)
    similarity = tanimoto(full, full)
    found = internal_diversity(packed, weights, block=64, n_jobs=n_jobs)
    assert found.first == pytest.approx(1 - similarity.mean(), abs=1e-7)
    assert found.second == pytest.approx(1 - np.sqrt((similarity**2).mean(axis=1)).mean(), abs=1e-7)
    alone = tanimoto(bits, bits)
    np.fill_diagonal(alone, 0)
    np.testing.assert_allclose(nearest_in_set(packed, block=64, n_jobs=n_jobs), alone.max(axis=1), rtol=1e-6)


def test_screen_never_hides_a_match():
    """Every pattern on odd, PAINS and MOSES molecules; docs/moses.md has the same on 22,530 molecules."""
    screens = [
        (PatternScreen(_compat.read_filters(), explicit_hydrogens=True), Chem.AddHs),
        (PatternScreen(QED.StructuralAlerts, explicit_hydrogens=False), lambda mol: mol),
    ]
    smiles = [*ODD, *random.Random(1).sample(pains_molecules(), 150), *drawn("train", 30)]
    matches = candidates = 0
    for mol in map(Chem.MolFromSmiles, smiles):
        if mol is None or not mol.GetNumAtoms():
            continue
        look = Look(mol)
        for screen, prepare in screens:
            possible = set(screen.candidates(mol, look))
            prepared = prepare(mol)
            found = {i for i, pattern in enumerate(screen.patterns) if prepared.HasSubstructMatch(pattern)}
            assert found <= possible, (Chem.MolToSmiles(mol), found - possible)
            matches += len(found)
            candidates += len(possible)
    assert matches > 150
    assert candidates < 60 * len(smiles)  # of 618


def test_properties_are_rdkits():
    features = {"logP", "QED", "weight", "fingerprint"}
    smiles = [*drawn("train", 40), *bad_set(60)]
    job = _chemistry.Pass(_compat.read_filters(), _reference.fragment_score_files(), features)
    found = job(smiles, [1] * len(smiles))
    generator = rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=1024)
    assert not found["errors"]
    for row, text in enumerate(found["canonical"]):
        if text is None:
            continue
        mol = Chem.MolFromSmiles(text)
        assert found["QED"][row] == pytest.approx(QED.qed(mol), abs=1e-12)
        assert found["logP"][row] == pytest.approx(Crippen.MolLogP(mol), abs=1e-12)
        assert _chemistry.stereocentres(Chem.Mol(mol)) == len(
            Chem.FindMolChiralCenters(mol, includeUnassigned=True)
        )
        assert found["weight"][row] == Descriptors.MolWt(mol)
        bits = np.zeros(1024, dtype=np.uint8)
        DataStructs.ConvertToNumpyArray(generator.GetFingerprint(mol), bits)
        assert np.unpackbits(found["fingerprints"][row]).tolist() == bits.tolist()


def test_a_molecule_that_kills_the_worker_is_invalid(monkeypatch):
    """A crash inside RDKit costs one molecule, not the evaluation."""
    monkeypatch.setattr(_features, "_CHEMISTRY", "moses_killer")
    with Pool(2) as pool:
        found = _features.chemistry_pass(["CCO", "CCCCN", "CCC"], {"logP"}, pool=pool)
    assert found.canonical == ["CCO", "CCC"]
    assert "RDKit crashed on 1 distinct molecule, counted as invalid (the first: CCCCN" in found.notes()[0]


def test_worker_errors_reach_the_caller():
    with Pool(2) as pool, pytest.raises(RuntimeError, match="No module named"):
        pool.map(Job("hyperkit_absent", "Job"), [(1,), (2,)])


def test_interrupt_ends_the_workers(tmp_path):
    code = (
        "from hyperkit_mol.moses import evaluate\n"
        "def say(stage, done, total): print(stage, flush=True)\n"
        f"evaluate({list(drawn('train', 3000))!r}, progress=say)\n"
    )
    (tmp_path / "run.py").write_text(code)  # no main guard: none is needed
    process = subprocess.Popen(
        [sys.executable, str(tmp_path / "run.py")], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "chemistry\n"
    begin = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert time.monotonic() - begin < 30
    assert process.returncode != 0
    assert "KeyboardInterrupt" in errors


def test_floor():
    for name, rows in floor_table().items():
        assert [row[0] for row in rows] == sorted({row[0] for row in rows})
        for size, value, runs in rows:
            assert training_floor(size)[name] == pytest.approx(value)
            assert runs >= 1
    falling = [training_floor(n)["FCD/Test"] for n in (100, 500, 2000, 7000, 30000, 500_000)]
    assert falling == sorted(falling, reverse=True)
    assert falling[-1] > 0
    assert all(math.isfinite(value) for n in (1, 10**7) for value in training_floor(n).values())
    assert training_floor(2000, ["SNN/Test", "Novelty"]).keys() == {"SNN/Test"}
    with pytest.raises(ValueError, match="n must be >= 1, got 0"):
        training_floor(0)


def test_died_worker_without_a_rescue():
    with Pool(2) as pool, pytest.raises(WorkerDiedError, match="ended with code 3"):
        pool.map(Job("moses_killer", "dies"), [(1,), (2,)])
