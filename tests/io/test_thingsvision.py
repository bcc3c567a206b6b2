"""Folders as thingsvision writes them: one file, splits, streams, several modules."""

import h5py
import numpy as np
import pytest
import scipy.io
import torch

from softrsa import io
from softrsa.errors import FileFormatError, ShapeError, StimulusError, UnknownNameError

NAMES = ["/data/images/cat.jpg", "/data/images/dog.02.png", "/data/images/eel.JPEG"]
IDS = ["cat", "dog.02", "eel"]
FEATURES = np.arange(24, dtype=np.float32).reshape(3, 2, 2, 2) / 7


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "file_names.txt").write_text("\n".join(NAMES) + "\n")
    return tmp_path


def write(folder, values, format_, stem="features"):
    folder.mkdir(exist_ok=True)
    if format_ == "npy":
        np.save(folder / f"{stem}.npy", values)
    elif format_ == "pt":
        torch.save(torch.from_numpy(values), folder / f"{stem}.pt")
    elif format_ == "hdf5":
        with h5py.File(folder / f"{stem}.hdf5", "w") as file:
            file["features"] = values
    elif format_ == "mat":
        scipy.io.savemat(folder / f"{stem}.mat", {"features": values})
    else:
        np.savetxt(folder / f"{stem}.txt", values.reshape(len(values), -1))


@pytest.mark.parametrize("format_", ["npy", "pt", "hdf5", "mat", "txt"])
def test_every_format(folder, format_):
    write(folder, FEATURES, format_)
    found = io.load(folder)
    assert found.attrs["source_format"] == "a folder of thingsvision"
    assert found["stimulus"].values.tolist() == IDS
    assert "layer" not in found.coords
    np.testing.assert_array_equal(found.values, FEATURES.reshape(3, -1))


def test_a_variable_per_image(folder):
    (folder / "file_names.txt").write_text("cat.jpg\ndog.png\neel.jpg\n")
    content = {name: FEATURES[i] for i, name in enumerate(["cat", "dog", "eel"])}
    scipy.io.savemat(folder / "features.mat", content)
    np.testing.assert_array_equal(io.load(folder).values, FEATURES.reshape(3, -1))
    scipy.io.savemat(folder / "features.mat", {"cat": FEATURES[0]})
    with pytest.raises(FileFormatError, match=r"no variable for the images 'dog', 'eel'"):
        io.load(folder)


@pytest.mark.parametrize("format_", ["npy", "pt", "txt"])
def test_splits_are_joined_in_order(folder, format_):
    write(folder, FEATURES[:1], format_, "features_01")
    write(folder, FEATURES[1:], format_, "features_02")
    np.testing.assert_array_equal(io.load(folder).values, FEATURES.reshape(3, -1))


def test_splits_inside_hdf5(folder):
    with h5py.File(folder / "features.hdf5", "w") as file:
        file["features_01"], file["features_02"] = FEATURES[:1], FEATURES[1:]
    np.testing.assert_array_equal(io.load(folder).values, FEATURES.reshape(3, -1))


def test_missing_split_is_named(folder):
    write(folder, FEATURES[:1], "npy", "features_01")
    write(folder, FEATURES[1:], "npy", "features_03")
    with pytest.raises(FileFormatError, match=r"lacks the part of the features 02"):
        io.load(folder)


@pytest.mark.parametrize("suffix", ["", "_train"])
def test_streamed_modules_become_layers(folder, suffix):
    for module, values in {"conv.1": FEATURES, "fc": FEATURES[:, 0, 0]}.items():
        write(folder / module, values[2:], "npy", f"features{suffix}_2-3")
        write(folder / module, values[:2], "npy", f"features{suffix}_0-2")
    found = io.load(folder)
    assert found["layer"].values.tolist() == ["conv.1"] * 8 + ["fc"] * 2
    assert found["stimulus"].values.tolist() == IDS
    expected = np.concatenate([FEATURES.reshape(3, -1), FEATURES[:, 0, 0]], axis=1)
    np.testing.assert_array_equal(found.values, expected)
    np.testing.assert_array_equal(io.load(folder, variable="fc").values, FEATURES[:, 0, 0])
    with pytest.raises(UnknownNameError, match=r"module in .*'fd'\. Did you mean 'fc'"):
        io.load(folder, variable="fd")


def test_stream_with_a_gap_or_another_length(folder):
    write(folder / "fc", FEATURES[:1], "npy", "features_0-1")
    write(folder / "fc", FEATURES[2:], "npy", "features_2-3")
    with pytest.raises(FileFormatError, match=r"lacks the part of the features from 1"):
        io.load(folder)
    write(folder / "fc", FEATURES[1:], "npy", "features_1-2")
    with pytest.raises(ShapeError, match=r"features_1-2.npy has 2 rows; its name says 1"):
        io.load(folder)


def test_module_with_a_slash_in_its_name(folder):
    write_to = folder / "block"
    write_to.mkdir()
    write(write_to / "conv", FEATURES, "npy")
    assert set(io.load(folder)["layer"].values.tolist()) == {"block/conv"}


def test_modules_of_other_lengths(folder):
    write(folder / "a", FEATURES, "npy")
    write(folder / "b", FEATURES[:2], "npy")
    with pytest.raises(ShapeError, match=r"\{'a': 3, 'b': 2\}"):
        io.load(folder)


def test_ids_of_the_caller_where_there_are_no_names(folder):
    (folder / "file_names.txt").unlink()
    write(folder, FEATURES, "npy")
    with pytest.raises(StimulusError, match=r"holds no stimulus ids.*stimuli=range\(3\)"):
        io.load(folder)
    assert io.load(folder, stimuli=range(3))["stimulus"].values.tolist() == [0, 1, 2]


def test_names_and_rows_must_agree(folder):
    write(folder, FEATURES[:2], "npy")
    with pytest.raises(StimulusError, match=r"has 2 stimuli, `stimuli` has 3 ids"):
        io.load(folder)


def test_names_that_repeat_keep_their_folder(folder):
    (folder / "file_names.txt").write_text("a/1.jpg\nb/1.jpg\nb/2.jpg\n")
    write(folder, FEATURES, "npy")
    assert io.load(folder)["stimulus"].values.tolist() == ["a/1", "b/1", "b/2"]


def test_several_sets_are_refused(folder):
    write(folder, FEATURES, "npy")
    write(folder, FEATURES, "pt")
    with pytest.raises(FileFormatError, match=r"several sets .*'features.npy', 'features.pt'"):
        io.load(folder)


class Harmful:
    def __reduce__(self):
        return (print, ("run",))


def test_pickled_features_are_refused(folder, capsys):
    torch.save(Harmful(), folder / "features.pt")
    with pytest.raises(FileFormatError, match=r"features.pt holds Python objects .*print"):
        io.load(folder)
    (folder / "features.pt").unlink()
    np.save(folder / "features.npy", np.array([Harmful()]), allow_pickle=True)
    with pytest.raises(FileFormatError, match=r"features.npy is pickled.*numpy.savez"):
        io.load(folder)
    assert capsys.readouterr().out == ""


def test_truncated_features(folder):
    write(folder, FEATURES, "npy")
    content = (folder / "features.npy").read_bytes()
    (folder / "features.npy").write_bytes(content[:-20])
    with pytest.raises(FileFormatError, match=r"was taken for a folder of thingsvision, but"):
        io.load(folder)
