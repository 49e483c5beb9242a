"""What every layer must do, as a class of tests to inherit."""

from __future__ import annotations

import copy
import io
from typing import Any

import geoopt
import torch
from torch import Tensor, nn


class LayerContract:
    """Battery for a layer. Give `make` and `inputs`, and `manifold` where the output is points.

    Attributes
    ----------
    compiles : bool
        Whether the layer must compile as one graph.
    double_backward : bool
        Whether second derivatives are promised.
    """

    compiles: bool = True
    double_backward: bool = True

    def make(self) -> nn.Module:
        """A new layer."""
        raise NotImplementedError

    def inputs(self, dtype: torch.dtype = torch.float32) -> tuple[Any, ...]:
        """Arguments of a forward call."""
        raise NotImplementedError

    def manifold(self) -> Any:
        """Manifold of the output, or None."""
        return None

    def _layer(self, dtype: torch.dtype = torch.float32) -> nn.Module:
        torch.manual_seed(0)
        layer = self.make().to(dtype)
        for p in layer.parameters():
            # The float32 rounding of a stored time is no point of the float64 manifold.
            if isinstance(p, geoopt.ManifoldParameter):
                p.data = p.manifold.projx(p.data)
        return layer

    def test_output_is_on_the_manifold(self) -> None:
        m = self.manifold()
        for dtype in (torch.float32, torch.float64):
            out = self._layer(dtype)(*self.inputs(dtype))
            assert out.dtype == dtype
            assert bool(out.isfinite().all())
            assert m is None or m.check_point_on_manifold(out.detach())

    def test_autocast_keeps_points_on_the_manifold(self) -> None:
        """Matrix products of weights may run in bfloat16, manifold operations run in float32."""
        m = self.manifold()
        if m is None:
            return
        with torch.autocast("cpu", dtype=torch.bfloat16):
            out = self._layer()(*self.inputs())
        assert out.dtype == torch.float32
        assert m.check_point_on_manifold(out.detach())

    def test_every_parameter_learns(self) -> None:
        layer = self._layer()
        out = layer(*self.inputs())
        names, params = zip(*layer.named_parameters(), strict=True) if list(layer.parameters()) else ((), ())
        if not params:
            return
        weight = torch.randn(out.shape, generator=torch.Generator().manual_seed(0))
        for name, g in zip(names, torch.autograd.grad((out * weight).sum(), params), strict=True):
            assert bool(g.isfinite().all()), f"the gradient of {name} is not finite"
            assert bool((g != 0).any()), f"the gradient of {name} is zero"

    def test_derivatives(self) -> None:
        layer = self._layer(torch.float64).eval()
        args = self.inputs(torch.float64)
        floats = [a for a in args if isinstance(a, Tensor) and a.is_floating_point()]
        if not floats:
            return

        def f(*leaves: Tensor) -> Tensor:
            left = iter(leaves)
            return layer(
                *(next(left) if isinstance(a, Tensor) and a.is_floating_point() else a for a in args)
            )

        leaves = [a.detach().clone().requires_grad_() for a in floats]
        assert torch.autograd.gradcheck(f, leaves, fast_mode=True)
        if self.double_backward:
            assert torch.autograd.gradgradcheck(f, leaves, fast_mode=True, atol=1e-4)

    def test_compiles(self) -> None:
        if not self.compiles:
            return
        torch._dynamo.reset()
        layer = self._layer(torch.float64).eval()
        args = self.inputs(torch.float64)
        compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(*args), layer(*args))
        torch._dynamo.reset()

    def test_state_and_copies(self) -> None:
        layer = self._layer().eval()
        args = self.inputs()
        expected = layer(*args)
        torch.testing.assert_close(copy.deepcopy(layer)(*args), expected)
        buffer = io.BytesIO()
        torch.save(layer.state_dict(), buffer)
        buffer.seek(0)
        torch.manual_seed(1)
        other = self.make().eval()
        other.load_state_dict(torch.load(buffer, weights_only=True))
        torch.testing.assert_close(other(*args), expected)
