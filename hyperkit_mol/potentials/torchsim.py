"""A potential as a torch-sim model: relaxations and dynamics of many systems in one batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hyperkit_mol.potentials.batch import Structure
from hyperkit_mol.potentials.model_files import load_potential
from hyperkit_mol.potentials.potential import Potential

try:
    import torch_sim
    from torch_sim.models.interface import ModelInterface
except ImportError as err:
    raise ImportError(
        "TorchSimModel needs torch-sim: pip install 'hyperkit[mol,potentials,torchsim]'"
    ) from err

__all__ = ["TorchSimModel"]


class TorchSimModel(ModelInterface):
    """Energies, forces and stress for torch-sim's optimisers and integrators.

    All systems of a state are one batch of the potential; neighbours are found for each system by itself.
    Energies come in float64 whatever the rest is computed in. torch-sim has no mixed periodicity: all
    directions or none.

    Parameters
    ----------
    model : str, Path or Potential
        A model folder (``runs/.../model``), or a loaded potential, which is put into evaluation mode and
        frozen.
    device : device
    dtype : torch.dtype, optional
        Of the state and the computation: that of training by default.
    charge, spin : int
        Of every system, unless the state has a ``charge`` or ``spin`` for each (torch-sim 0.3 has none).
    compute_stress : bool, optional
        By default wherever the model can. For systems that are not periodic the stress is NaN.

    Raises
    ------
    NotImplementedError
        If stress is asked of a model that has none (direct forces, Transformer).
    ModelError, StructureError
        In a calculation, as from the potential itself; systems are counted from 0.

    Examples
    --------
    >>> import torch_sim as ts  # doctest: +SKIP
    >>> model = TorchSimModel("runs/mine/model", dtype=torch.float64)  # doctest: +SKIP
    >>> relaxed = ts.optimize(molecules, model, optimizer=ts.optimizers.fire)  # doctest: +SKIP
    """

    def __init__(
        self,
        model: str | Path | Potential,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype | None = None,
        charge: int = 0,
        spin: int = 0,
        compute_stress: bool | None = None,
    ) -> None:
        super().__init__()
        if isinstance(model, Potential):
            self.potential = model.to(device=device, dtype=dtype).eval()
        else:
            self.potential = load_potential(model, device, dtype)
        self.potential.requires_grad_(False)
        self.charge, self.spin = charge, spin
        parameter = next(self.potential.parameters())
        self._device, self._dtype = parameter.device, parameter.dtype
        self._compute_forces, self._compute_stress = True, False
        # By density it would be infinite for molecules, whose cell has no volume. Neighbours of an atom are
        # about as many in all dense matter.
        self._memory_scales_with = "n_atoms"
        has_stress = self.potential.config.forces == "conservative" and self.potential.cutoff is not None
        self._why_not = (
            None
            if has_stress
            else f"a {self.potential.config.kind} with "
            + (f"{self.potential.config.forces} forces has no stress")
        )
        if has_stress if compute_stress is None else compute_stress:
            self.compute_stress = True

    @property
    def compute_stress(self) -> bool:
        """Whether :meth:`forward` returns a stress."""
        return self._compute_stress

    @compute_stress.setter
    def compute_stress(self, value: bool) -> None:
        if value and self._why_not is not None:
            raise NotImplementedError(self._why_not)
        self._compute_stress = value

    @property
    def compute_forces(self) -> bool:
        """Whether :meth:`forward` returns forces."""
        return self._compute_forces

    @compute_forces.setter
    def compute_forces(self, value: bool) -> None:
        self._compute_forces = value

    def forward(self, state: Any, **kwargs: Any) -> dict[str, Tensor]:
        """Evaluate all systems of a state, or of a dictionary with its fields.

        Returns
        -------
        dict of Tensor
            "energy" ``(B,)``, "forces" ``(N, 3)`` and "stress" ``(B, 3, 3)``, in eV, eV/Å and eV/Å³.
        """
        del kwargs
        if isinstance(state, dict):
            state = torch_sim.SimState(**{"masses": torch.ones(len(state["positions"])), **state})
        batch = self.potential.prepare(self._structures(state))
        periodic = bool(batch.pbc.all())
        found = self.potential(batch, forces=self.compute_forces, stress=self.compute_stress and periodic)
        out = {"energy": found.energy.detach()}
        if self.compute_forces:
            out["forces"] = found.forces.detach().to(state.positions)
        if self.compute_stress:
            shape = (batch.size, 3, 3)
            out["stress"] = (
                found.stress.detach().to(state.positions)
                if periodic
                else torch.full(shape, torch.nan, dtype=self.dtype, device=self.device)
            )
        return out

    def _structures(self, state: Any) -> list[Structure]:
        index = state.system_idx.detach().cpu().numpy()
        positions = state.positions.detach().cpu().double().numpy()
        numbers = state.atomic_numbers.detach().cpu().numpy()
        cells = state.row_vector_cell.detach().cpu().double().numpy()
        pbc = np.broadcast_to(np.asarray(torch.as_tensor(state.pbc).cpu()), 3)
        counts = np.bincount(index, minlength=len(cells))
        ends = np.cumsum(counts)
        fields = {}
        for name in ("charge", "spin"):
            given = getattr(state, name, None)
            given = getattr(self, name) if given is None else torch.as_tensor(given).cpu().numpy()
            fields[name] = np.broadcast_to(given, len(cells))
        return [
            Structure(
                positions[end - count : end],
                numbers[end - count : end],
                cell=cells[k],
                pbc=pbc,
                charge=float(fields["charge"][k]),  # pyright: ignore[reportArgumentType]
                spin=float(fields["spin"][k]),  # pyright: ignore[reportArgumentType]
                name=f"system {k}",
            )
            for k, (count, end) in enumerate(zip(counts, ends, strict=True))
        ]
