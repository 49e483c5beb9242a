"""Splits share nothing, and what a split that leaks looks like."""

import numpy as np
import pytest
import torch

from hyperkit.graphs import fold_split, folds, link_split, random_split, sample_negatives
from hyperkit.graphs.datasets import Graph
from hyperkit.graphs.splits import both_directions, checked, planetoid_split, undirected
from hyperkit.graphs.training import LinkTask, degree_features


def hgcn_scheme(y, val, test, seed):
    """The scheme of HGCN's node splitter, which was made for two classes.

    "Positive" is what is not of class 0, "negative" what is not of class 1; both are shuffled and cut by
    themselves, and the pieces put together.
    """
    rng = np.random.RandomState(seed)
    out = [[], [], []]
    positive, negative = np.flatnonzero(y != 0), np.flatnonzero(y != 1)
    for rows in (rng.permutation(positive), rng.permutation(negative)):
        smaller = min(len(positive), len(negative))
        a, b = round(val * smaller), round(test * smaller)
        for part, piece in zip(out, (rows[a + b :], rows[:a], rows[a : a + b]), strict=True):
            part += piece.tolist()
    return out  # train, val, test


def shared(split):
    sets = [set(part.tolist() if torch.is_tensor(part) else part) for part in split]
    return max(len(sets[i] & sets[j]) for i in range(3) for j in range(i))


@pytest.mark.parametrize("classes", [2, 4])
def test_hgcn_scheme_leaks_with_more_than_two_classes(classes):
    y = torch.from_numpy(np.random.default_rng(0).integers(classes, size=600))
    train, _, test = hgcn_scheme(y.numpy(), 0.15, 0.15, seed=1)
    leaked = len(set(train) & set(test)) / len(set(test))
    assert leaked == 0 if classes == 2 else leaked > 0.25
    if classes > 2:  # and it is refused here
        with pytest.raises(ValueError, match="once"):
            checked(*(torch.tensor(p) for p in hgcn_scheme(y.numpy(), 0.15, 0.15, seed=1)), size=600)
    assert shared(random_split(y, 0.15, 0.15, seed=1)) == 0


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("stratified", [True, False])
def test_random_split(seed, stratified):
    y = torch.from_numpy(np.random.default_rng(seed).choice(5, 400, p=[0.5, 0.3, 0.15, 0.04, 0.01]))
    split = random_split(y, 0.2, 0.3, seed, stratified=stratified)
    assert shared(split) == 0
    assert sum(map(len, split)) == 400
    assert len(split.val) == pytest.approx(80, abs=6)
    assert len(split.test) == pytest.approx(120, abs=6)
    if stratified:
        share = torch.bincount(y[split.test], minlength=5) / torch.bincount(y, minlength=5)
        assert torch.allclose(share[:3], torch.tensor(0.3), atol=0.03)
    again = random_split(y, 0.2, 0.3, seed, stratified=stratified)
    assert all(torch.equal(a, b) for a, b in zip(split, again, strict=True))
    other = random_split(y, 0.2, 0.3, seed + 1, stratified=stratified)
    assert not torch.equal(split.test, other.test)


@pytest.mark.parametrize(
    ("sets", "words"),
    [
        (([0, 1], [2], [1, 3]), "once"),
        (([0, 0], [2], [3]), "once"),
        (([0], [2], [9]), "0 to 4"),
        (([0], [], [3]), "val must not be empty"),
    ],
)
def test_bad_splits_are_refused(sets, words):
    with pytest.raises(ValueError, match=words):
        checked(*(torch.tensor(s, dtype=torch.int64) for s in sets), size=5)


def test_masks_that_overlap_are_refused():
    mask = torch.tensor([True, False, True])
    with pytest.raises(ValueError, match="once"):
        checked(mask, ~mask, mask, 3)
    with pytest.raises(ValueError, match="length 4"):
        checked(mask, ~mask, mask, 4)


def test_shares_are_checked():
    with pytest.raises(ValueError, match="val and test"):
        random_split(torch.zeros(10, dtype=torch.int64), 0.5, 0.5, 0)


def test_planetoid_split():
    split = planetoid_split(torch.tensor([9, 7, 8]), 2, 10, val=4)
    assert [p.tolist() for p in split] == [[0, 1], [2, 3, 4, 5], [7, 8, 9]]
    with pytest.raises(ValueError, match="once"):
        planetoid_split(torch.tensor([5]), 2, 10, val=4)


def test_folds():
    y = torch.from_numpy(np.random.default_rng(0).choice(3, 103, p=[0.6, 0.3, 0.1]))
    tests = folds(y, 10, seed=3)
    assert torch.cat(tests).sort().values.tolist() == list(range(103))
    for i, test in enumerate(tests):
        assert abs(int((y[test] == 0).sum()) - int((y == 0).sum()) / 10) <= 1
        split = fold_split(y, test, seed=i)
        assert shared(split) == 0
        assert sum(map(len, split)) == 103
        assert torch.equal(split.test, test)
        assert set(y[split.val].tolist()) == {0, 1, 2}


def ring(n, chords=3):
    source = torch.arange(n).repeat(chords)
    target = (source + torch.arange(1, chords + 1).repeat_interleave(n)) % n
    return torch.stack([source, target])


def codes(pairs, n=1000):
    return set((pairs.min(0).values * n + pairs.max(0).values).tolist())


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("form", ["one way", "both ways", "repeated"])
def test_no_link_is_in_two_sets(seed, form):
    edges = ring(60)
    if form != "one way":
        edges = torch.cat([edges, edges.flip(0)], 1)
    if form == "repeated":
        edges = torch.cat([edges, edges[:, :50], torch.tensor([[3], [3]])], 1)
    s = link_split(edges, 60, seed, val=0.1, test=0.2)
    sets = [codes(part) for part in s]
    assert [len(p) for p in sets] == [p.shape[1] for p in s] == [126, 18, 18, 36, 36]
    assert sum(len(p) for p in sets) == len(set.union(*sets))  # all five share nothing, either way round
    links = codes(edges[:, edges[0] != edges[1]])
    assert sets[0] | sets[1] | sets[3] == links
    assert not (sets[2] | sets[4]) & links
    again = link_split(edges.flip(1), 60, seed, val=0.1, test=0.2)
    assert all(torch.equal(a, b) for a, b in zip(s, again, strict=True))


def test_training_sees_nothing_of_the_links_held_out():
    graph = Graph("ring", torch.randn(60, 3), both_directions(ring(60)), degree_features=True)
    task = LinkTask(graph, 0, val=0.2, test=0.3)
    held = codes(task.split.val) | codes(task.split.test)
    assert not codes(task.graph.edge_index) & held
    assert codes(task.graph.edge_index) == codes(task.split.train)
    # The degrees are those of the training graph: of all links each node has six.
    degree = torch.bincount(task.split.train.flatten(), minlength=60).clamp(max=5)
    assert torch.equal(task.x.values[:, 3:9].argmax(1), degree)
    assert degree.min() < 5


def test_training_negatives_do_not_depend_on_what_is_held_out():
    """Were they drawn from pairs without any link, those never drawn would be the links held out."""
    s = link_split(ring(40), 40, 0, val=0.2, test=0.3)
    drawn = sample_negatives(s.train, 40, 60_000, torch.Generator().manual_seed(1))
    assert bool((drawn[0] < drawn[1]).all())
    seen = codes(drawn)
    assert not seen & codes(s.train)
    rest = 40 * 39 // 2 - s.train.shape[1]
    assert len(seen) == rest  # links held out and their negatives alike
    count = torch.bincount(drawn[0] * 1000 + drawn[1], minlength=40_000)
    often = [count[sorted(codes(p))].float().mean().item() for p in (s.test, s.test_negative)]
    assert often == pytest.approx([60_000 / rest] * 2, rel=0.1)


def test_negatives_of_a_full_graph():
    full = torch.combinations(torch.arange(5)).t()
    with pytest.raises(ValueError, match="no links"):
        sample_negatives(full, 5, 3, torch.Generator())
    with pytest.raises(ValueError, match="without a link"):
        link_split(full, 5, 0, val=0.2, test=0.2)
    with pytest.raises(ValueError, match="val and test"):
        link_split(full, 5, 0, val=0.01, test=0.2)


def test_undirected_and_both_directions():
    edges = torch.tensor([[2, 0, 1, 1, 3], [0, 2, 1, 0, 1]])
    assert undirected(edges).tolist() == [[0, 0, 1], [1, 2, 3]]
    assert both_directions(edges).tolist() == [[1, 2, 0, 3, 0, 1], [0, 0, 1, 1, 2, 3]]
    assert both_directions(torch.empty(2, 0, dtype=torch.int64), 3).shape == (2, 0)


def test_degree_features():
    edges = both_directions(torch.tensor([[0] * 7, list(range(1, 8))]))
    f = degree_features(edges, 9)
    assert f.shape == (9, 7)
    assert f[:, :6].argmax(1).tolist() == [5, 1, 1, 1, 1, 1, 1, 1, 0]
    assert bool((f[:, 6] == 1).all())
