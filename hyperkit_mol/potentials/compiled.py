"""Energy and forces as one traced and compiled graph, with the derivative that training needs."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from hyperkit_mol.potentials.batch import AtomicBatch

if TYPE_CHECKING:
    from hyperkit_mol.potentials.potential import Potential

__all__ = ["CompiledGradient"]

_log = logging.getLogger(__name__)
_FIELDS = (
    *("positions", "numbers", "index", "counts", "cell", "pbc", "charge", "spin"),
    *("neighbors", "shifts", "neighbor_mask"),
)


class CompiledGradient:
    """What :meth:`Potential.compiled <hyperkit_mol.potentials.Potential.compiled>` calls.

    PyTorch's compiler cannot differentiate twice: it refuses ``autograd.grad`` inside what it compiles. So
    the energy and its gradient are traced first, to a plain list of tensor operations; the compiler then sees
    a function that happens to return forces, and differentiates that once.

    Parameters
    ----------
    potential : Potential
        With conservative forces.
    backend : str
        Of ``torch.compile``.
    limit : int
        Shapes of a batch to compile for; what comes after runs eagerly.
    """

    def __init__(self, potential: Potential, backend: str = "inductor", limit: int = 8) -> None:
        # Not as an attribute of a module: the potential holds this object.
        self._potential, self.backend, self.limit = [potential], backend, limit
        self._graphs: dict[Any, Callable[..., Any] | None] = {}

    def __deepcopy__(self, memo: dict[int, Any]) -> None:
        """A copy of a potential begins uncompiled: these graphs belong to the first one."""
        return None

    def __call__(self, batch: AtomicBatch, stress: bool, create: bool) -> tuple[Tensor, list[Tensor]]:
        """Energy of each atom above its reference ``(N,)``, and the list of gradients."""
        potential = self._potential[0]
        layout = potential.backbone.layout(batch)  # pyright: ignore[reportCallIssue]
        batch = _even(batch)
        tensors = [getattr(batch, name) for name in _FIELDS]
        parameters = dict(potential.backbone.named_parameters())
        given: list[Tensor] = (
            list(parameters.values()) if create else [p.detach() for p in parameters.values()]
        )
        key = (stress, create, *((t.shape, t.dtype, t.device) for t in (*tensors, *layout, *given[:1])))
        if key not in self._graphs:
            self._graphs[key] = self._build(list(parameters), given, tensors, layout, stress)
        graph = self._graphs[key]
        if graph is not None:
            try:
                gained, *slopes = graph(given, tensors, layout)
                return gained, slopes
            except Exception as err:  # compilers fail in many ways, and eager always works
                if not _is_compiler_error(err):
                    raise
                _log.warning("not compiled, running eagerly instead: %s", str(err).split("\n")[0])
                self.limit, self._graphs[key] = 0, None
        gained, _, slopes = potential._evaluate(batch, True, stress, create)
        return gained, slopes

    def _build(
        self,
        names: list[str],
        given: list[Tensor],
        tensors: list[Tensor],
        layout: tuple[Tensor, ...],
        stress: bool,
    ) -> Callable[..., Any] | None:
        if len(self._graphs) >= self.limit:
            if len(self._graphs) == self.limit and self.limit:
                _log.warning("more than %d shapes of batches: new ones run eagerly", self.limit)
            return None
        shell = _Shell(self._potential[0])

        def evaluate(
            parameters: list[Tensor], fields: list[Tensor], places: tuple[Tensor, ...]
        ) -> tuple[Tensor, ...]:
            weights = {f"inner.{n}": p for n, p in zip(names, parameters, strict=True)}
            batch = AtomicBatch(**dict(zip(_FIELDS, fields, strict=True)))
            return functional_call(shell, weights, (batch, stress, places))

        graph = trace(evaluate, given, tensors, layout)
        return torch.compile(graph, backend=self.backend, dynamic=False)


def trace(function: Callable[..., Any], *args: Any) -> Any:
    """The tensor operations of `function` as a graph that can be differentiated like the function itself.

    ``make_fx`` alone does not give that. It records the ``detach`` by which autograd saves results of its own
    operations (the graph would drop their second derivatives), and it forgets ``torch.no_grad`` (the graph
    would add derivatives). Here the first are left out, and what was computed without gradients, or detached
    by the function, is detached in the graph.
    """
    from torch.fx.experimental.proxy_tensor import make_fx

    def marked(*given: Any) -> Any:
        with _Detached(), _WithoutGradient():
            return function(*given)

    flag = torch.compiler._is_compiling_flag
    torch.compiler._is_compiling_flag = True  # plain forms instead of hand-written gradients
    try:
        graph = make_fx(marked)(*args)
    finally:
        torch.compiler._is_compiling_flag = flag
    aten = torch.ops.aten
    for node in list(graph.graph.nodes):
        if node.target is aten.detach.default:
            node.replace_all_uses_with(node.args[0])
            graph.graph.erase_node(node)
        elif node.target is aten.detach_copy.default:
            node.target = aten.detach.default
    graph.graph.eliminate_dead_code()
    graph.recompile()
    return graph


class _Detached(TorchFunctionMode):
    """Runs a ``detach`` that the traced function itself asks for as something without gradients."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in (Tensor.detach, torch.detach):
            with torch.no_grad():
                return args[0].clone()
        return func(*args, **(kwargs or {}))


class _WithoutGradient(TorchDispatchMode):
    """Marks what is computed without gradients."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        if torch.is_grad_enabled() or func._schema.is_mutable:
            return out
        return tree_map(lambda t: torch.ops.aten.detach_copy(t) if _floating(t) else t, out)


def _floating(t: Any) -> bool:
    return isinstance(t, Tensor) and t.is_floating_point()


class _Shell(nn.Module):
    """A module around the evaluation, so that parameters can be handed in by name."""

    def __init__(self, potential: Potential) -> None:
        super().__init__()
        self.inner, self._owner = potential.backbone, [potential]

    def forward(self, batch: AtomicBatch, stress: bool, layout: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        # Always with a graph of the gradient: without it autograd works in place, which cannot be traced.
        gained, _, slopes = self._owner[0]._evaluate(batch, True, stress, True, layout)
        return (gained, *slopes)


def _even(batch: AtomicBatch) -> AtomicBatch:
    """The batch with an even width of its neighbour lists: fewer shapes, the same energies."""
    if batch.neighbors.shape[1] % 2 == 0:
        return replace(batch, energy=None, forces=None)
    own = torch.arange(len(batch.numbers), device=batch.numbers.device).unsqueeze(1)
    return replace(
        batch,
        energy=None,
        forces=None,
        neighbors=torch.cat([batch.neighbors, own], 1),
        shifts=nn.functional.pad(batch.shifts, (0, 0, 0, 1)),
        neighbor_mask=nn.functional.pad(batch.neighbor_mask, (0, 1)),
    )


def _is_compiler_error(err: Exception) -> bool:
    return type(err).__module__.startswith(("torch._dynamo", "torch._inductor"))
