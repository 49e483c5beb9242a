"""The optimiser against torch's Adam and against what orthogonalisation means."""

from __future__ import annotations

import pytest
import torch

from hyperkit_mol.potentials.optim import MuonAdam, orthogonalize


def test_adam_groups_are_torch_s_adamw() -> None:
    torch.manual_seed(0)
    start = torch.randn(5, 3, dtype=torch.float64)
    ours, theirs = start.clone().requires_grad_(), start.clone().requires_grad_()
    a = MuonAdam([{"params": [ours], "lr": 0.1, "weight_decay": 0.01}], betas=(0.9, 0.99))
    b = torch.optim.AdamW([theirs], lr=0.1, betas=(0.9, 0.99), weight_decay=0.01)
    for _ in range(20):
        for p, optimizer in ((ours, a), (theirs, b)):
            optimizer.zero_grad()
            (p.square().sum() + p.sin().sum()).backward()
            optimizer.step()
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("shape", [(16, 16), (48, 16), (16, 48)])
def test_orthogonalize(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    matrix = torch.randn(*shape)
    values = torch.linalg.svdvals(orthogonalize(matrix))
    assert float(values.min()) > 0.5
    assert float(values.max()) < 1.3
    # The direction of each singular vector stays.
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    turned = u.mT @ orthogonalize(matrix) @ v.mT
    assert float((turned - torch.diag(turned.diagonal())).abs().max()) < 1e-3


def test_muon_steps_do_not_depend_on_the_size_of_the_gradient() -> None:
    torch.manual_seed(0)
    grad = torch.randn(32, 16)
    moves = []
    for factor in (1e-3, 1.0, 1e3):
        p = torch.zeros(32, 16, requires_grad=True)
        optimizer = MuonAdam([{"params": [p], "lr": 0.1, "muon": True}])
        p.grad = factor * grad
        optimizer.step()
        moves.append(p.detach())
    torch.testing.assert_close(moves[0], moves[1], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(moves[2], moves[1], rtol=1e-3, atol=1e-4)


def test_muon_takes_matrices_only() -> None:
    with pytest.raises(ValueError, match=r"must be matrices, got shape \(3,\)"):
        MuonAdam([{"params": [torch.zeros(3, requires_grad=True)], "muon": True}])
