"""No jump when a neighbour comes or goes; periodic cells and stress."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from potential_case import NUMBERS, POSITIONS, acid, build

from hyperkit_mol.potentials import ModelError, Potential, Structure, StructureError, neighbor_table

pytest.importorskip("vesin", reason="neighbour lists need vesin (the extra `potentials`)")

CUTOFF = 3.5


def energies(model: Potential, path: list[Structure]) -> tuple[np.ndarray, np.ndarray]:
    found = model(model.prepare(path))
    forces = found.forces.detach().numpy().reshape(len(path), -1)
    return found.energy.detach().numpy(), forces


def with_atom_at(distance: float) -> Structure:
    """The molecule and an oxygen that leaves its first atom along -x."""
    positions = np.concatenate([POSITIONS, [[-distance, 0.0, 0.0]]])
    return Structure(positions, np.append(NUMBERS, 8))


@pytest.mark.parametrize("attention", ["euclidean", "lorentz"])
@pytest.mark.parametrize("forces", ["conservative", "direct"])
def test_no_jump_at_the_cutoff(attention: str, forces: str) -> None:
    model = build(attention=attention, forces=forces)
    # Atom 0 goes out of range at the middle of the path. Other atoms are in range, so that energy and forces
    # have slopes; second differences take these out and leave a jump, in value or in slope, as it is.
    e, f = energies(model, [with_atom_at(CUTOFF + k * 1e-6) for k in range(-3, 4)])
    assert np.abs(np.diff(e, 2)).max() < 3e-11  # ulp of 8,260 eV: 1.8e-12
    assert np.abs(np.diff(f, 2, axis=0)).max() < 1e-10
    # It would show: half an Ångström further in, the same atom matters.
    near, far = energies(model, [with_atom_at(CUTOFF - 0.5), with_atom_at(CUTOFF + 0.5)])[0]
    assert abs(near - far) > 1e-3


@pytest.mark.parametrize("attention", ["euclidean", "lorentz"])
def test_a_path_through_every_cutoff_is_smooth(attention: str) -> None:
    # Second differences of a smooth curve shrink by 4 when the step is halved; those of a jump stay.
    model = build(attention=attention)
    coarse, fine = (
        energies(model, [with_atom_at(d) for d in np.linspace(1.2, CUTOFF + 0.3, n)])[0] for n in (121, 241)
    )
    ratio = np.abs(np.diff(coarse, 2)).max() / np.abs(np.diff(fine, 2)).max()
    assert 3.5 < ratio < 4.5


def test_no_jump_when_the_capped_list_changes() -> None:
    model = build(max_neighbors=4)
    free = build()

    def moved(t: float) -> Structure:
        # Atom 5 passes others in the order by distance.
        positions = POSITIONS.copy()
        positions[5] = [-0.35 - t, 0.98 + t, 0.25]
        return Structure(positions, NUMBERS)

    coarse, fine = (energies(model, [moved(t) for t in np.linspace(0, 3, n)])[0] for n in (301, 601))
    ratio = np.abs(np.diff(coarse, 2)).max() / np.abs(np.diff(fine, 2)).max()
    assert 3.0 < ratio < 5.0
    assert abs(energies(free, [acid()])[0] - energies(model, [acid()])[0])[0] > 1e-4


def test_a_cap_above_all_lists_changes_nothing() -> None:
    np.testing.assert_allclose(
        energies(build(max_neighbors=40), [acid()])[0], energies(build(), [acid()])[0], rtol=0, atol=1e-12
    )


@pytest.mark.parametrize("limit", [5, 7, 8, 12])
def test_the_cap_does_not_depend_on_the_batch(limit: int) -> None:
    model = build(max_neighbors=limit, cutoff=6.0)
    grid = np.stack(np.meshgrid(*[np.arange(3.0)] * 3), -1).reshape(-1, 3) * 1.3
    crowd = Structure(grid, np.full(27, 6))
    alone = energies(model, [acid()])[0][0]
    assert model(model.prepare([acid(), crowd])).energy[0].item() == pytest.approx(alone, abs=1e-9)


def test_the_cap_bounds_the_list() -> None:
    model = build(max_neighbors=4, cutoff=6.0)
    random = np.random.default_rng(0)
    grid = np.stack(np.meshgrid(*[np.arange(4.0)] * 3), -1).reshape(-1, 3) * 1.5
    cloud = Structure(grid + 0.1 * random.normal(size=grid.shape), np.full(64, 6))
    batch = model.prepare([cloud])
    edges = model.backbone._edges(batch, cut=True)  # type: ignore[operator]
    assert batch.neighbors.shape[1] > 30
    # Ranks are soft: within 0.2 Å neighbours share one, so a few more than 4 may be left.
    assert edges.envelope.shape[1] <= 12
    assert (edges.envelope > 0).any(1).all()


def test_far_molecules_do_not_interact() -> None:
    model = build()
    pair = Structure(np.concatenate([POSITIONS, POSITIONS + np.array([20.0, 0, 0])]), np.tile(NUMBERS, 2))
    one = energies(model, [acid()])[0][0]
    assert energies(model, [pair])[0][0] == pytest.approx(2 * one, abs=1e-9)


# ---- periodic cells -----------------------------------------------------------------------------


def crystal(strain: np.ndarray | None = None) -> Structure:
    cell = np.array([[4.2, 0.3, 0.0], [0.0, 3.9, 0.4], [0.5, 0.0, 4.4]])
    positions = np.array([[0.1, 0.2, 0.3], [1.4, 0.9, 1.1], [2.9, 2.5, 3.0]])
    bend = np.eye(3) if strain is None else np.eye(3) + strain
    return Structure(positions @ bend, np.array([6, 8, 1]), cell=cell @ bend, pbc=np.ones(3, bool))


def test_neighbours_of_a_small_cell_against_all_images() -> None:
    s = crystal()
    cell, cutoff = np.asarray(s.cell), 6.0  # longer than the cell: images of images, and of the atom itself
    table = neighbor_table(s.positions, cutoff, cell, True)
    ranges = np.array(np.meshgrid(*[np.arange(-3, 4)] * 3)).reshape(3, -1).T
    for i in range(3):
        expected = []
        for j in range(3):
            d = np.linalg.norm(s.positions[j] + ranges @ cell - s.positions[i], axis=1)
            expected += d[(d > 1e-9) & (d < cutoff)].tolist()
        kept = table.mask[i]
        vector = s.positions[table.index[i]] + table.shifts[i] @ cell - s.positions[i]
        found = np.linalg.norm(vector, axis=1)[kept]
        np.testing.assert_allclose(found, np.sort(expected), atol=1e-12)


def test_supercell_has_twice_the_energy() -> None:
    model, s = build(), crystal()
    cell = np.asarray(s.cell)
    double = Structure(
        np.concatenate([s.positions, s.positions + cell[0]]),
        np.tile(s.numbers, 2),
        cell=cell * [[2], [1], [1]],
        pbc=np.ones(3, bool),
    )
    wrapped = dataclasses.replace(s, positions=s.positions + np.array([[1], [-2], [0]]) * cell[1])
    e = energies(model, [s])[0][0]
    assert energies(model, [double])[0][0] == pytest.approx(2 * e, abs=1e-8)
    assert energies(model, [wrapped])[0][0] == pytest.approx(e, abs=1e-8)


@pytest.mark.parametrize("attention", ["euclidean", "lorentz"])
def test_stress_against_finite_strain(attention: str) -> None:
    model = build(attention=attention)
    batch = model.prepare([crystal(), crystal()])
    stress = model(batch, stress=True).stress[0].detach().numpy()
    volume, h = abs(np.linalg.det(np.asarray(crystal().cell))), 1e-5
    for a, b in ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1)):
        strain = np.zeros((3, 3))
        strain[a, b] += h / 2
        strain[b, a] += h / 2
        up, down = energies(model, [crystal(strain), crystal(-strain)])[0]
        assert stress[a, b] == pytest.approx((up - down) / (2 * h) / volume, abs=1e-8)
    np.testing.assert_allclose(stress, stress.T, atol=1e-12)
    assert np.abs(stress).max() > 1e-4


def test_stress_says_when_it_cannot_be() -> None:
    direct, model = build(forces="direct"), build()
    with pytest.raises(ModelError, match="derivative of the energy"):
        direct(direct.prepare([crystal()]), stress=True)
    with pytest.raises(ModelError, match="cell with a volume"):
        model(model.prepare([acid()]), stress=True)


def test_overlapping_atoms_are_named() -> None:
    twice = Structure(np.concatenate([POSITIONS, POSITIONS[2:3] + 1e-3]), np.append(NUMBERS, 8), name="m")
    with pytest.raises(StructureError, match=r"m: atoms (2 and 8|8 and 2) overlap"):
        build().prepare([twice])


def test_two_thousand_atoms_in_one_structure() -> None:
    grid = np.stack(np.meshgrid(*[np.arange(13.0)] * 3), -1).reshape(-1, 3)[:2000] * 2.0
    found = build(width=8, layers=1)(build().prepare([Structure(grid, np.full(2000, 6))]))
    assert np.isfinite(found.energy.detach().numpy()).all()
    assert np.isfinite(found.forces.detach().numpy()).all()
