"""HKConv written from the paper's equations, one neighbour and one kernel at a time.

Qu and Zou, arXiv:2306.08862, section 4, with the textbook forms of the exponential and logarithmic map and of
the parallel transport for curvature -c. Nothing of it is shared with the package.
"""

import torch


def mink(a, b):
    return (a[1:] * b[1:]).sum() - a[0] * b[0]


def lift(space, c):
    return torch.cat([torch.sqrt(1 / c + (space * space).sum()).reshape(1), space])


def dist(x, y, c):
    if bool((x == y).all()):
        return torch.zeros_like(x[0])
    return torch.acosh(-c * mink(x, y)) / c**0.5


def log(x, u, c):
    p = -c * mink(x, u)
    return torch.acosh(p) / torch.sqrt(p * p - 1) * (u - p * x)


def exp(x, v, c):
    n = torch.sqrt(c * mink(v, v))
    return torch.cosh(n) * x + torch.sinh(n) / n * v


def transport(x, y, v, c):
    return v + c * mink(y, v) / (1 - c * mink(x, y)) * (x + y)


def origin(like, c):
    o = torch.zeros_like(like)
    o[0] = 1 / c**0.5
    return o


def relative(u, x, c):
    """u (-) x = exp_o(PT_{x -> o}(log_x u)); x (-) x = o."""
    o = origin(x, c)
    if u is x:
        return o
    return exp(o, transport(x, o, log(x, u, c), c), c)


def centroid(points, weights, c):
    s = sum(w * p for p, w in zip(points, weights, strict=True))
    return s / (c**0.5 * torch.sqrt(torch.abs(mink(s, s))))


def hlinear(x, weight, bias, log_scale, c, margin=1e-4, eps=1e-8):
    y = weight @ x + bias
    time = torch.sigmoid(y[0]) * torch.exp(log_scale) + (1 + margin) / c**0.5
    space = y[1:] * torch.sqrt((time**2 - 1 / c) / ((y[1:] ** 2).sum() + eps))
    return lift(space, c)


def kernel_points(tangents, c):
    rows = []
    for v in tangents:
        n = c**0.5 * torch.sqrt((v * v).sum())
        rows.append(lift(v if float(n.detach()) == 0 else torch.sinh(n) / n * v, c))
    return rows


def neighbour(conv, u, x, c, correlation="distance"):
    """Steps 1 and 2 for one neighbour: its point and its weight."""
    k = conv.kernels
    z = relative(u, x, c)
    d = [dist(z, p, c) for p in kernel_points(k.kernel_tangents, c)]
    y = [hlinear(z, k.weight[i], k.bias[i], k.log_scale[i], c) for i in range(len(d))]
    if correlation == "distance":
        w, own = d, 1.0
    elif correlation == "linear":
        w = [torch.clamp(1 - v / k.sigma, min=0) for v in d]
        own = sum(w)
    elif correlation == "gaussian":
        w, own = [torch.exp(-v * v / (2 * k.sigma**2)) for v in d], 1.0
    else:
        e = torch.exp(k.mix @ torch.stack(d) + k.mix_bias)
        w, own = list(e / e.sum()), 1.0
    return centroid(y, w, c), own


def hkconv(conv, space, edges, c, correlation="distance"):
    """The layer for nodes with space coordinates `space` and edges [(neighbour, node)]: list of points."""
    x = [lift(s, c) for s in space]
    out = []
    for i in range(len(x)):
        pairs = [neighbour(conv, x[a], x[b], c, correlation) for a, b in edges if b == i]
        if pairs:
            out.append(centroid([p for p, _ in pairs], [w for _, w in pairs], c))
        else:
            out.append(origin(torch.empty(conv.out_features + 1, dtype=x[0].dtype), c))
    return torch.stack(out)
