"""ChemNet's activations and the Fréchet ChemNet Distance (Preuer et al., arXiv:1803.09518).

ChemNet reads a SMILES string padded to 350 symbols through two strided convolutions and two LSTMs. Padding
makes up most of it, and the network turns padding into a constant: the convolutions have no bias and
``selu(0) = 0``. The first LSTM runs backwards, so it meets the padding first and all molecules share its
states there, which are computed once; the second meets it last, where its input is the same for all.
Only the recurrence of the second LSTM over 88 steps is left, 0.18 GFLOP a molecule, and it stays in float32:
bfloat16 moves FCD by 5 %.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from hyperkit_mol.moses import _compat

T = TypeVar("T")

FEATURES = 512
_LENGTH = 350
_SYMBOLS = (
    *("C", "N", "O", "H", "F", "Cl", "P", "B", "Br", "S", "I", "Si", "#", "(", ")", "+", "-"),
    *("1", "2", "3", "4", "5", "6", "7", "8", "=", "[", "]", "@", "c", "n", "o", "s", "X", "."),
)
_INDEX = {symbol: index for index, symbol in enumerate(_SYMBOLS)}
_UNKNOWN = _INDEX["X"]
_END = _INDEX["."]
_PAD = len(_SYMBOLS)
# Any character that r, i or l follows is read as one symbol with it.
_TOKEN = re.compile(".[ril]|.", re.DOTALL)


def encode(smiles: str) -> list[int]:
    """Symbols of a SMILES string as ChemNet reads it: the first component, cut at 350 symbols."""
    first = smiles.partition(".")[0]
    symbols = [_INDEX.get(token, _UNKNOWN) for token in _TOKEN.findall(first)[: _LENGTH - 1]]
    return [*symbols, _END]


class ChemNet:
    """ChemNet in inference mode.

    Parameters
    ----------
    device : str
        ``cpu`` (batches spread over ``n_jobs`` threads of one core each, which gives the same figures
        for any number) or a torch device.
    n_jobs : int
    batch_size : int
    """

    def __init__(self, device: str = "cpu", n_jobs: int = 1, batch_size: int = 256) -> None:
        self._device = torch.device(device)
        self._n_jobs = n_jobs if self._device.type == "cpu" else 1
        self._batch_size = batch_size
        (conv1, conv2, lstm1, lstm2) = [entry[1][0] for entry in _compat.read_chemnet()]
        with torch.inference_mode():
            # Input symbols count 1/35, a convolution over one-hot vectors is a sum of table rows.
            table = conv1["weight"] * (1.0 / len(_SYMBOLS))
            padding = torch.zeros(1, table.shape[0])
            self._tables = [torch.cat([table[:, :, place].T, padding]).to(self._device) for place in range(4)]
            self._conv2 = conv2["weight"].to(self._device)
            self._lstm1 = _Cell(lstm1, self._device)
            self._lstm2 = _Cell(lstm2, self._device)
            self._prepare_padding()

    def _prepare_padding(self) -> None:
        """States of the first LSTM after 0 to 88 steps of padding, and what the second sees of them."""
        steps = 88
        cell = self._lstm1
        hidden = torch.zeros(cell.size, 1, device=self._device)
        memory = torch.zeros_like(hidden)
        nothing = cell.bias.clone()
        states = [(hidden, memory)]
        inputs = []
        for _ in range(steps):
            hidden, memory = cell.step(nothing, hidden, memory.clone())
            states.append((hidden, memory))
            inputs.append(torch.addmm(self._lstm2.bias, self._lstm2.from_input, hidden))
        self._padding_states = states
        self._padding_inputs = inputs

    def _forward(self, symbols: Sequence[Sequence[int]]) -> Tensor:
        longest = max(map(len, symbols))
        steps1 = min(longest // 2 + 1, 175)
        steps2 = min(steps1 // 2 + 1, 88)
        padded = np.full((len(symbols), max(2 * steps1 + 2, longest + 1)), _PAD, dtype=np.int64)
        for row, entry in enumerate(symbols):
            padded[row, 1 : len(entry) + 1] = entry
        index = torch.from_numpy(padded).to(self._device)
        x = sum(
            torch.nn.functional.embedding(index[:, place : place + 2 * steps1 : 2], table)
            for place, table in enumerate(self._tables)
        )
        assert isinstance(x, Tensor)
        x = torch.selu(x).transpose(1, 2)
        x = torch.nn.functional.pad(x, (1, 2 * steps2 + 1 - steps1))
        x = torch.selu(torch.nn.functional.conv1d(x, self._conv2, stride=2))
        x = x.permute(2, 1, 0).contiguous()  # (steps, channels, batch): each step is a matrix

        batch = len(symbols)
        hidden, memory = (state.repeat(1, batch) for state in self._padding_states[88 - steps2])
        outputs: list[Tensor] = [hidden] * steps2
        for step in range(steps2 - 1, -1, -1):
            gates = torch.addmm(self._lstm1.bias, self._lstm1.from_input, x[step])
            hidden, memory = self._lstm1.step(gates, hidden, memory)
            outputs[step] = hidden

        cell = self._lstm2
        hidden = torch.zeros(cell.size, batch, device=self._device)
        memory = torch.zeros_like(hidden)
        gates = torch.empty(4 * cell.size, batch, device=self._device)
        for step in range(88):
            if step < steps2:
                torch.addmm(cell.bias, cell.from_input, outputs[step], out=gates)
                hidden, memory = cell.step(gates, hidden, memory, out=gates)
            else:
                hidden, memory = cell.step(self._padding_inputs[87 - step], hidden, memory, out=gates)
        return hidden.T

    def batches(
        self,
        smiles: Sequence[str],
        then: Callable[[np.ndarray, Tensor], T],
        done: Callable[[int], None] | None = None,
    ) -> Iterator[T]:
        """Run the network batch by batch and yield ``then(indices, activations)`` of each.

        Parameters
        ----------
        smiles : sequence of str
            Canonical SMILES.
        then : callable
            Called, in the thread that ran the batch, with where the rows belong and the float32 activations
            of the last layer (batch, 512) on the CPU.
        done : callable, optional
            Called with the number of molecules finished so far.

        Notes
        -----
        Batches hold molecules of similar length and come in an order that depends on the input alone.
        """
        encoded = [encode(text) for text in smiles]
        order = np.argsort([len(entry) for entry in encoded], kind="stable")
        parts = [order[at : at + self._batch_size] for at in range(0, len(order), self._batch_size)]
        local = threading.local()

        def run(part: np.ndarray) -> T:
            if self._device.type == "cpu" and not getattr(local, "ready", False):
                torch.set_num_threads(1)  # this thread's own setting
                local.ready = True
            with torch.inference_mode():
                return then(part, self._forward([encoded[index] for index in part]).cpu())

        finished = 0
        with ThreadPoolExecutor(self._n_jobs) as executor:
            try:
                for part, value in zip(parts, executor.map(run, parts), strict=True):
                    yield value
                    finished += len(part)
                    if done is not None:
                        done(finished)
            finally:
                executor.shutdown(wait=True, cancel_futures=True)

    def activations(self, smiles: Sequence[str]) -> np.ndarray:
        """Activations of the last layer, float32 (n, 512), in the order of ``smiles``."""
        result = np.empty((len(smiles), FEATURES), dtype=np.float32)

        def store(part: np.ndarray, rows: Tensor) -> None:
            result[part] = rows.numpy()

        for _ in self.batches(smiles, store):
            pass
        return result

    def moments(
        self, smiles: Sequence[str], weights: np.ndarray, done: Callable[[int], None] | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Mean (512,) and covariance (512, 512) of the activations, each molecule counted ``weights`` times.

        Sums run in float64 about a typical activation, which keeps the digits of units that hardly vary;
        memory does not grow with the number of molecules.

        Raises
        ------
        ValueError
            If the weights sum to less than 2.
        """
        count = int(weights.sum())
        if count < 2:
            raise ValueError(f"a covariance needs at least 2 molecules, got {count}")
        weight = torch.from_numpy(weights.astype(np.float64))
        shift = torch.from_numpy(self.activations(smiles[: self._batch_size])).double().mean(dim=0)

        def sums(part: np.ndarray, rows: Tensor) -> tuple[Tensor, Tensor]:
            values = rows.double() - shift
            weighted = values * weight[torch.from_numpy(part)][:, None]
            return weighted.sum(dim=0), values.T @ weighted

        total = torch.zeros(FEATURES, dtype=torch.float64)
        outer = torch.zeros(FEATURES, FEATURES, dtype=torch.float64)
        for first, second in self.batches(smiles, sums, done):
            total += first
            outer += second
        offset = total / count
        covariance = (outer - count * torch.outer(offset, offset)) / (count - 1)
        return (shift + offset).numpy(), covariance.numpy()


class _Cell:
    """One LSTM in the transposed layout (features, batch), where each gate is a contiguous block."""

    def __init__(self, weights: dict[str, Tensor], device: torch.device) -> None:
        self.from_input = weights["weight_ih_l0"].to(device).contiguous()
        self.from_hidden = weights["weight_hh_l0"].to(device).contiguous()
        self.bias = (weights["bias_ih_l0"] + weights["bias_hh_l0"]).to(device)[:, None].contiguous()
        self.size = self.from_hidden.shape[1]

    def step(
        self, given: Tensor, hidden: Tensor, memory: Tensor, out: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """One step; ``given`` is the input's part of the gates, ``memory`` is overwritten."""
        gates = torch.addmm(given, self.from_hidden, hidden, out=out)
        n = self.size
        gates[: 2 * n].sigmoid_()
        gates[2 * n : 3 * n].tanh_()
        gates[3 * n :].sigmoid_()
        memory.mul_(gates[n : 2 * n]).addcmul_(gates[:n], gates[2 * n : 3 * n])
        return torch.tanh(memory).mul_(gates[3 * n :]), memory


def frechet_distance(
    mean1: np.ndarray, covariance1: np.ndarray, mean2: np.ndarray, covariance2: np.ndarray
) -> float:
    """Squared Fréchet distance of two Gaussians.

    ``|m1 - m2|² + tr(C1 + C2 - 2 (C1 C2)^½)``. The trace of the root is the sum of the singular values of
    ``C1^½ C2^½``, which is taken without ever squaring them: for singular covariances (fewer than 513
    molecules) it is exact to 1e-12, where the original's ``sqrtm`` of the product is off by some 1e-6.
    """

    def trace_of_root() -> float:
        torch.set_num_threads(
            1
        )  # of this thread; on a busy machine two spinning threads take ten times longer
        return float(torch.linalg.svdvals(_root(covariance1) @ _root(covariance2)).sum())

    with ThreadPoolExecutor(1) as executor:
        trace = executor.submit(trace_of_root).result()
    difference = np.asarray(mean1, np.float64) - np.asarray(mean2, np.float64)
    return float(difference @ difference + np.trace(covariance1) + np.trace(covariance2) - 2.0 * trace)


def _root(covariance: np.ndarray) -> Tensor:
    values, vectors = torch.linalg.eigh(torch.from_numpy(np.asarray(covariance, np.float64)))
    # Eigenvalues below the rounding of the largest are noise about zero, and a root would magnify it.
    noise = torch.finfo(torch.float64).eps * len(values) * values[-1]
    return (vectors * torch.where(values > noise, values, 0.0).sqrt()) @ vectors.T
