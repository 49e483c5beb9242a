"""What a layer costs, as a multiple of the torch layer of the same size: forward and backward, float32.

``OMP_NUM_THREADS=1 python tests/benchmarks/layers_speed.py`` prints the table. Both layers take turns
(A B A B); each figure is the median over the rounds of their ratio in process time, so that a busy machine
blurs it little.
``--compile`` compiles both.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from hyperkit import nn as hnn
from hyperkit.nn import geometry
from hyperkit.ops import lorentz as L


class Case(NamedTuple):
    """Our layer and torch's, each with its input."""

    name: str
    goal: float | None
    ours: Callable[[Tensor], Tensor]
    x: Tensor
    theirs: Callable[[Tensor], Tensor]
    y: Tensor


def lorentz(*shape: int, features: int) -> Tensor:
    return geometry("lorentz").random_normal(*shape, features=features)


def ball(*shape: int, features: int) -> Tensor:
    return L.to_poincare(lorentz(*shape, features=features))


def first(layer: nn.Module) -> Callable[[Tensor], Tensor]:
    return lambda x: layer(x)[0]


def _images(x: Tensor) -> Tensor:
    return x.movedim(-1, 1).contiguous()


def cases() -> list[Case]:
    """The layers; the goal is that of the project, where it has one."""
    rows, d = 1024, 128
    flat, points, disk = torch.randn(rows, d), lorentz(rows, features=d), ball(rows, features=d)
    size, ch = (16, 32, 32), 16
    image = torch.randn(16, ch, 32, 32)
    image_l, image_b = _images(lorentz(*size, features=ch)), _images(ball(*size, features=ch))
    seq, seq_l, seq_b = torch.randn(16, 50, d), lorentz(16, 50, features=d), ball(16, 50, features=d)
    volume = torch.randn(4, 8, 12, 12, 12)
    volume_l = _images(lorentz(4, 12, 12, 12, features=8))
    volume_b = _images(ball(4, 12, 12, 12, features=8))
    wide = torch.randn(16 * 32 * 32, ch)
    wide_l, wide_b = lorentz(16 * 32 * 32, features=ch), ball(16 * 32 * 32, features=ch)
    attention = nn.MultiheadAttention(d, 4, batch_first=True)
    inner = hnn.PoincareAttention(d, 4, score="inner")

    def attend(x: Tensor) -> Tensor:
        return attention(x, x, x, need_weights=False)[0]

    line, line_l, line_b = (t.movedim(-1, 1).contiguous() for t in (seq, seq_l, seq_b))
    conv1, conv2, conv3 = nn.Conv1d(d, d, 3, padding=1), nn.Conv2d(ch, ch, 3, padding=1), nn.Conv3d(8, 8, 3)
    linear, norm = nn.Linear(d, d), nn.BatchNorm1d(ch)
    gru, relu = nn.GRU(d, d, batch_first=True), nn.ReLU()
    return [
        Case("LorentzLinear", 1.3, hnn.LorentzLinear(d, d), points, linear, flat),
        Case("PoincareLinear", 1.3, hnn.PoincareLinear(d, d), disk, linear, flat),
        Case("LorentzConv1d", 3, hnn.LorentzConv1d(d, d, 3, padding=1), line_l, conv1, line),
        Case("PoincareConv1d", 3, hnn.PoincareConv1d(d, d, 3, padding=1), line_b, conv1, line),
        Case("LorentzConv2d", 3, hnn.LorentzConv2d(ch, ch, 3, padding=1), image_l, conv2, image),
        Case("PoincareConv2d", 3, hnn.PoincareConv2d(ch, ch, 3, padding=1), image_b, conv2, image),
        Case("LorentzConv3d", 3, hnn.LorentzConv3d(8, 8, 3), volume_l, conv3, volume),
        Case("PoincareConv3d", 3, hnn.PoincareConv3d(8, 8, 3), volume_b, conv3, volume),
        Case("LorentzBatchNorm", 4, hnn.LorentzBatchNorm(ch), wide_l, norm, wide),
        Case("PoincareBatchNorm", 4, hnn.PoincareBatchNorm(ch), wide_b, norm, wide),
        Case("LorentzLayerNorm", None, hnn.LorentzLayerNorm(d), points, nn.LayerNorm(d), flat),
        Case("LorentzRMSNorm", None, hnn.LorentzRMSNorm(d), points, nn.RMSNorm(d), flat),
        Case("LorentzActivation", None, hnn.LorentzActivation(), points, relu, flat),
        Case("PoincareActivation", None, hnn.PoincareActivation(), disk, relu, flat),
        Case("LorentzAttention", None, hnn.LorentzAttention(d, 4), seq_l, attend, seq),
        Case("LorentzLinearAttention", None, hnn.LorentzLinearAttention(d, 4), seq_l, attend, seq),
        Case("PoincareAttention, distance", None, hnn.PoincareAttention(d, 4), seq_b, attend, seq),
        Case("PoincareAttention, inner", None, inner, seq_b, attend, seq),
        Case("LorentzGRU", None, first(hnn.LorentzGRU(d, d)), seq_l, first(gru), seq),
        Case("PoincareGRU", None, first(hnn.PoincareGRU(d, d)), seq_b, first(gru), seq),
        Case("LorentzAvgPool2d", None, hnn.LorentzAvgPool2d(2), image_l, nn.AvgPool2d(2), image),
        Case("PoincareAvgPool2d", None, hnn.PoincareAvgPool2d(2), image_b, nn.AvgPool2d(2), image),
    ]


def run(f: Callable[[Tensor], Tensor], x: Tensor, grad: Tensor | None, repeats: int) -> float:
    start = time.process_time()
    for _ in range(repeats):
        out = f(x)
        if grad is not None:
            x.grad = None
            out.backward(grad)
    return time.process_time() - start


def ratio(case: Case, train: bool, rounds: int) -> float:
    """Median over the rounds of ours/theirs, each timed for some 10 ms a round."""
    pairs = []
    for f, x in ((case.ours, case.x), (case.theirs, case.y)):
        leaf = x.detach().clone().requires_grad_(train)
        grad = torch.randn_like(f(leaf).detach()) if train else None
        repeats = max(1, round(0.01 / max(1e-4, min(run(f, leaf, grad, 1) for _ in range(3)))))
        pairs.append((f, leaf, grad, repeats))
    found = []
    for _ in range(rounds):
        ours, theirs = (run(*pair) / pair[-1] for pair in pairs)
        found.append(ours / theirs)
    return statistics.median(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--only", default="", help="layers whose name holds this")
    args = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    print("| layer | forward | forward + backward | goal |\n|---|---|---|---|")
    for case in cases():
        if args.only not in case.name:
            continue
        if args.compile:
            case = case._replace(ours=torch.compile(case.ours), theirs=torch.compile(case.theirs))
        with torch.no_grad():
            forward = ratio(case, False, args.rounds)
        both = ratio(case, True, args.rounds)
        goal = "" if case.goal is None else f"{case.goal:g}"
        print(f"| {case.name} | {forward:.2f} | {both:.2f} | {goal} |", flush=True)


if __name__ == "__main__":
    main()
