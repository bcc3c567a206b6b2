"""FineTuner: that it learns, what it leaves alone, and that the estimator does the same."""

import copy

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.metrics import r2_score
from torch import nn
from torch.utils.data import Dataset, IterableDataset, TensorDataset

from softrsa.errors import (
    DataError,
    DTypeError,
    FileFormatError,
    NotFittedError,
    ShapeError,
    UnknownNameError,
)
from softrsa.prediction import FineTuner, NeighborRegressor
from softrsa.prediction.attaching import resolve_precision
from softrsa.prediction.options import Options
from softrsa.prediction.samples import as_samples
from softrsa.prediction.step_heads import HEADS, NEIGHBOR_HEADS

QUICK = {"max_epochs": 2, "layers": (12, 4), "batch_size": 16, "random_state": 0}


class Convolutions(nn.Module):
    """A small CNN with dropout before its classifier."""

    def __init__(self, dropout=0.0):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)
        self.dropout, self.fc = nn.Dropout(dropout), nn.Linear(8, 10)

    def forward(self, x):
        maps = self.norm(self.conv(x)).relu()
        return self.fc(self.dropout(maps.mean((2, 3))))


class Pairs(Dataset):
    """Items as a user's dataset has them: numpy images, labels as numbers."""

    def __init__(self, x, y):
        self.x, self.y = x.numpy(), y

    def __len__(self):
        return len(self.y)

    def __getitem__(self, i):
        return self.x[i].astype(np.float64), float(self.y[i])


class Items(Dataset):
    """A list of items."""

    def __init__(self, items):
        self.items = items

    def __len__(self):
        return len(self.items)

    def __getitem__(self, i):
        return self.items[i]


@pytest.fixture(scope="module")
def samples():
    """Images whose label is how much of a checkerboard is in them."""
    generator = torch.Generator().manual_seed(2)
    amount = torch.rand(60, 1, 1, 1, generator=generator)
    board = (torch.arange(8)[:, None] + torch.arange(8)) % 2
    x = torch.randn(60, 3, 8, 8, generator=generator) + 3 * amount * board
    return x, 100 + 50 * amount.flatten().numpy().astype(np.float64)


@pytest.fixture
def network():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        return Convolutions()


@pytest.mark.parametrize("head", HEADS)
def test_learns_and_explains(head, samples, network):
    x, y = samples
    rates = {"learning_rate": 0.01, "max_epochs": 30}
    tuner = FineTuner(network, head, **{**QUICK, **rates}).fit((x[:45], y[:45]))
    assert tuner.score((x[45:], y[45:])) > 0.7
    assert tuner.score((x[45:], y[45:])) == pytest.approx(r2_score(y[45:], tuner.predict(x[45:])))
    assert tuner.embed(x[:3]).shape == (3, 4)
    if head in NEIGHBOR_HEADS:
        indices, weights = tuner.neighbors(x[45:], 45)
        np.testing.assert_allclose((weights * y[indices]).sum(1), tuner.predict(x[45:]), rtol=1e-5)


def test_the_network_and_the_generators_are_left_as_they_were(samples, network):
    state, before = copy.deepcopy(network.state_dict()), torch.get_rng_state()
    tuner = FineTuner(network, **QUICK, n_workers=0).fit(Pairs(*samples))
    tuner.predict(Pairs(*samples))
    assert torch.equal(torch.get_rng_state(), before)
    assert network.training
    assert isinstance(network.fc, nn.Linear)
    for name, value in network.state_dict().items():
        assert torch.equal(value, state[name])
    changed = dict(tuner.network_.extractor.module.named_parameters())["conv.weight"]
    assert not torch.equal(changed, network.conv.weight)


def test_every_form_of_the_samples_is_the_same(samples, network):
    x, y = samples
    forms = [
        (x, y),
        (x.double().numpy(), y.tolist()),
        (TensorDataset(x), y),
        TensorDataset(x, torch.as_tensor(y)),
        Pairs(x, y),
    ]
    first, *others = (FineTuner(network, **QUICK).fit(form) for form in forms)
    for other in others:
        assert other.validation_losses_ == first.validation_losses_
        np.testing.assert_array_equal(other.predict(Pairs(x, y)), first.predict(x))


def test_workers_read_the_same(samples, network):
    pairs = Pairs(*samples)
    options = {**QUICK, "max_epochs": 1}
    alone = FineTuner(network, "nca", **options).fit(pairs)
    workers = FineTuner(network, "nca", **options, n_workers=1).fit(pairs)
    np.testing.assert_array_equal(workers.predict(pairs), alone.predict(pairs))


def test_frozen_extractor_keeps_its_weights_and_statistics(samples, network):
    x, y = samples
    tuner = FineTuner(network, **QUICK, extractor_learning_rate=0.0).fit((x, y))
    found = tuner.network_.extractor.module.state_dict()
    for name, value in found.items():
        assert torch.equal(value, network.state_dict()[name])
    network.eval()
    features = network.norm(network.conv(x)).relu().mean((2, 3)).detach()
    on_features = FineTuner(nn.Identity(), **QUICK).fit((features, y))
    np.testing.assert_allclose(tuner.predict(x), on_features.predict(features), rtol=1e-4)


def test_learning_rates_reach_their_parts(samples, network):
    x, y = samples
    options = {**QUICK, "max_epochs": 1, "batch_size": 60, "head": "softstep-nca-instance"}
    rates = {"learning_rate": 1e-3, "extractor_learning_rate": 1e-5, "gate_learning_rate": 0.1}
    tuner = FineTuner(network, **options, **rates).fit((x, y))
    optimizer = tuner.learner_.training.optimizer
    trained = tuner.learner_.training.network
    rate_of = {id(p): g["lr"] for g in optimizer.param_groups for p in g["params"]}
    for part, rate in (("extractor", 1e-5), ("body", 1e-3), ("head", 0.1)):
        found = {rate_of[id(p)] for p in getattr(trained, part).parameters()}
        assert found == {rate}
    # the first step of Adam is the rate, wherever there is a gradient
    moved = (trained.extractor.module.conv.weight - network.conv.weight).abs().max().item()
    assert moved == pytest.approx(1e-5, rel=0.05)


def test_inputs_by_name_and_several_targets(rng):
    class Words(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = nn.Embedding(9, 5)

        def forward(self, input_ids, attention_mask):
            del attention_mask
            return {"last_hidden_state": self.embedding(input_ids)}

    inputs = {
        "input_ids": torch.randint(9, (20, 6), generator=rng),
        "attention_mask": (torch.rand(20, 6, generator=rng) < 0.7).long(),
    }
    y = torch.rand(20, 2, generator=rng)
    tuner = FineTuner(Words(), "nca", **QUICK).fit((inputs, y))
    assert tuner.predict(inputs).shape == (20, 2)
    pairs = [({name: v[i] for name, v in inputs.items()}, y[i]) for i in range(20)]
    np.testing.assert_array_equal(tuner.predict(Items(pairs)), tuner.predict(inputs))
    assert FineTuner(Words(), "nca", **QUICK).fit(Items(pairs)).predict(inputs).shape == (20, 2)
    changed = {**inputs, "input_ids": inputs["input_ids"] * inputs["attention_mask"]}
    np.testing.assert_allclose(tuner.predict(changed), tuner.predict(inputs), rtol=1e-6)


@pytest.mark.parametrize("head", NEIGHBOR_HEADS)
@pytest.mark.parametrize("train_neighbors", ["batch", "bank"])
def test_own_label_has_no_weight_with_dropout_in_the_extractor(head, train_neighbors, samples):
    """The published head tests whether the inputs are equal; with dropout they are not."""
    tuner = FineTuner(Convolutions(0.5), head, **QUICK, train_neighbors=train_neighbors)
    training = tuner.fit(samples).learner_.training
    network = training.network.train()
    rows = torch.randperm(len(training.train.y))[:12]
    (x,) = training.train.inputs.stream([rows])
    assert not torch.equal(network(x), network(x))
    labels = training.train.y.clone().requires_grad_()
    network.bank.labels = labels
    training.train = training.train._replace(y=labels)
    predicted = training.predict_part(rows, x)
    for i, row in enumerate(rows.tolist()):
        (by_label,) = torch.autograd.grad(predicted[i].sum(), labels, retain_graph=True)
        assert by_label[row].item() == 0.0
        assert by_label.sum().item() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_mixed_precision_is_near_and_ends_in_float32(precision, samples, network):
    options = {**QUICK, "head": "nca", "learning_rate": 0.01}
    exact = FineTuner(network, **options, precision="float32").fit(samples)
    mixed = FineTuner(network, **options, precision=precision).fit(samples)
    assert mixed.learner_.training.scaler.is_enabled() == (precision == "float16")
    assert {p.dtype for p in mixed.network_.parameters()} == {torch.float32}
    assert mixed.network_.bank.embeddings.dtype == torch.float32
    assert mixed.validation_losses_ != exact.validation_losses_
    assert mixed.validation_losses_ == pytest.approx(exact.validation_losses_, rel=0.1)


def test_precision_of_a_device(monkeypatch):
    cuda = torch.device("cuda")
    for supported, expected in ((True, torch.bfloat16), (False, torch.float16)):
        monkeypatch.setattr(
            torch.cuda, "is_bf16_supported", lambda including_emulation, s=supported: s
        )
        assert resolve_precision("auto", cuda) is expected
    assert resolve_precision("auto", torch.device("cpu")) is None
    assert resolve_precision("float32", cuda) is None


def test_given_validation_samples_stop_the_training_and_are_no_neighbors(samples, network):
    x, y = samples
    tuner = FineTuner(network, "nca", **QUICK).fit((x[:40], y[:40]), validation=(x[40:], y[40:]))
    assert len(tuner.network_.bank) == 40
    errors = (tuner.predict(x[40:]) - y[40:]) / (y[:40].max() - y[:40].min())
    assert (errors**2).mean() == pytest.approx(min(tuner.validation_losses_), rel=1e-3)


@pytest.mark.parametrize("rate", [None, 0.0])
def test_saved_and_loaded(rate, samples, network, tmp_path):
    x, y = samples
    tuner = FineTuner(network, **QUICK, extractor_learning_rate=rate).fit((x, y[:, None]))
    tuner.save(tmp_path / "tuner.pt")
    loaded = FineTuner.load(tmp_path / "tuner.pt", Convolutions())
    np.testing.assert_array_equal(loaded.predict(x), tuner.predict(x))
    assert loaded.predict(x).shape == (60, 1)
    assert loaded.validation_losses_ == tuner.validation_losses_
    assert repr(loaded) == repr(tuner)
    with pytest.raises(FileFormatError, match="damaged"):
        FineTuner.load(tmp_path / "tuner.pt", nn.Conv2d(3, 4, 3))
    with pytest.raises(
        FileFormatError, match=r"is not a file written by `NeighborRegressor\.save`"
    ):
        NeighborRegressor.load(tmp_path / "tuner.pt")


class TestRegressorWithExtractor:
    """`NeighborRegressor` with a network instead of standardized arrays."""

    def test_arrays_and_datasets(self, samples, network):
        x, y = samples
        options = {**QUICK, "learning_rate": 0.01, "max_epochs": 20}
        regressor = NeighborRegressor("nca", **options, extractor=network)
        by_array = clone(regressor).fit(x.numpy(), y)
        by_dataset = clone(regressor).fit(Pairs(x, y))
        np.testing.assert_array_equal(by_array.predict(x), by_dataset.predict(Pairs(x, y)))
        assert by_dataset.score(Pairs(x, y)) == pytest.approx(r2_score(y, by_array.predict(x)))
        assert by_array.score(x, y) > 0.7
        indices, weights = by_array.neighbors(x[:3], 60)
        np.testing.assert_allclose(
            (weights * y[indices]).sum(1), by_array.predict(x[:3]), rtol=1e-5
        )
        assert by_array.embed(x).shape == (60, 4)

    def test_is_the_fine_tuner(self, samples, network):
        """From one seed, by way of the seed that each of them draws from it."""
        x, y = samples
        seed = np.random.default_rng(7).integers(2**31 - 1)
        options = {**QUICK, "learning_rate": 0.01}
        tuner = FineTuner(network, **{**options, "random_state": 7}).fit((x, y))
        regressor = NeighborRegressor(**options, patience=10, extractor=network)
        learner = regressor._new_learner(Options.of(regressor))
        inputs, labels = as_samples((x, y), torch.device("cpu"))
        learner.fit((inputs, labels), seed=int(seed))
        np.testing.assert_array_equal(learner.predict(inputs), tuner.predict(x))

    def test_goes_on_where_it_stopped(self, samples, network):
        x, y = samples
        options = {**QUICK, "dropout": 0.2, "extractor": network}
        whole = NeighborRegressor(**{**options, "max_epochs": 3}).fit(x, y)
        parts = NeighborRegressor(**options, warm_start=True).fit(x, y)
        parts.set_params(max_epochs=1).fit(x, y)
        assert parts.validation_losses_ == whole.validation_losses_

    def test_saved_and_loaded(self, samples, network, tmp_path):
        x, y = samples
        NeighborRegressor(**QUICK, extractor=network).fit(x, y).save(tmp_path / "r.pt")
        expected = NeighborRegressor(**QUICK, extractor=network).fit(x, y).predict(x)
        loaded = NeighborRegressor.load(tmp_path / "r.pt", extractor=Convolutions())
        np.testing.assert_array_equal(loaded.predict(x), expected)
        with pytest.raises(DataError, match="written with an extractor; give it as `extractor`"):
            NeighborRegressor.load(tmp_path / "r.pt")


class TestErrors:
    @pytest.mark.parametrize(
        ("options", "error", "message"),
        [
            ({"head": "nona"}, UnknownNameError, "Unknown head 'nona'"),
            ({"precision": "float64"}, UnknownNameError, "Unknown precision 'float64'"),
            ({"pool": "max"}, UnknownNameError, "'max'"),
            ({"layer": "convolution"}, UnknownNameError, "Unknown layer 'convolution'"),
            ({"batch_size": 1}, DataError, "`batch_size` must be at least 2, got 1"),
            ({"extractor_learning_rate": -1.0}, DataError, r"must be 0 or more, got -1\.0"),
            ({"n_workers": -1}, DataError, "`n_workers` must be 0 or more, got -1"),
        ],
    )
    def test_options(self, options, error, message, samples, network):
        with pytest.raises(error, match=message):
            FineTuner(network, **options).fit(samples)

    @pytest.mark.parametrize(
        ("change", "error", "message"),
        [
            (lambda x, _: x, DTypeError, r"\(input, label\) pairs, .* got Tensor"),
            (lambda x, y: (x[:3], y[:3]), DataError, "at least 4 samples, got 3"),
            (lambda x, y: (x, y[:-1]), ShapeError, r"\(60, n_targets\) for 60 inputs, got \(59,\)"),
            (lambda x, y: (x, y * np.nan), DataError, "60 are not, first that of sample 0"),
            (lambda x, y: ({"a": x, "b": x[:4]}, y), ShapeError, "got {'a': 60, 'b': 4}"),
            (lambda _, y: ("images", y), DTypeError, "arrays of numbers, got str"),
            (lambda x, _: TensorDataset(x), DTypeError, r"pair \(input, label\), got tuple of 1"),
            (lambda *_: Items([(0.0, "a")] * 9), DTypeError, "labels of the dataset must be num"),
            (lambda *_: Items([("a", 0)] * 9), DTypeError, "got a batch of list. Leave out"),
            (lambda x, _: (x, ["a"] * 60), DTypeError, "Labels must be numbers"),
            (lambda _, y: (Stream(), y), DTypeError, "map-style.*Stream is not"),
        ],
    )
    def test_samples(self, change, error, message, samples, network):
        with pytest.raises(error, match=message):
            FineTuner(network, **QUICK).fit(change(*samples))

    def test_targets_of_validation_samples_and_before_fit(self, samples, network):
        x, y = samples
        with pytest.raises(NotFittedError, match="call `fit` first"):
            FineTuner(network).predict(x)
        with pytest.raises(ShapeError, match="must have 1 targets, got 2"):
            FineTuner(network, **QUICK).fit((x, y), validation=(x, np.stack([y, y], 1)))
        with pytest.raises(DTypeError, match="Inputs by name need an extractor"):
            NeighborRegressor(**QUICK).fit([[0.0]] * 9, range(9)).network_({"x": x})


class Stream(IterableDataset):
    def __iter__(self):
        return iter([])


def test_saved_are_plain_options_of_the_fit(samples, network, tmp_path):
    options = {**QUICK, "layers": tuple(np.array([6, 4])), "random_state": np.int64(3)}
    tuner = FineTuner(network, "nca", **options, learning_rate=np.float64(1e-3)).fit(samples)
    expected = tuner.predict(samples[0])
    tuner.head, tuner.layers, tuner.n_workers = "linear", (3,), 1
    tuner.save(tmp_path / "tuner.pt")
    loaded = FineTuner.load(tmp_path / "tuner.pt", network)
    assert (loaded.head, loaded.layers, loaded.n_workers) == ("nca", (6, 4), 1)
    assert type(loaded.learning_rate) is float
    loaded.n_workers = 0
    np.testing.assert_array_equal(loaded.predict(samples[0]), expected)


def test_bytes_are_refused_unless_the_network_takes_them(samples, network):
    x, y = (255 * samples[0].sigmoid()).to(torch.uint8), samples[1]
    with pytest.raises(DTypeError, match=r"uint8 .*Convert images to float and scale"):
        FineTuner(network, "nca", **QUICK).fit((x, y))

    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.network = network

        def forward(self, images):
            return self.network(images.float() / 255)

    tuner = FineTuner(Scaled(), "nca", **QUICK, classifier="network.fc").fit((x, y))
    assert np.isfinite(tuner.predict(x)).all()


def test_empty_validation_and_no_samples(samples, network):
    x, y = samples
    for empty in ((x[:0], y[:0]), Items([])):
        with pytest.raises(DataError, match="`validation` must have at least one sample"):
            FineTuner(network, "nca", **QUICK).fit(samples, validation=empty)
    with pytest.raises(DataError, match="at least 4 samples, got 0"):
        FineTuner(network, "nca", **QUICK).fit((x[:0], y[:0]))
