"""Other potentials for `potentials_speed.py`: built with random weights from their own packages.

Each function is called in a process of an interpreter that has the package, and returns how structures (ASE
atoms) become a batch, how a batch is evaluated, and the number of parameters. An evaluation is energies and
conservative forces of all structures of a batch, in training the gradient of a loss on both.

    mace         pip install mace-torch        neighbour lists outside the evaluation
    escaip-public, escaip-public-5M            pip install fairchem-core; graph inside the evaluation
    aimnet2      pip install aimnet ase        graph outside the evaluation
    tensornet    pip install torchmd-net       graph inside the evaluation
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

Peer = tuple[Callable[[list[Any]], Any], Callable[[Any, bool], Any], int]


def mace(spec: dict[str, Any]) -> Peer:
    """Two layers, correlation 3, 5 Å; `channels` and `degree` of the messages."""
    warnings.filterwarnings("ignore")
    import torch
    from mace import data, modules, tools  # before e3nn, which cannot load its own constants otherwise
    from e3nn import o3  # isort: skip

    table = tools.AtomicNumberTable([1, 6, 7, 8])
    channels, degree = spec["channels"], spec["degree"]
    hidden = "+".join(f"{channels}x{k}{'e' if k % 2 == 0 else 'o'}" for k in range(degree + 1))
    torch.manual_seed(0)
    model = modules.ScaleShiftMACE(
        r_max=5.0,
        num_bessel=8,
        num_polynomial_cutoff=6,
        max_ell=3,
        interaction_cls=modules.interaction_classes["RealAgnosticResidualInteractionBlock"],
        interaction_cls_first=modules.interaction_classes["RealAgnosticResidualInteractionBlock"],
        num_interactions=2,
        num_elements=4,
        hidden_irreps=o3.Irreps(hidden),
        MLP_irreps=o3.Irreps("16x0e"),
        atomic_energies=np.zeros(4),
        avg_num_neighbors=20.0,
        atomic_numbers=table.zs,
        correlation=3,
        gate=torch.nn.functional.silu,
        radial_MLP=[64, 64, 64],
        atomic_inter_scale=1.0,
        atomic_inter_shift=0.0,
    )

    def prepare(frames: list[Any]) -> Any:
        from mace.tools import torch_geometric

        configs = [data.config_from_atoms(a) for a in frames]
        rows = [data.AtomicData.from_config(c, z_table=table, cutoff=5.0) for c in configs]
        loader = torch_geometric.dataloader.DataLoader(rows, batch_size=len(rows), shuffle=False)
        return next(iter(loader)).to_dict()

    def run(batch: Any, train: bool) -> None:
        model.train(train).requires_grad_(train)
        found = model(batch, training=train, compute_force=True)
        if train:
            (found["energy"].square().mean() + found["forces"].square().mean()).backward()
            model.zero_grad()

    return prepare, run, sum(p.numel() for p in model.parameters())


def escaip_public(spec: dict[str, Any]) -> Peer:
    """The authors' code: width 128, 6 layers, heads of 64 with the published angular multiplicities.

    Published settings otherwise (6 Å, soft 30 nearest), but 64 Gaussians into 64 features and places for 32
    neighbours, which makes 3.0 M parameters; `full`: 600 into 512 and 45, as published, 5.5 M. Batches are
    not padded.
    """
    import torch
    from fairchem.core.datasets.atomic_data import AtomicData, atomicdata_list_to_batch
    from fairchem.core.models.escaip import EScAIP

    full = spec["full"]
    torch.manual_seed(0)
    backbone = EScAIP.EScAIPBackbone(
        regress_forces=True,
        direct_forces=False,
        hidden_size=128,
        num_layers=6,
        use_compile=False,  # the authors' setting for forces by gradient
        use_padding=False,
        use_pbc=spec["periodic"],
        max_num_elements=100,
        max_atoms=1000,
        max_batch_size=64,
        max_radius=6.0,
        knn_k=30,
        knn_soft=True,
        knn_sigmoid_scale=0.2,
        knn_lse_scale=0.1,
        knn_use_low_mem=True,
        knn_pad_size=45 if full else 32,
        atten_name="math",  # the one with a second derivative
        atten_num_heads=2,
        edge_distance_expansion_size=600 if full else 64,
        edge_distance_embedding_size=512 if full else 64,
    )
    head = EScAIP.EScAIPGradientEnergyForceStressHead(backbone, wrap_property=False)
    model = torch.nn.ModuleList([backbone, head])

    def prepare(frames: list[Any]) -> Any:
        return atomicdata_list_to_batch([AtomicData.from_ase(a, task_name="any") for a in frames])

    def run(batch: Any, train: bool) -> None:
        model.train(train).requires_grad_(train)
        batch = batch.clone()
        found = head(batch, backbone(batch))
        if train:
            (found["energy"].square().mean() + found["forces"].square().mean()).backward()
            model.zero_grad()

    return prepare, run, sum(p.numel() for p in model.parameters())


def aimnet2(spec: dict[str, Any]) -> Peer:
    """The architecture of the published models (`aimnet2.yaml` of the package)."""
    warnings.filterwarnings("ignore")
    import aimnet
    import torch
    from aimnet.calculators import AIMNet2Calculator
    from aimnet.config import build_module

    torch.manual_seed(0)
    model: Any = build_module(os.path.join(os.path.dirname(aimnet.__file__), "models", "aimnet2.yaml"))
    ways = {train: AIMNet2Calculator(model, device="cpu", train=train) for train in (False, True)}

    def prepare(frames: list[Any]) -> Any:
        data: dict[str, Any] = {
            "coord": np.stack([a.positions for a in frames]),
            "numbers": np.stack([a.numbers for a in frames]),
            "charge": np.zeros(len(frames)),
        }
        if frames[0].pbc.any():
            data = {k: v[0] for k, v in data.items()} | {"cell": np.array(frames[0].cell)}
        return {train: way.prepare_input(dict(data)) for train, way in ways.items()}

    def run(batch: Any, train: bool) -> None:
        model.train(train).requires_grad_(train)
        found = ways[train]._evaluate_prepared(dict(batch[train]), forces=True)
        if train:
            (found["energy"].float().square().mean() + found["forces"].square().mean()).backward()
            model.zero_grad()

    return prepare, run, sum(p.numel() for p in model.parameters())


def tensornet(spec: dict[str, Any]) -> Peer:
    """Width 128, 32 radial functions, 5 Å; one interaction layer."""
    import torch
    from torchmdnet.models.model import create_model

    torch.manual_seed(0)
    model = create_model(
        {
            "model": "tensornet",
            "precision": 32,
            "embedding_dimension": 128,
            "num_layers": 1,
            "num_rbf": 32,
            "rbf_type": "expnorm",
            "trainable_rbf": False,
            "activation": "silu",
            "cutoff_lower": 0.0,
            "cutoff_upper": 5.0,
            "max_z": 100,
            "max_num_neighbors": 64,
            "equivariance_invariance_group": "O(3)",
            "derivative": True,
            "atom_filter": -1,
            "prior_model": None,
            "output_model": "Scalar",
            "output_mlp_num_layers": 0,
            "reduce_op": "sum",
        }
    )

    def prepare(frames: list[Any]) -> Any:
        sizes = torch.tensor([len(a) for a in frames])
        one = frames[0]
        return (
            torch.tensor(np.concatenate([a.numbers for a in frames])),
            torch.tensor(np.concatenate([a.positions for a in frames]), dtype=torch.float32),
            torch.repeat_interleave(torch.arange(len(frames)), sizes),
            torch.tensor(np.array(one.cell), dtype=torch.float32) if one.pbc.any() else None,
        )

    def run(batch: Any, train: bool) -> None:
        model.train(train).requires_grad_(train)
        z, positions, index, cell = batch
        energy, forces = model(z, positions.clone(), index, box=cell)
        if train:
            (energy.square().mean() + forces.square().mean()).backward()
            model.zero_grad()

    return prepare, run, sum(p.numel() for p in model.parameters())


PEERS: dict[str, tuple[Callable[[dict[str, Any]], Peer], dict[str, Any]]] = {
    "escaip-public": (escaip_public, {"full": False, "periodic": False}),
    "escaip-public-5M": (escaip_public, {"full": True, "periodic": False}),
    "aimnet2": (aimnet2, {}),
    "tensornet": (tensornet, {}),
}
