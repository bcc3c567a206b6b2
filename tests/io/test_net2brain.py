"""An RDM that Net2Brain computed and ships, from the features it ships (net2brain78)."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from softrsa import io
from softrsa.errors import FileFormatError, ShapeError, StimulusError, UnknownNameError
from softrsa.rsm import similarity_matrix


def test_shipped_rdm_from_shipped_features(data_dir):
    folder = data_dir / "net2brain78"
    features = np.load(folder / "features_resnet18_layer4.1.bn2.npz")["features"]
    shipped = np.load(folder / "case1_rdm_layer4.1.bn2.npz")["arr_0"]
    units = features.reshape(len(features), -1).astype(np.float64)
    z = (units - units.mean(0)) / units.std(0)  # Net2Brain standardizes units over images, ddof 0
    rdm = 1 - similarity_matrix(torch.from_numpy(z), similarity="correlation").numpy()
    np.testing.assert_allclose(rdm, shipped, atol=1e-8, rtol=0)


RDM = np.array([[0.0, 1, 2], [1, 0, 3], [2, 3, 0]])
CONDENSED = np.array([1.0, 2, 3])
IDS = ["im1", "im2", "im10"]


def save_rdm(path, layer="layer4.1", ids=IDS, rdm=CONDENSED, meta=None):
    """Write as `LayerRDM.save` does: `meta` is a dictionary, so it is pickled."""
    content = {
        "rdm": torch.from_numpy(rdm), "stimuli_name": ids, "layer_name": layer,
        "meta": meta or {"distance": "correlation"},
    }  # fmt: skip
    if path.suffix == ".npz":
        np.savez(path, **content)
    else:
        torch.save(content, path)
    return path


@pytest.mark.parametrize("suffix", ["npz", "pt"])
def test_rdm_of_a_layer_without_its_pickled_meta(tmp_path, suffix):
    found = io.load(save_rdm(tmp_path / f"RDM_layer4_1.{suffix}"))
    assert found.attrs == {"kind": "rdm", "source_format": "an RDM of Net2Brain"}
    assert found["layer"].item() == "layer4.1"
    assert found["anchor"].values.tolist() == IDS
    np.testing.assert_array_equal(found.values, RDM)


def test_rdms_of_a_folder_are_stacked_by_layer(tmp_path):
    save_rdm(tmp_path / "RDM_layer2.npz", "layer2")
    save_rdm(tmp_path / "RDM_layer10.npz", "layer10", rdm=2 * CONDENSED)
    found = io.load(tmp_path)
    assert found.attrs["source_format"] == "a folder of Net2Brain"
    assert found["layer"].values.tolist() == ["layer2", "layer10"]
    np.testing.assert_array_equal(found.sel(layer="layer10").values, 2 * RDM)
    assert io.load(tmp_path, variable="layer2").sizes["layer"] == 1
    save_rdm(tmp_path / "RDM_layer11.npz", "layer11", ids=["im1", "im2", "im3"])
    with pytest.raises(StimulusError, match=r"RDM of layer 'layer11' .* other stimuli"):
        io.load(tmp_path)


def test_rdm_whose_names_are_pickled_takes_the_callers(tmp_path):
    path = save_rdm(tmp_path / "RDM_fc.npz", ids=None)
    with pytest.raises(StimulusError, match=r"stimuli=range\(3\)"):
        io.load(path)
    assert io.load(path, stimuli=IDS)["anchor"].values.tolist() == IDS
    with pytest.raises(StimulusError, match="holds its own stimulus ids"):
        io.load(save_rdm(tmp_path / "RDM_conv.npz"), stimuli=IDS)


def test_rdm_that_is_pickled_itself(tmp_path):
    np.savez(
        tmp_path / "RDM_fc.npz",
        rdm=np.array([None, 1]), stimuli_name=IDS, layer_name="fc", meta={},
    )  # fmt: skip
    with pytest.raises(FileFormatError, match=r"'rdm' in .*RDM_fc.npz is pickled"):
        io.load(tmp_path / "RDM_fc.npz")


@pytest.fixture
def images():
    return {name: np.full((1, 2, 2), float(i)) for i, name in enumerate(IDS)}


def test_features_by_image(tmp_path, images):
    for name, values in images.items():
        np.savez(tmp_path / f"{name}.npz", conv1=values, fc=values[0, 0] + 5)
    found = io.load(tmp_path)
    assert found["stimulus"].values.tolist() == IDS  # numbers in names by value
    assert found["layer"].values.tolist() == ["conv1"] * 4 + ["fc"] * 2
    assert found.values.tolist() == [[i] * 4 + [i + 5] * 2 for i in range(3)]
    assert io.load(tmp_path, variable="fc").shape == (3, 2)
    with pytest.raises(UnknownNameError, match=r"layer in .*'fd'\. Did you mean 'fc'"):
        io.load(tmp_path, variable="fd")
    np.savez(tmp_path / "im4.npz", conv1=images["im1"])
    with pytest.raises(FileFormatError, match=r"im4.npz holds other layers than im1.npz: 'fc'"):
        io.load(tmp_path)


def test_features_by_layer(tmp_path, images):
    np.savez(tmp_path / "vgg_consolidated_conv1.npz", **images)
    found = io.load(tmp_path / "vgg_consolidated_conv1.npz", stimuli=None)
    assert found["layer"].values.tolist() == ["conv1"] * 4
    np.savez(tmp_path / "vgg_consolidated_fc.npz", **{k: v[0] for k, v in images.items()})
    both = io.load(tmp_path)
    assert both["stimulus"].values.tolist() == IDS
    assert both["layer"].values.tolist() == ["conv1"] * 4 + ["fc"] * 4
    assert both.values.tolist() == [[i] * 8 for i in range(3)]
    np.savez(tmp_path / "vgg_consolidated_z.npz", im1=images["im1"])
    with pytest.raises(StimulusError, match=r"other images .*'im10', 'im2' are in one"):
        io.load(tmp_path)


def test_features_of_unlike_sizes(tmp_path, images):
    images["im2"] = np.ones((1, 3))
    np.savez(tmp_path / "consolidated_conv1.npz", **images)
    with pytest.raises(ShapeError, match=r"from 3 \('im2'\) to 4 \('im1'\)"):
        io.load(tmp_path / "consolidated_conv1.npz")


@pytest.mark.parametrize(
    ("shape", "dims"),
    [((), ()), ((4,), ("subject",)), ((4, 5), ("subject", "time"))],
)
def test_rdms_of_brains(tmp_path, shape, dims):
    np.savez(tmp_path / "fmri_V1.npz", np.broadcast_to(RDM, (*shape, 3, 3)))
    with pytest.raises(StimulusError, match=r"stimuli=range\(3\)"):
        io.load(tmp_path / "fmri_V1.npz", dims=(*dims, "anchor", "neighbor"))
    if len(shape) > 1:
        with pytest.raises(ShapeError, match=r"4 x 5 x 3 x 3, .* `--dims time,subject,anchor"):
            io.load(tmp_path / "fmri_V1.npz", stimuli=IDS)
    dims = (*dims, "anchor", "neighbor")
    found = io.load(tmp_path / "fmri_V1.npz", stimuli=IDS, dims=dims)
    assert found.dims == dims
    assert found.attrs["source_format"] == "an archive of NumPy (.npz)"


def test_real_files(data_dir):
    folder = data_dir / "net2brain78"
    ids = sorted(path.stem for path in (folder / "stimuli").iterdir())
    features = io.load(folder / "features_resnet18_layer4.1.bn2.npz", stimuli=ids)
    assert features.sizes == {"stimulus": 78, "unit": 512 * 7 * 7}
    rdm = io.load(folder / "case1_rdm_layer4.1.bn2.npz", stimuli=ids)
    # their RDM is that of features z-scored over images
    z = features.values.astype(float)
    z = (z - z.mean(0)) / np.where(z.std(0) > 0, z.std(0), 1)
    np.testing.assert_allclose(rdm.values, 1 - np.corrcoef(z), atol=1e-6)
    assert rdm.attrs["kind"] == "rdm"
