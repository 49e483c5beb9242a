"""What torch needs to know of the operators: shapes without data, derivatives, second derivatives."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from . import build, gpu, launching, nvrtc, reference

_CONV_TENSORS = 6  # x, matrix, first, bias, scale, kernels: then the graph, whose weights come ninth


def differentiate_twice(
    f: Callable[..., Tensor],
    inputs: Sequence[Tensor],
    needed: Sequence[bool],
    grad: Tensor,
    upstream: Sequence[Tensor | None],
) -> tuple[list[Tensor | None], Tensor | None]:
    """Gradients of ``sum_i <upstream_i, d<f, grad>/d input_i>``, for the inputs and for `grad`.

    The derivative of a backward operator: `f` is the eager form of what it is the backward of.
    """
    with torch.enable_grad():
        leaves = [t.detach().requires_grad_(n) for t, n in zip(inputs, needed, strict=True)]
        g = grad.detach().requires_grad_()
        wanted = [t for t, n in zip(leaves, needed, strict=True) if n]
        first = torch.autograd.grad(f(*leaves), wanted, g, create_graph=True, allow_unused=True)
        given = [u for u, n in zip(upstream, needed, strict=True) if n]
        pairs = [
            (a, b)
            for a, b in zip(first, given, strict=True)
            if a is not None and b is not None and a.requires_grad
        ]
        if not pairs:
            return [None] * len(inputs), None
        second = torch.autograd.grad(
            [a for a, _ in pairs], [*wanted, g], [b for _, b in pairs], allow_unused=True
        )
    left = iter(second[:-1])
    return [next(left) if n else None for n in needed], second[-1]


def _row_fake(kind: int, x: Tensor, y: Tensor | None, v: Tensor | None, c: float) -> Tensor:
    return x.new_empty(x.shape[0], 1) if kind in gpu.SCALAR_ROWS else torch.empty_like(x)


def _row_backward_fake(kind, x, y, v, grad, c, first, second, third):
    wanted = (first, second and y is not None, third and v is not None)
    return tuple(torch.empty_like(x) if w else x.new_empty(0) for w in wanted)


def _row_setup(ctx: Any, inputs: tuple, output: Any) -> None:
    kind, x, y, v, c = inputs
    ctx.save_for_backward(x, y, v)
    ctx.kind, ctx.c = kind, c


def _row_grad(ctx: Any, grad: Tensor) -> tuple:
    x, y, v = ctx.saved_tensors
    _, first, second, third, _ = ctx.needs_input_grad
    gx, gy, gv = torch.ops.hyperkit_ext.row_backward(
        ctx.kind, x, y, v, grad.contiguous(), ctx.c, first or y is None, second, third
    )
    return None, gx if first else None, gy if second else None, gv if third else None, None


def _row_backward_setup(ctx: Any, inputs: tuple, output: Any) -> None:
    kind, x, y, v, grad, c, *_ = inputs
    ctx.save_for_backward(x, y, v, grad)
    ctx.kind, ctx.c = kind, c


def _row_backward_grad(ctx: Any, *gradients: Tensor | None) -> tuple:
    *rows, grad = ctx.saved_tensors
    inputs = [t for t in rows if t is not None]
    upstream = [
        u if u is not None and u.shape == t.shape else None for u, t in zip(gradients, inputs, strict=False)
    ]
    if all(u is None for u in upstream):
        return (None,) * 9
    f = functools.partial(reference.row, ctx.kind, c=ctx.c)
    # A gradient for an input is wanted even where only the others' came in: all inputs are leaves.
    zeros = [torch.zeros_like(t) if u is None else u for u, t in zip(upstream, inputs, strict=True)]
    found, by_grad = differentiate_twice(f, inputs, [True] * len(inputs), grad, zeros)
    found += [None] * (3 - len(found))
    return None, *found, by_grad, None, None, None, None


def _tail_fake(z: Tensor, log_scale: Tensor, c: float) -> Tensor:
    return torch.empty_like(z)


def _tail_backward_fake(z: Tensor, log_scale: Tensor, grad: Tensor, c: float) -> tuple[Tensor, Tensor]:
    return torch.empty_like(z), torch.empty_like(log_scale)


def _tail_setup(ctx: Any, inputs: tuple, output: Any) -> None:
    *tensors, c = inputs
    ctx.save_for_backward(*tensors)
    ctx.c = c


def _tail_grad(ctx: Any, grad: Tensor) -> tuple:
    z, log_scale = ctx.saved_tensors
    gz, gl = torch.ops.hyperkit_ext.tail_backward(z, log_scale, grad.contiguous(), ctx.c)
    by_z, by_scale, _ = ctx.needs_input_grad
    return gz if by_z else None, gl if by_scale else None, None


def _tail_backward_grad(ctx: Any, gz: Tensor | None, gl: Tensor | None) -> tuple:
    z, log_scale, grad = ctx.saved_tensors
    upstream = [torch.zeros_like(t) if u is None else u for t, u in ((z, gz), (log_scale, gl))]
    f = functools.partial(reference.tail, c=ctx.c)
    found, by_grad = differentiate_twice(f, [z, log_scale], [True, True], grad, upstream)
    return *found, by_grad, None


def _ball_tail_fake(z, space, time, gain, tilt, power, c):
    return torch.empty_like(z)


def _ball_tail_backward_fake(z, space, time, gain, tilt, power, grad, c):
    return tuple(torch.empty_like(t) for t in (z, space, time, gain, tilt, power))


def _ball_tail_grad(ctx: Any, grad: Tensor) -> tuple:
    with torch.autocast(grad.device.type, enabled=False):
        found = torch.ops.hyperkit_ext.ball_tail_backward(*ctx.saved_tensors, grad.contiguous(), ctx.c)
    return *(g if n else None for g, n in zip(found, ctx.needs_input_grad, strict=False)), None


def _ball_tail_backward_grad(ctx: Any, *upstream: Tensor | None) -> tuple:
    *inputs, grad = ctx.saved_tensors
    given = [torch.zeros_like(t) if u is None else u for t, u in zip(inputs, upstream, strict=True)]
    f = functools.partial(reference.ball_tail, c=ctx.c)
    found, by_grad = differentiate_twice(f, inputs, [True] * len(inputs), grad, given)
    return *found, by_grad, None


def _linear_fake(x, weight, bias, log_scale, c):
    return x.new_empty(x.shape[0], weight.shape[0]), x.new_empty(2, x.shape[0])


def _linear_backward_fake(x, weight, bias, log_scale, c, points, kept, grad, by_x, by_weight):
    none = x.new_empty(0)
    return (
        torch.empty_like(x) if by_x else none,
        torch.empty_like(weight) if by_weight else torch.empty_like(none),
        torch.empty_like(none) if bias is None else torch.empty_like(bias),
        torch.empty_like(log_scale),
    )


def _linear_setup(ctx: Any, inputs: tuple, output: Any) -> None:
    *tensors, c = inputs
    points, kept = output
    ctx.mark_non_differentiable(kept)
    ctx.save_for_backward(*tensors, points, kept)
    ctx.c = c


def _linear_grad(ctx: Any, grad: Tensor, *_: Any) -> tuple:
    x, weight, bias, log_scale, points, kept = ctx.saved_tensors
    needed = ctx.needs_input_grad[:4]
    with torch.autocast(grad.device.type, enabled=False):
        found = torch.ops.hyperkit_ext.linear_backward(
            x, weight, bias, log_scale, ctx.c, points, kept, grad.contiguous(), *needed[:2]
        )
    return *(g if n else None for g, n in zip(found, needed, strict=True)), None


def _linear_backward_setup(ctx: Any, inputs: tuple, output: Any) -> None:
    x, weight, bias, log_scale, c, _, _, grad, by_x, by_weight = inputs
    ctx.save_for_backward(x, weight, bias, log_scale, grad)
    ctx.c, ctx.by = c, (by_x, by_weight)


def _linear_backward_grad(ctx: Any, *upstream: Tensor | None) -> tuple:
    *inputs, grad = ctx.saved_tensors
    bias = inputs[2]
    leaves = [t for t in inputs if t is not None]
    given = [u for u, t in zip(upstream, inputs, strict=True) if t is not None]
    # A gradient for an input is wanted even where only the others' came in: all inputs are leaves.
    given = [
        torch.zeros_like(t) if u is None or u.shape != t.shape else u
        for u, t in zip(given, leaves, strict=True)
    ]

    def f(*tensors: Tensor) -> Tensor:
        b = None if bias is None else tensors[2]
        return reference.linear(tensors[0], tensors[1], b, tensors[-1], ctx.c)

    with torch.autocast(grad.device.type, enabled=False):
        found, by_grad = differentiate_twice(f, leaves, [True] * len(leaves), grad, given)
    if bias is None:
        found.insert(2, None)
    return *found, None, None, None, by_grad, None, None


def _conv_fake(x, matrix, first, bias, scale, kernels, begin, source, weight, correlation, sigma, c):
    n, width = x.shape[0], matrix.shape[0] // kernels.shape[0]
    return x.new_empty(n, width), x.new_empty(n, 1), x.new_empty(n, width)


def _conv_backward_fake(
    x, matrix, first, bias, scale, kernels, begin, source, weight, correlation, sigma, c, total, sums, grad,
    by_kernels, by_weight,
):  # fmt: skip
    return (
        *(torch.empty_like(t) for t in (x, matrix, first, bias, scale)),
        kernels.new_empty(kernels.shape[0] if by_kernels else 0, kernels.shape[1]),
        weight.new_empty(weight.shape[0] if by_weight else 0),
    )


def _conv_setup(ctx: Any, inputs: tuple, output: Any) -> None:
    *tensors, correlation, sigma, c = inputs
    _, total, sums = output
    ctx.mark_non_differentiable(total, sums)
    ctx.save_for_backward(*tensors, total, sums)
    ctx.rule = correlation, sigma, c


def _conv_grad(ctx: Any, grad: Tensor, *_: Any) -> tuple:
    *tensors, total, sums = ctx.saved_tensors
    kernels, weight = ctx.needs_input_grad[5], ctx.needs_input_grad[8]
    with torch.autocast(grad.device.type, enabled=False):
        found = torch.ops.hyperkit_ext.conv_backward(
            *tensors, *ctx.rule, total, sums, grad.contiguous(), kernels, weight
        )
    by_kernels, by_weight = found[5] if kernels else None, found[6] if weight else None
    return *found[:5], by_kernels, None, None, by_weight, None, None, None


def _conv_backward_setup(ctx: Any, inputs: tuple, output: Any) -> None:
    *tensors, correlation, sigma, c, _, _, grad, by_kernels, by_weight = inputs
    ctx.save_for_backward(*tensors, grad)
    ctx.rule = correlation, sigma, c
    ctx.by = by_kernels, by_weight


def _conv_backward_grad(ctx: Any, *upstream: Tensor | None) -> tuple:
    *tensors, grad = ctx.saved_tensors
    parameters, (begin, source, weight) = tensors[:_CONV_TENSORS], tensors[_CONV_TENSORS:]
    by_kernels, by_weight = ctx.by
    correlation, sigma, c = ctx.rule

    def f(*leaves: Tensor) -> Tensor:
        x, matrix, first, bias, scale, kernels, by_pair = leaves
        graph = begin, source, by_pair
        return reference.conv(x, matrix, first, bias, scale, kernels, *graph, correlation, sigma, c)[0]

    needed = [True] * 5 + [by_kernels, by_weight]
    found, by_grad = differentiate_twice(f, [*parameters, weight], needed, grad, upstream)
    return *found[:6], None, None, found[6], None, None, None, None, None, by_grad, None, None


@functools.cache
def register() -> None:
    """Register fakes and derivatives of the loaded operators, once."""
    lib = torch.library
    names = {
        "row": _row_fake,
        "row_backward": _row_backward_fake,
        "tail": _tail_fake,
        "tail_backward": _tail_backward_fake,
        "ball_tail": _ball_tail_fake,
        "ball_tail_backward": _ball_tail_backward_fake,
        "linear": _linear_fake,
        "linear_backward": _linear_backward_fake,
        "conv": _conv_fake,
        "conv_backward": _conv_backward_fake,
        "tanimoto_max": lambda query, reference: query.new_empty(query.shape[0], dtype=torch.float32),
        "tanimoto_columns": lambda query, columns, starts, sizes: query.new_empty(
            query.shape[0], dtype=torch.float32
        ),
        "adam_": lambda *args: None,
    }
    for name, fake in names.items():
        lib.register_fake(f"hyperkit_ext::{name}", fake)
    for name, backward, setup in (
        ("row", _row_grad, _row_setup),
        ("row_backward", _row_backward_grad, _row_backward_setup),
        ("tail", _tail_grad, _tail_setup),
        ("tail_backward", _tail_backward_grad, _tail_setup),
        ("ball_tail", _ball_tail_grad, _tail_setup),
        ("ball_tail_backward", _ball_tail_backward_grad, _tail_setup),
        ("linear", _linear_grad, _linear_setup),
        ("linear_backward", _linear_backward_grad, _linear_backward_setup),
        ("conv", _conv_grad, _conv_setup),
        ("conv_backward", _conv_backward_grad, _conv_backward_setup),
    ):
        lib.register_autograd(f"hyperkit_ext::{name}", backward, setup_context=setup)


# What the library defines (csrc/shim.cpp), for a GPU without it.
SCHEMAS = (
    "tanimoto_max(Tensor query, Tensor reference) -> Tensor",
    "tanimoto_columns(Tensor query, Tensor columns, Tensor starts, Tensor sizes) -> Tensor",
    "row(int kind, Tensor x, Tensor? y, Tensor? v, float c) -> Tensor",
    "row_backward(int kind, Tensor x, Tensor? y, Tensor? v, Tensor grad, float c, bool first, bool second, "
    "bool third) -> (Tensor, Tensor, Tensor)",
    "tail(Tensor z, Tensor log_scale, float c) -> Tensor",
    "tail_backward(Tensor z, Tensor log_scale, Tensor grad, float c) -> (Tensor, Tensor)",
    "ball_tail(Tensor z, Tensor space, Tensor time, Tensor gain, Tensor tilt, Tensor power, float c) "
    "-> Tensor",
    "ball_tail_backward(Tensor z, Tensor space, Tensor time, Tensor gain, Tensor tilt, Tensor power, "
    "Tensor grad, float c) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    "linear(Tensor x, Tensor weight, Tensor? bias, Tensor log_scale, float c) -> (Tensor, Tensor)",
    "linear_backward(Tensor x, Tensor weight, Tensor? bias, Tensor log_scale, float c, Tensor points, "
    "Tensor kept, Tensor grad, bool by_x, bool by_weight) -> (Tensor, Tensor, Tensor, Tensor)",
    "adam_(Tensor(a!) x, Tensor grad, Tensor(b!) m, Tensor(c!) v, Tensor(d!)? largest, float rate, "
    "float beta1, float beta2, float correction2, float eps, float weight_decay, float c, bool ball) -> ()",
    "conv(Tensor x, Tensor matrix, Tensor first, Tensor bias, Tensor scale, Tensor kernels, Tensor begin, "
    "Tensor source, Tensor weight, int correlation, float sigma, float c) -> (Tensor, Tensor, Tensor)",
    "conv_backward(Tensor x, Tensor matrix, Tensor first, Tensor bias, Tensor scale, Tensor kernels, "
    "Tensor begin, Tensor source, Tensor weight, int correlation, float sigma, float c, Tensor total, "
    "Tensor sums, Tensor grad, bool by_kernels, bool by_weight) -> "
    "(Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
)

_prepared: dict[torch.device, tuple[gpu.Operators, str]] = {}
_registered: list[torch.library.Library] = []


def _launcher(device: torch.device, wanted: str) -> tuple[launching.Launch, str]:
    """What launches kernels on this device, and its name; tried by a row of zeros."""
    refused = []
    path = build.find_library() if wanted in ("auto", "ext") else None
    if path is not None:
        try:
            launch = launching.Prebuilt(path).launch
            _try(launch, device)
            return launch, path.name
        except launching.LaunchError as error:
            refused.append(str(error))
    elif wanted in ("auto", "ext"):
        refused.append("the library was not built: python -m hyperkit._ext build --cuda")
    if wanted in ("auto", "nvrtc"):
        try:
            launch = nvrtc.Launcher(device.index).launch
            _try(launch, device)
            return launch, "compiled by NVRTC"
        except (nvrtc.NvrtcError, OSError) as error:
            refused.append(str(error))
    raise launching.LaunchError("; ".join(refused))


def _operators(launch: launching.Launch, device: torch.device) -> gpu.Operators:
    properties = torch.cuda.get_device_properties(device)
    return gpu.Operators(
        launch,
        device,
        multiprocessors=properties.multi_processor_count,
        shared_limit=getattr(properties, "shared_memory_per_block_optin", 48 * 1024),
        stream=lambda: torch.cuda.current_stream(device).cuda_stream,
    )


def _try(launch: launching.Launch, device: torch.device) -> None:
    with torch.cuda.device(device):
        _operators(launch, device).row(7, torch.zeros(1, 1, device=device), None, None, 1.0)
        torch.cuda.synchronize(device)


def prepare_gpu(device: torch.device, wanted: str) -> str:
    """Find what launches kernels on `device`, once; returns its name.

    Raises
    ------
    LaunchError
        If nothing does; with the reasons.
    """
    if device not in _prepared:
        launch, name = _launcher(device, wanted)
        _prepared[device] = _operators(launch, device), name
    return _prepared[device][1]


def gpu_operators(device: torch.device) -> gpu.Operators:
    """The operators on a device that :func:`prepare_gpu` can serve."""
    if device not in _prepared:
        from . import backend

        prepare_gpu(device, backend())
    return _prepared[device][0]


def _gpu_operator(name: str) -> Callable[..., Any]:
    def call(*arguments: Any) -> Any:
        device = next(a.device for a in arguments if isinstance(a, Tensor))
        with torch.cuda.device(device):
            return getattr(gpu_operators(device), name)(*arguments)

    return call


@functools.cache
def register_gpu(*, defined: bool) -> None:
    """Register the operators for GPU tensors, and define them if the library has not."""
    if not defined:
        library = torch.library.Library("hyperkit_ext", "DEF")
        for schema in SCHEMAS:
            library.define(schema)
        _registered.append(library)
        register()
    library = torch.library.Library("hyperkit_ext", "IMPL")
    for name in gpu.OPERATORS:
        library.impl(name, _gpu_operator(name), "CUDA")
    _registered.append(library)
