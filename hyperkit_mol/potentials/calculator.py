"""Potentials as an ASE calculator: one or an ensemble, one structure or many at a time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import torch
from scipy.spatial.transform import Rotation

from hyperkit_mol.potentials.batch import AtomicBatch, Structure
from hyperkit_mol.potentials.data import from_ase
from hyperkit_mol.potentials.errors import ModelError
from hyperkit_mol.potentials.model_files import load_potential
from hyperkit_mol.potentials.potential import Potential
from hyperkit_mol.potentials.uncertainty import LastLayer, energy_features, head_forces

try:
    from ase.calculators.calculator import Calculator, all_changes
except ImportError as err:
    raise ImportError("HyperkitCalculator needs ASE: pip install 'hyperkit[mol,potentials]'") from err

__all__ = ["HyperkitCalculator", "rotation_set"]

Model = str | Path | Potential
Results = dict[str, Any]
_STATE = ("charge", "spin")
_SPREADS = ["energy_std", "forces_std", "force_uncertainty"]
_GROUPS = {4: "D2", 12: "T", 24: "O", 60: "I"}


def rotation_set(count: int) -> npt.NDArray[np.float64]:
    """Rotation matrices ``(count, 3, 3)``, spread evenly and always the same ones; the identity for one.

    For 4, 12, 24 and 60 a group (three half turns; rotations of the tetrahedron, octahedron, icosahedron): an
    average over it loses what depends on the orientation by Wigner functions of degree 1, 1 to 2, 1 to 3 and
    1 to 5. For other counts super-Fibonacci spirals (Alexa, CVPR 2022), which even it out less.

    Raises
    ------
    ValueError
        If `count` is below 1.

    Examples
    --------
    >>> from hyperkit_mol.potentials.calculator import rotation_set
    >>> turns = rotation_set(12)
    >>> turns.shape, bool(abs(turns @ turns.transpose(0, 2, 1) - np.eye(3)).max() < 1e-12)
    ((12, 3, 3), True)
    """
    if count < 1:
        raise ValueError(f"rotations must be >= 1, got {count}")
    if count == 1:
        return np.eye(3)[None]
    if count in _GROUPS:
        return Rotation.create_group(_GROUPS[count]).as_matrix()
    s = np.arange(count) + 0.5
    near, far = np.sqrt(s / count), np.sqrt(1.0 - s / count)
    # The paper's constants: the root of 2, and the positive root of psi^4 = psi + 4.
    a, b = 2.0 * math.pi * s / math.sqrt(2.0), 2.0 * math.pi * s / 1.533751168755204288118041
    return Rotation.from_quat(
        np.stack([near * np.sin(a), near * np.cos(a), far * np.sin(b), far * np.cos(b)], -1)
    ).as_matrix()


class HyperkitCalculator(Calculator):
    """Energy (eV), forces (eV/Å) and stress (eV/Å³, Voigt) of a trained potential, or of several.

    Charge and spin are read from ``atoms.info["charge"]`` and ``atoms.info["spin"]`` (0 where missing); a
    change of them is noticed like one of the positions.

    Several models make an ensemble: results are means over its members, and three more tell how far they
    disagree (standard deviations with n - 1): ``energy_std`` (eV), ``forces_std`` ``(n, 3)`` and
    ``force_uncertainty`` ``(n,)``, the root of an atom's summed variances, all in eV/Å. Members must have
    been trained on the same elements, from other seeds or other parts of the data. A spread is no error bar:
    members that share a blind spot agree there.

    A single model can tell ``energy_std`` (eV) by itself, from its last layer: see `uncertainty`.

    Parameters
    ----------
    model : str, Path, Potential, or a sequence of these
        Model folders (``runs/.../model``) or loaded potentials. A potential is put into evaluation mode and
        its parameters are frozen.
    device : device
    dtype : torch.dtype, optional
        Of the computation: that of training by default. float64 helps finite differences and tight
        optimisations.
    rotations : int
        Average over this many orientations, at as many times the cost: for the Transformer, which learns
        rotation from augmentation. 4, 12, 24 and 60 are the good numbers, see :func:`rotation_set`. The set
        is fixed, so that forces stay the gradient of the (averaged) energy. An EScAIP needs none.
    uncertainty : {"last-layer"} or LastLayer, optional
        Of a single model: ``energy_std`` by :class:`~hyperkit_mol.potentials.uncertainty.LastLayer`. The name
        reads it from the model folder, where ``hyperkit-mol potential uncertainty RUN`` writes it. It costs a
        further forward pass.
    force_heads : int, optional
        With `uncertainty` and conservative forces: ``forces_std`` and ``force_uncertainty`` as well, from so
        many last layers drawn from those that the data allows, each a further backward pass. 16 give the
        deviations to a fifth; the width of the model (64 in `small`) or more gives them exactly.

    Raises
    ------
    ModelError
        When members of an ensemble know different elements; when a calculation meets an element, a charge or
        a spin that a model does not know.
    StructureError
        For NaN positions and overlapping atoms.

    Examples
    --------
    >>> from ase.build import molecule
    >>> atoms = molecule("H2O")
    >>> atoms.calc = HyperkitCalculator("runs/water/model")  # doctest: +SKIP
    >>> atoms.get_forces().shape  # doctest: +SKIP
    (3, 3)
    """

    implemented_properties: ClassVar[list[str]] = ["energy", "free_energy", "energies", "forces", "stress"]

    def __init__(
        self,
        model: Model | Sequence[Model],
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype | None = None,
        rotations: int = 1,
        uncertainty: Literal["last-layer"] | LastLayer | None = None,
        force_heads: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        models = [model] if isinstance(model, (str, Path, Potential)) else list(model)
        if not models:
            raise ModelError("an ensemble needs at least one model")
        self.potentials = [
            m.to(device=device, dtype=dtype) if isinstance(m, Potential) else load_potential(m, device, dtype)
            for m in models
        ]
        for potential in self.potentials:
            potential.eval().requires_grad_(False)
        self.rotations = rotation_set(rotations)
        self._check_members()
        self.last_layer = self._last_layer(models, uncertainty)
        self.heads: npt.NDArray[np.float64] | None = None
        if force_heads is not None:
            if self.last_layer is None:
                raise ValueError("force_heads needs uncertainty='last-layer' or a LastLayer")
            self.heads = self.last_layer.heads(force_heads)
        if self.last_layer is not None:
            more = ["energy_std"] if self.heads is None else _SPREADS
            self.implemented_properties = [*type(self).implemented_properties, *more]  # pyright: ignore[reportAttributeAccessIssue]

    @property
    def potential(self) -> Potential:
        """The model, or the first one of an ensemble."""
        return self.potentials[0]

    def _check_members(self) -> None:
        from ase.data import chemical_symbols

        first = set(self.potential.elements)
        for k, other in enumerate(self.potentials[1:], 2):
            strange = first.symmetric_difference(other.elements)
            if strange:
                names = ", ".join(chemical_symbols[z] for z in sorted(strange))
                raise ModelError(
                    f"model {k} of the ensemble was trained on other elements than model 1: {names} is known "
                    "to one of them only"
                )
        if len(self.potentials) > 1:
            # On the instance: a single model has nothing to say about these.
            self.implemented_properties = [*type(self).implemented_properties, *_SPREADS]  # pyright: ignore[reportAttributeAccessIssue]

    def _last_layer(
        self, models: Sequence[Model], chosen: Literal["last-layer"] | LastLayer | None
    ) -> LastLayer | None:
        if chosen is None:
            return None
        if len(models) > 1:
            raise ModelError("uncertainty is of a single model; an ensemble has its spread")
        if isinstance(chosen, LastLayer):
            return chosen.check(self.potential)
        if chosen != "last-layer":
            raise ValueError(f"uncertainty must be 'last-layer', a LastLayer or None, got {chosen!r}")
        if isinstance(models[0], Potential):
            raise ModelError(
                "uncertainty='last-layer' is read from a model folder; give LastLayer.fit(...) here"
            )
        return LastLayer.load(models[0], self.potential)

    def check_state(self, atoms: Any, tol: float = 1e-15) -> list[str]:
        """What has changed since the last calculation; ASE itself overlooks ``atoms.info``."""
        changes = super().check_state(atoms, tol)
        before = self.atoms
        if before is not None:
            changes += [key for key in _STATE if atoms.info.get(key, 0) != before.info.get(key, 0)]
        return changes

    def calculate(
        self,
        atoms: Any = None,
        properties: list[str] | tuple[str, ...] = ("energy",),
        system_changes: list[str] = all_changes,
    ) -> None:
        """Compute everything that the structure and the model have, at the price of the forces."""
        super().calculate(atoms, properties, system_changes)
        current: Any = self.atoms
        structure = from_ase(current, name=current.get_chemical_formula())
        stress = self._has_stress(structure)
        if "stress" in properties and not stress:
            conservative = all(p.config.forces == "conservative" for p in self.potentials)
            why = "the structure is not periodic in three directions" if conservative else "forces are direct"
            raise ModelError(f"stress is not to be had: {why}")
        (self.results,) = self._compute([structure], stress)

    def predict_many(self, images: Sequence[Any], batch_size: int = 32) -> list[Results]:
        """Results of many structures, computed by batches of like sizes: faster than one by one.

        Parameters
        ----------
        images : sequence of Atoms
            Their own calculators are neither used nor changed.
        batch_size : int
            Structures at a time; memory grows with it.

        Returns
        -------
        list of dict
            For each structure what ``results`` would hold, stress included where the structure and the model
            have one.

        Raises
        ------
        ModelError, StructureError
            Naming the image, counted from 0.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size must be >= 1, got {batch_size}")
        structures = [
            from_ase(a, name=f"image {k} ({a.get_chemical_formula()})") for k, a in enumerate(images)
        ]
        out: list[Results] = [{} for _ in structures]
        for stress in (False, True):
            rows = [k for k, s in enumerate(structures) if self._has_stress(s) == stress]
            rows.sort(key=lambda k: len(structures[k]))
            for begin in range(0, len(rows), batch_size):
                some = rows[begin : begin + batch_size]
                found = self._compute([structures[k] for k in some], stress)
                for k, results in zip(some, found, strict=True):
                    out[k] = results
        return out

    def _has_stress(self, structure: Structure) -> bool:
        conservative = all(p.config.forces == "conservative" for p in self.potentials)
        return conservative and bool(np.all(structure.pbc))  # pyright: ignore[reportArgumentType, reportCallIssue]

    def _compute(self, structures: Sequence[Structure], stress: bool) -> list[Results]:
        members = [self._member(p, structures, stress) for p in self.potentials]
        energy = np.stack([m[0] for m in members])
        atomic, forces = (np.stack([m[k] for m in members]) for k in (1, 2))
        pressure = np.stack([m[3] for m in members]).mean(0) if stress else None
        std = None if self.last_layer is None else self._energy_std(self.last_layer, structures)
        spreads = forces.std(0, ddof=1) if len(members) > 1 else self._forces_std(structures)
        out: list[Results] = []
        begin = 0
        for k, structure in enumerate(structures):
            rows = slice(begin, begin + len(structure))
            begin = rows.stop
            mean = float(energy[:, k].mean())
            results: Results = {
                "energy": mean,
                "free_energy": mean,
                "energies": atomic[:, rows].mean(0),
                "forces": forces[:, rows].mean(0),
            }
            if pressure is not None:
                s = pressure[k]
                results["stress"] = np.array([s[0, 0], s[1, 1], s[2, 2], s[1, 2], s[0, 2], s[0, 1]])
            if len(members) > 1:
                results["energy_std"] = float(energy[:, k].std(ddof=1))
            if std is not None:
                results["energy_std"] = float(std[k])
            if spreads is not None:
                results["forces_std"] = spreads[rows]
                results["force_uncertainty"] = np.sqrt(np.square(spreads[rows]).sum(-1))
            out.append(results)
        return out

    def _batch(self, potential: Potential, structures: Sequence[Structure]) -> tuple[AtomicBatch, Any]:
        """Every structure in every orientation, and the rotations."""
        count = len(self.rotations)
        batch = potential.prepare([s for s in structures for _ in range(count)])
        turns = np.tile(self.rotations, (len(structures), 1, 1))
        return (batch.rotated(torch.from_numpy(turns)) if count > 1 else batch), turns

    def _energy_std(self, last_layer: LastLayer, structures: Sequence[Structure]) -> npt.NDArray[np.float64]:
        features = energy_features(self.potential, self._batch(self.potential, structures)[0])
        # The mean energy over orientations is linear in the mean features.
        return last_layer.energy_std(features.reshape(len(structures), len(self.rotations), -1).mean(1))

    def _forces_std(self, structures: Sequence[Structure]) -> npt.NDArray[np.float64] | None:
        """Of the components, ``(N, 3)``."""
        if self.heads is None:
            return None
        batch, turns = self._batch(self.potential, structures)
        forces = self._turned_back(head_forces(self.potential, batch, self.heads), batch, turns, structures)
        return np.sqrt(np.square(forces).sum(0))

    def _turned_back(
        self, forces: Any, batch: AtomicBatch, turns: Any, structures: Sequence[Structure]
    ) -> npt.NDArray[np.float64]:
        """Means ``(..., N, 3)`` over the copies of each structure, which stand side by side."""
        count = len(self.rotations)
        if count == 1:
            return forces
        forces = np.einsum("nji,...nj->...ni", turns[batch.index.cpu().numpy()], forces)
        ends = np.cumsum([len(s) * count for s in structures])[:-1]
        parts = np.split(forces, ends, axis=-2)
        return np.concatenate([x.reshape(*x.shape[:-2], count, -1, 3).mean(-3) for x in parts], -2)

    def _member(
        self, potential: Potential, structures: Sequence[Structure], stress: bool
    ) -> tuple[Any, Any, Any, Any]:
        """Energies ``(B,)``, atomic energies ``(N,)``, forces ``(N, 3)`` and stress ``(B, 3, 3)`` of one."""
        count = len(self.rotations)
        batch, turns = self._batch(potential, structures)
        found = potential(batch, stress=stress)
        energy, atomic = (x.detach().cpu().numpy() for x in (found.energy, found.atomic))
        forces = found.forces.detach().cpu().double().numpy()
        pressure = None if found.stress is None else found.stress.detach().cpu().double().numpy()
        if count == 1:
            return energy, atomic, forces, pressure
        forces = self._turned_back(forces, batch, turns, structures)
        ends = np.cumsum([len(s) * count for s in structures])[:-1]
        atomic = np.concatenate([x.reshape(count, -1).mean(0) for x in np.split(atomic, ends)])
        if pressure is not None:
            pressure = np.einsum("bji,bjk,bkl->bil", turns, pressure, turns)
            pressure = pressure.reshape(-1, count, 3, 3).mean(1)
        return energy.reshape(-1, count).mean(1), atomic, forces, pressure
