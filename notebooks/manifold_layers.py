"""Manifold layers in ten minutes: ``marimo edit notebooks/manifold_layers.py``, or run it as a script."""

import marimo

app = marimo.App(width="medium", app_title="Manifold layers in ten minutes")


@app.cell
def _():
    import marimo as mo
    import torch

    from hyperkit import Lorentz, PoincareBall
    from hyperkit.nn import LorentzEmbedding, LorentzLinear, LorentzMLR, geometry
    from hyperkit.ops import lorentz as ops
    from hyperkit.optim import RiemannianAdam

    torch.manual_seed(0)
    return (
        Lorentz,
        LorentzEmbedding,
        LorentzLinear,
        LorentzMLR,
        PoincareBall,
        RiemannianAdam,
        geometry,
        mo,
        ops,
        torch,
    )


@app.cell
def _(mo):
    mo.md("""
    # Manifold layers in ten minutes

    ## 1. Points

    A Lorentz point of dimension d has d + 1 coordinates, time first. Distances are right in float32 as far as
    radius 44.
    """)
    return


@app.cell
def _(Lorentz, torch):
    lorentz = Lorentz(c=1.0)
    x = lorentz.random_normal(5, 4)
    far = lorentz.expmap0(torch.tensor([[0.0, 30.0, 0.0, 0.0], [0.0, 0.0, 30.0, 0.0]]))
    print("five points on the manifold:", bool(lorentz.check_point_on_manifold(x)))
    print("distance of two points at radius 30:", float(lorentz.dist(far[0], far[1])))
    print("distance of a point from itself:", float(lorentz.dist(far[0], far[0])))
    return far, lorentz, x


@app.cell
def _(mo):
    mo.md("""
    ## 2. A tree, embedded

    The nodes of a binary tree as points whose distances should be those of the tree. Parameters are Euclidean
    (`LorentzEmbedding` lifts them), so that any optimiser does.
    """)
    return


@app.cell
def _(torch):
    depth = 5
    nodes = 2**depth - 1
    parent = torch.tensor([-1] + [(i - 1) // 2 for i in range(1, nodes)])
    steps = torch.zeros(nodes, nodes)
    for i in range(nodes):
        for j in range(nodes):
            a, b, count = i, j, 0
            while a != b:
                a, b = (int(parent[a]), b) if a > b else (a, int(parent[b]))
                count += 1
            steps[i, j] = count
    pairs = torch.triu_indices(nodes, nodes, offset=1)
    target = steps[pairs[0], pairs[1]]
    return depth, nodes, pairs, parent, target


@app.cell
def _(LorentzEmbedding, lorentz, nodes, pairs, target, torch):
    embedding = LorentzEmbedding(nodes, 2)
    optimiser = torch.optim.Adam(embedding.parameters(), lr=0.05)
    everyone = torch.arange(nodes)
    distortion = []
    for _step in range(300):
        points = embedding(everyone)
        distance = lorentz.dist(points[pairs[0]], points[pairs[1]])
        loss = (distance / (2.0 * target) - 1.0).square().mean()  # an edge is 2 long: room for the branches
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        distortion.append(float(loss.detach()) ** 0.5)
    print(f"relative error of tree distances in 2 dimensions: {distortion[0]:.2f} -> {distortion[-1]:.3f}")
    return distortion, embedding, everyone


@app.cell
def _(mo):
    mo.md("""
    ## 3. Layers

    `LorentzLinear(8, 16)` is `torch.nn.Linear(8, 16)` for points. The classifier below tells from a node's
    point in which half of the tree it lies; `geometry("euclidean")` gives the same model without curvature.
    """)
    return


@app.cell
def _(LorentzLinear, LorentzMLR, RiemannianAdam, depth, embedding, everyone, nodes, parent, torch):
    side = torch.zeros(nodes, dtype=torch.long)
    for child in range(1, nodes):
        top = child
        while int(parent[top]) > 0:
            top = int(parent[top])
        side[child] = top - 1
    features = embedding(everyone).detach()[1:]
    labels = side[1:]
    held = torch.arange(nodes - 1) >= 2 ** (depth - 1) - 2  # the leaves are the test set
    classifier = torch.nn.Sequential(
        LorentzLinear(2, 8), LorentzLinear(8, 8, activation="relu"), LorentzMLR(8, 2)
    )
    adam = RiemannianAdam(classifier.parameters(), lr=2e-2)
    for _step in range(150):
        adam.zero_grad()
        torch.nn.functional.cross_entropy(classifier(features[~held]), labels[~held]).backward()
        adam.step()
    accuracy = float((classifier(features[held]).argmax(-1) == labels[held]).float().mean())
    print(f"leaves on the right side of the tree: {accuracy:.0%} (trained on inner nodes only)")
    return (accuracy,)


@app.cell
def _(mo):
    mo.md("""
    ## 4. A curvature that learns, and the way to the Poincaré ball
    """)
    return


@app.cell
def _(Lorentz, PoincareBall, geometry, lorentz, ops, torch, x):
    learnable = Lorentz(1.0, learnable=True)
    space = geometry("lorentz", learnable)
    layer = space.Linear(3, 3)
    layer(space.random_normal(6, features=3)).square().sum().backward()
    print("gradient of log c:", float(learnable.log_c.grad))

    ball = PoincareBall(c=1.0)
    y = ops.to_poincare(x)
    print("the same distance in both models:", float(lorentz.dist(x[0], x[1])), float(ball.dist(y[0], y[1])))
    assert torch.allclose(lorentz.dist(x[0], x[1]), ball.dist(y[0], y[1]), rtol=1e-4)
    return


if __name__ == "__main__":
    app.run()
