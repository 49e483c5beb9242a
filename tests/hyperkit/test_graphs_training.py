"""The trainer: learns, chooses on validation, reads the test set once; runs resume; the command line."""

import csv
import math

import graph_files as files
import pytest
import torch

from hyperkit.graphs import (
    Graph,
    GraphNetwork,
    GraphTask,
    LinkTask,
    ModelSettings,
    NodeTask,
    Split,
    TrainSettings,
    fit,
    load,
    random_split,
    roc_auc,
)
from hyperkit.graphs.__main__ import main
from hyperkit.graphs.experiment import Cell, Table, make_task, markdown, run_cell, settings_of, settings_text
from hyperkit.graphs.models import MODELS
from hyperkit.graphs.splits import both_directions
from hyperkit.graphs.training import class_loss

QUICK = TrainSettings(lr=0.03, weight_decay=0.0, epochs=40, patience=40)


def communities(n=90, seed=0):
    """Three rings with chords; the features say a little about the ring, the neighbours more."""
    g = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % 3
    steps = torch.tensor([3, 6, 9]).repeat_interleave(n)
    source = torch.arange(n).repeat(3)
    edges = both_directions(torch.stack([source, (source + steps) % n]), n)
    x = torch.nn.functional.one_hot(y, 3).float() + 1.2 * torch.randn(n, 3, generator=g)
    return Graph("rings", x, edges, y, [random_split(y, 0.2, 0.3, s) for s in range(3)])


@pytest.mark.parametrize("model", [m for m in MODELS if m not in ("mlp", "hknet-paper")])
def test_models_learn_from_neighbours(model):
    data = communities()
    options = {"smooth": 1, "keep": 4.0} if model == "hknet" else {}
    settings = ModelSettings(model, 16, 2, 0.0, options)
    result = fit(NodeTask(data, data.splits[0]), settings, QUICK, 0)
    assert result.test > 80  # chance is 33, the features alone give some 60
    assert result.epochs <= 40


def test_the_papers_network_fits_what_it_is_trained_on():
    """It does not see a node's own features, so that it is asked for no more here."""
    data = communities()
    train = data.splits[0].train
    task = NodeTask(data, Split(train, train, data.splits[0].test))
    assert fit(task, ModelSettings("hknet-paper", 16, 2, 0.0), QUICK, 0).val > 80


@pytest.mark.parametrize("model", ["mlp", "hybonet", "hknet"])
def test_links_are_learnt(model):
    data = communities()
    result = fit(LinkTask(data, 0, val=0.1, test=0.2), ModelSettings(model, 8, 2, 0.0), QUICK, 0)
    assert result.test > 60


class Spy(torch.nn.Module):
    """Keeps what it is asked."""

    def __init__(self):
        super().__init__()
        self.seen, self.asked = [], []

    def embed(self, x, graph):
        self.seen.append((x, graph))
        return x.values

    def score(self, h, pairs):
        self.asked.append(pairs)
        return pairs.sum(0).float()


def test_links_asked_for_carry_no_messages_when_they_are_hidden():
    data = communities()
    data.degree_features = True
    task, spy, n = LinkTask(data, 0, val=0.1, test=0.2), Spy(), data.num_nodes
    generator = torch.Generator().manual_seed(0)
    for _ in range(2):
        list(task.losses(spy, TrainSettings(hide=0.25), generator))
    known = set((task.split.train[0] * n + task.split.train[1]).tolist())
    drawn = []
    for (x, graph), pairs in zip(spy.seen, spy.asked, strict=True):
        half = pairs.shape[1] // 2
        assert half == round(0.25 * task.split.train.shape[1])
        links, negative = ((p[0] * n + p[1]).tolist() for p in (pairs[:, :half], pairs[:, half:]))
        low, high = graph.edge_index.min(0).values, graph.edge_index.max(0).values
        messages = set((low * n + high).tolist())
        assert not messages & set(links)
        assert messages | set(links) == known
        assert not known & set(negative)
        degree = torch.bincount(graph.edge_index[1], minlength=n).clamp(max=5)
        assert torch.equal(x.values[:, 3:9].argmax(1), degree)  # counted on what is left
        drawn.append(set(links))
    assert drawn[0] != drawn[1]
    list(task.losses(spy, TrainSettings(), generator))
    assert spy.seen[-1][1] is task.graph
    assert spy.asked[-1].shape[1] == 2 * task.split.train.shape[1]


def test_short_features_are_scaled_for_links_and_long_ones_are_not():
    data = communities()
    long = data.x.clone()
    assert torch.equal(LinkTask(data, 0, val=0.1, test=0.2).x.values, long)
    data.x = long / 100
    assert LinkTask(data, 0, val=0.1, test=0.2).x.mean_square == pytest.approx(1.0, rel=1e-4)


@pytest.mark.parametrize("model", ["gcn", "hybonet", "hknet"])
def test_graphs_are_told_apart(tmp_path, model):
    files.gin_text(tmp_path)
    data = load("ptc", tmp_path)
    result = fit(GraphTask(data, 0, 0, batch=16), ModelSettings(model, 16, 2, 0.0), QUICK, 0)
    assert result.test >= 75.0  # rings and stars, four graphs of them


def test_batches_hold_the_graphs_of_their_set(tmp_path):
    made = files.gin_text(tmp_path)
    data = load("ptc", tmp_path)
    task = GraphTask(data, 3, 1, batch=7)
    assert torch.equal(task.split.test, data.tests[3])
    for part, rows in zip(("train", "val", "test"), task.split, strict=True):
        batches = task.batches[part]
        assert sum(len(b.y) for b in batches) == len(rows)
        nodes = sum(len(made[g][0]) for g in rows.tolist())
        edges = sum(2 * len(made[g][1]) for g in rows.tolist())
        assert sum(b.graph.nodes for b in batches) == nodes
        assert sum(b.graph.edge_index.shape[1] for b in batches) == edges
        for b in batches:  # no edge leaves its graph
            assert torch.equal(b.batch[b.graph.edge_index[0]], b.batch[b.graph.edge_index[1]])
            degree = torch.bincount(b.graph.edge_index[1], minlength=b.graph.nodes).float()
            assert torch.allclose(b.x.values[:, -2], degree.log1p())


@pytest.mark.parametrize("model", ["gcn", "hybonet", "hknet"])
def test_a_graph_gives_the_same_in_any_batch(tmp_path, model):
    files.gin_text(tmp_path)
    data = load("ptc", tmp_path)
    torch.manual_seed(0)
    one, all_ = (GraphTask(data, 0, 0, batch=b) for b in (1, 1000))
    net = GraphNetwork(ModelSettings(model, 8, 2, 0.0), "gc", one.in_features, one.num_classes).eval()
    with torch.no_grad():
        want = torch.cat([b.logits(net) for b in all_.batches["test"]])
        out = torch.cat([b.logits(net) for b in one.batches["test"]])
    assert torch.allclose(out, want, atol=1e-4)


class Watched(NodeTask):
    """Counts what is read."""

    def __init__(self, *args):
        super().__init__(*args)
        self.parts = []

    def measure(self, model, part):
        self.parts.append(part)
        return super().measure(model, part)


def test_test_set_is_read_once_and_after_training():
    data = communities()
    task = Watched(data, data.splits[0])
    seen = []
    settings = TrainSettings(epochs=12, every=3, patience=100)
    result = fit(task, ModelSettings("gcn"), settings, 0, progress=lambda *a: seen.append(a))
    assert task.parts == ["val"] * 4 + ["test"]
    assert [e for e, _, _ in seen] == [3, 6, 9, 12]
    assert result.val == max(v for _, v, _ in seen)
    with torch.no_grad():
        assert task.measure(result.model, "val")[0] == result.val  # the weights of the best epoch
    task.parts.clear()
    assert math.isnan(fit(task, ModelSettings("gcn"), settings, 0, test=False).test)
    assert "test" not in task.parts


def test_labels_of_test_and_validation_do_not_reach_training():
    data = communities()
    split = data.splits[0]
    states = []
    for shift in (0, 1):
        y = data.y.clone()
        held = torch.cat([split.val, split.test])
        y[held] = (y[held] + shift) % 3
        task = NodeTask(Graph("rings", data.x, data.edge_index, y), split)
        # A single validation, at the end: the weights kept are the last ones whatever it says.
        settings = TrainSettings(epochs=5, every=5)
        states.append(fit(task, ModelSettings("gcn"), settings, 0).model.state_dict())
    assert all(torch.equal(states[0][k], states[1][k]) for k in states[0])


def test_same_seed_same_result_and_patience():
    data = communities()
    settings = TrainSettings(epochs=60, patience=4)
    a, b = (fit(NodeTask(data, data.splits[0]), ModelSettings("hybonet"), settings, 3) for _ in range(2))
    assert (a.val, a.test, a.epochs) == (b.val, b.test, b.epochs)
    assert a.epochs == min(60, a.best_epoch + 4)
    c = fit(NodeTask(data, data.splits[0]), ModelSettings("hybonet"), settings, 4)
    state = zip(a.model.state_dict().values(), c.model.state_dict().values(), strict=True)
    assert any(not torch.equal(u, v) for u, v in state)


def test_roc_auc_against_all_pairs():
    g = torch.Generator().manual_seed(0)
    scores = torch.randint(6, (40,), generator=g).float()
    positive = torch.rand(40, generator=g) < 0.4
    p, n = scores[positive].unsqueeze(1), scores[~positive].unsqueeze(0)
    assert roc_auc(scores, positive) == pytest.approx(((p > n) + 0.5 * (p == n)).mean().item())
    assert roc_auc(positive.float(), positive) == 1.0
    with pytest.raises(ValueError, match="both kinds"):
        roc_auc(scores, torch.ones(40, dtype=torch.bool))
    with pytest.raises(ValueError, match="NaN"):
        roc_auc(scores * torch.nan, positive)


def test_margin_loss():
    logits = torch.tensor([[3.0, 0.0, 1.5], [0.0, 0.0, 0.0]])
    loss = class_loss(logits, torch.tensor([0, 1]), TrainSettings(loss="margin", margin=2.0))
    assert loss.item() == pytest.approx((2 + 0 + 0.5 + 2 + 2 + 2) / 6)


def test_airport_classes_are_not_among_the_features(tmp_path):
    files.airport(tmp_path)
    data = load("airport", tmp_path)
    task = NodeTask(data, data.splits[0])
    assert task.in_features == 4 + 7
    assert torch.equal(task.x.values[:, :4], data.x[:, :4])
    assert LinkTask(data, 0).in_features == 5 + 7


def test_a_loss_that_is_not_finite_stops_the_run():
    data = communities()
    data.x[0] = torch.inf
    with pytest.raises(FloatingPointError, match="epoch 1"):
        fit(NodeTask(data, data.splits[0]), ModelSettings("gcn"), QUICK, 0)


def test_trials_are_as_many_for_every_model():
    for task in ("nc", "lp", "gc"):
        counts = {m: len(Cell("cora", task, m).trials(4)) for m in MODELS}
        assert set(counts.values()) == {4}
    for model, train in Cell("cora", "nc", "hknet").trials(4):
        assert settings_of(settings_text(model, train)) == (model, train)
    with pytest.raises(ValueError, match="trials must be"):
        Cell("cora", "nc", "gcn").trials(5)
    with pytest.raises(ValueError, match="model must be"):
        Cell("cora", "nc", "gnn")


def test_cells_resume(tmp_path, monkeypatch):
    data = communities()
    cell = Cell("rings", "nc", "gcn", TrainSettings(epochs=4))
    path = tmp_path / "out" / "runs.csv"
    rows = run_cell(cell, data, Table(path), trials=2, runs=3)
    text = path.read_text()
    stages = [r["stage"] for r in csv.DictReader(text.splitlines())]
    assert stages == ["tune"] * 2 + ["test"] * 3
    assert all(r["test"] == "" for r in csv.DictReader(text.splitlines()) if r["stage"] == "tune")
    best = max(csv.DictReader(text.splitlines()), key=lambda r: (r["stage"] == "tune", float(r["val"])))
    assert rows[0]["settings"] == best["settings"]
    assert Table(path).rows == list(csv.DictReader(text.splitlines()))

    monkeypatch.setattr("hyperkit.graphs.experiment.fit", None)  # nothing is to be trained again
    assert run_cell(cell, data, Table(path), trials=2, runs=3) == rows
    monkeypatch.undo()
    path.write_text(text[:-20])  # the last line was cut off
    assert len(Table(path).rows) == 4
    again = run_cell(cell, data, Table(path), trials=2, runs=3)
    assert [(r["val"], r["test"]) for r in again] == [(r["val"], r["test"]) for r in rows]
    assert "gcn" in markdown(Table(path).rows)
    other = tmp_path / "share.csv"
    assert run_cell(cell, data, Table(other), trials=2, runs=1, first=2)[0]["test"] == rows[2]["test"]
    path.write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match="columns"):
        Table(path)


def test_a_trial_that_diverges_loses_and_is_remembered(tmp_path, monkeypatch):
    from hyperkit.graphs import experiment

    asked = []
    whole = experiment.fit

    def sometimes(task, model, train, seed, **options):
        asked.append(model.dropout)
        if model.dropout == 0.0:
            raise FloatingPointError("the loss is nan")
        return whole(task, model, train, seed, **options)

    monkeypatch.setattr(experiment, "fit", sometimes)
    data, table = communities(), Table(tmp_path / "runs.csv")
    cell = Cell("disease", "nc", "gcn", TrainSettings(epochs=3))
    rows = run_cell(cell, data, table, trials=4, runs=1)
    assert [r["val"] for r in table.rows if r["stage"] == "tune"].count("-inf") == 3
    assert settings_of(rows[0]["settings"])[0].dropout == 0.2
    asked.clear()
    assert run_cell(cell, data, Table(tmp_path / "runs.csv"), trials=4, runs=1) == rows
    assert asked == []
    with pytest.raises(FloatingPointError, match="every trial diverged"):
        run_cell(cell, data, Table(tmp_path / "other.csv"), trials=2, runs=1)


def test_tasks_and_data_must_fit(tmp_path):
    data = communities()
    with pytest.raises(ValueError, match="set of graphs"):
        make_task(Cell("rings", "gc", "gcn"), data, 0)
    data.splits = []
    with pytest.raises(ValueError, match="classes and splits"):
        make_task(Cell("rings", "nc", "gcn"), data, 0)
    files.wn18rr(tmp_path)
    with pytest.raises(ValueError, match="one graph"):
        make_task(Cell("wn18rr", "lp", "gcn"), load("wn18rr", tmp_path), 0)


def test_command_line(tmp_path, capsys):
    files.disease(tmp_path, depth=7)
    out = tmp_path / "runs.csv"
    words = ["--data", str(tmp_path), "--out", str(out), "--trials", "1", "--runs", "2", "--epochs", "3"]
    command = ["--dataset", "disease", "--model", "gcn", "hybonet", *words]
    threads = torch.get_num_threads()
    try:
        assert main(command) == 0
        first = capsys.readouterr()
        assert "disease nc gcn: " in first.out
        assert "over 2 runs" in first.out
        assert "6/6" in first.err
        assert "time left: 0:00:00" in first.err
        assert len(Table(out).rows) == 6
        assert main(command) == 0
        assert len(Table(out).rows) == 6
        assert main([*command, "--task", "lp"]) == 0
        assert len(Table(out).rows) == 12
        rows = Table(out).rows
        assert all(settings_of(r["settings"])[1].hide == 0.2 * (r["task"] == "lp") for r in rows)
        small = [*command[:3], "gcn", *words, "--out", str(tmp_path / "sampled.csv"), "--sample", "3", "3"]
        assert main([*small, "--batch", "16"]) == 0
        used = settings_of(Table(tmp_path / "sampled.csv").rows[0]["settings"])[1]
        assert (used.sample, used.batch) == ((3, 3), 16)
        capsys.readouterr()
        assert main(["--out", str(out), "--table"]) == 0
        table = capsys.readouterr().out
        assert table.startswith("| model | disease nc | disease lp |")
        assert "| hybonet |" in table
        assert main(["--dataset", "cora", *words]) == 2
        assert "ind.cora" in capsys.readouterr().err
        assert main(["--out", str(out)]) == 2
        assert "--dataset" in capsys.readouterr().err
        assert main(["--list"]) == 0
        assert "planetoid split" in capsys.readouterr().out
    finally:
        torch.set_num_threads(threads)
