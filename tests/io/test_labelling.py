"""Names of images, neurons and regions that lie in a file beside its numbers."""

import h5py
import numpy as np
import pytest
import scipy.io
import torch

from softrsa import io
from softrsa.errors import DataError, FileFormatError, StimulusError, UnknownNameError
from softrsa.io.labelling import known_names, meaning, renamings

N_IMAGES, N_NEURONS = 6, 4
RATES = np.arange(24.0).reshape(N_IMAGES, N_NEURONS)
IMAGES = [f"obj{i}" for i in range(N_IMAGES)]
RDM = np.abs(np.subtract.outer(RATES[:, 0], RATES[:, 0]))


def save_v5(path, content):
    cells = {k: np.array(v, object) if isinstance(v, list) else v for k, v in content.items()}
    scipy.io.savemat(path, cells)


def save_v5_chars(path, content):
    """Write texts of one length as char matrices."""
    chars = {k: np.array(v) if isinstance(v, list) else v for k, v in content.items()}
    scipy.io.savemat(path, chars)


def save_v73(path, content):
    """Write as MATLAB 7.3 does: axes turned, cells as references to rows of characters."""
    with h5py.File(path, "w", userblock_size=512) as file:
        for name, value in content.items():
            if not isinstance(value, list):
                file[name] = np.atleast_2d(value).T
                file[name].attrs["MATLAB_class"] = np.bytes_("double")
                continue
            found = np.empty((1, len(value)), dtype=h5py.ref_dtype)
            for i, text in enumerate(value):
                place = f"#refs#/{name}{i}"
                file[place] = np.array([[ord(c)] for c in text], dtype=np.uint16)
                file[place].attrs["MATLAB_class"] = np.bytes_("char")
                found[0, i] = file[place].ref
            file[name] = found
            file[name].attrs["MATLAB_class"] = np.bytes_("cell")
    content = path.read_bytes()
    path.write_bytes(b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(512) + content[512:])


def save_npz(path, content):
    with path.open("wb") as file:
        np.savez(file, **content)


def save_hdf5(path, content):
    with h5py.File(path, "w") as file:
        for name, value in content.items():
            file[name] = value


def save_torch(path, content):
    tensors = {
        k: v if isinstance(v, list) else torch.from_numpy(np.ascontiguousarray(v))
        for k, v in content.items()
    }
    torch.save(tensors, path)


SAVES = [save_v5, save_v5_chars, save_v73, save_npz, save_hdf5, save_torch]


@pytest.fixture(params=SAVES, ids=lambda save: save.__name__)
def load(request, tmp_path):
    """Save variables in one of the formats and load them."""

    def save_and_load(content, **options):
        path = tmp_path / "a.file"
        request.param(path, content)
        return io.load(path, **options)

    return save_and_load


def test_names_that_fit_the_rows_are_ids(load):
    found = load({"resp": RATES, "who": IMAGES})
    np.testing.assert_array_equal(found.sel(stimulus="obj4").values, RATES[4])
    assert found.attrs["stimulus_ids"] == "'who' of the file, along its rows"


@pytest.mark.parametrize("name", ["imgnames", "image_names", "stimuli", "conditions"])
def test_names_of_images_that_fit_the_columns_turn_it_over(load, name):
    found = load({"resp": RATES.T, name: IMAGES})
    assert dict(found.sizes) == {"stimulus": N_IMAGES, "unit": N_NEURONS}
    np.testing.assert_array_equal(found.sel(stimulus="obj4").values, RATES[4])
    assert found.attrs["stimulus_ids"] == f"{name!r} of the file, along its columns, turned over"


def test_names_of_something_that_fit_the_columns_are_asked_about(load):
    content = {"resp": RATES.T, "names": IMAGES}
    message = r"is 4 x 6, .* looks transposed .*: the 6-long 'names' fits its columns\. If 'names' "
    with pytest.raises(StimulusError, match=message) as caught:
        load(content)
    assert "range(" not in str(caught.value)
    assert "`stimuli='names'`, which also turns the array over" in str(caught.value)
    assert "On the command line these are `--stimuli`" in str(caught.value)
    found = load(content, stimuli="names")
    np.testing.assert_array_equal(found.sel(stimulus="obj4").values, RATES[4])
    with pytest.raises(UnknownNameError, match=r"'name'\. Did you mean 'names'"):
        load(content, stimuli="name")


def test_a_square_is_never_guessed_at(load):
    content = {"resp": RATES[:4], "image_names": IMAGES[:4]}
    with pytest.raises(StimulusError, match=r"is unclear: .* fits both its rows and its columns"):
        load(content)
    found = load(content, stimuli="image_names")
    np.testing.assert_array_equal(found.sel(stimulus="obj3").values, RATES[3])


def test_rdms_take_the_names_for_both_sides(load):
    found = load({"rdm": RDM, "conditions": IMAGES, "roi": ["V1", "V2"]})
    assert found.sel(anchor="obj1", neighbor="obj4").item() == RDM[1, 4]
    assert found.attrs["kind"] == "rdm"


def test_regions_units_and_numbered_images(load):
    content = {
        "resp": RATES.T,
        "image_id": np.arange(6.0) + 10,
        "roi": ["V1", "V1", "V4", "V4"],
        "neuron": np.array([7.0, 8, 9, 3]),
    }
    found = load(content, variable="resp")
    assert found["stimulus"].values.tolist() == [10, 11, 12, 13, 14, 15]
    assert found["region"].values.tolist() == ["V1", "V1", "V4", "V4"]
    assert found.sel(unit=9, stimulus=12).item() == RATES[2, 2]
    assert load(content).equals(found)  # labels are no data to choose between


def test_regions_in_the_rows_say_that_rows_are_units(load):
    content = {"resp": RATES.T, "roi": ["V1", "V1", "V4", "V4"]}
    message = (
        r"looks transposed .* 'roi' fits its rows\. Give .* each of its 6 columns, which turns"
    )
    with pytest.raises(StimulusError, match=message):
        load(content)
    found = load(content, stimuli=IMAGES)
    np.testing.assert_array_equal(found.sel(stimulus="obj5").values, RATES[5])
    assert found["region"].values.tolist() == ["V1", "V1", "V4", "V4"]


def test_further_texts_label_the_stimuli(load):
    category = ["face", "face", "body", "body", "face", "tool"]
    category = [text.ljust(4, "x") for text in category]
    found = load({"resp": RATES, "stimulus_names": IMAGES, "category": category})
    assert found["category"].dims == ("stimulus",)
    assert found["category"].sel(stimulus="obj5").item() == "tool"
    with pytest.raises(StimulusError, match=r"'category' fits its rows, but repeats\. Give"):
        load({"resp": RATES, "category": category})


def test_two_rows_of_texts_are_asked_about(load):
    with pytest.raises(StimulusError, match=r"Which of 'a', 'b' .* 6 rows .*`stimuli='a'`"):
        load({"resp": RATES, "a": IMAGES, "b": IMAGES[::-1]})
    found = load({"resp": RATES, "a": IMAGES, "b": IMAGES[::-1]}, stimuli="b")
    np.testing.assert_array_equal(found.sel(stimulus="obj5").values, RATES[0])


def test_repeated_names_are_single_trials(load):
    found = load({"resp": RATES, "images": ["a", "b", "a", "c", "b", "c"]})
    assert found.dims == ("trial", "unit")
    assert found["stimulus"].values.tolist() == ["a", "b", "a", "c", "b", "c"]


def test_the_ids_of_the_caller_come_first(load):
    found = load({"resp": RATES, "who": IMAGES}, stimuli=range(6))
    assert found["stimulus"].values.tolist() == [0, 1, 2, 3, 4, 5]
    assert "stimulus_ids" not in found.attrs


def test_bad_neurons_are_named_as_units(load):
    bad = RATES.T.copy()
    bad[2] = np.nan
    message = r"6 values that are NaN .* at 6 stimuli \('obj0', .*\)\. They are in 1 of its 4 units"
    with pytest.raises(DataError, match=message + r" \(2\)"):
        load({"resp": bad, "imgnames": IMAGES})


def test_one_neuron(tmp_path):
    save_v5(tmp_path / "a.mat", {"resp": RATES[:, :1], "who": IMAGES})  # 6 are the pairs of 4, too
    found = io.load(tmp_path / "a.mat")
    assert found.dims == ("stimulus", "unit")
    np.testing.assert_array_equal(found.values, RATES[:, :1])


def test_layers_of_tensors_beside_names(tmp_path):
    layers = {"conv": torch.from_numpy(RATES), "fc": torch.zeros(6, 2), "file_names": IMAGES}
    torch.save(layers, tmp_path / "a.pt")
    found = io.load(tmp_path / "a.pt")
    assert found["layer"].values.tolist() == ["conv"] * 4 + ["fc"] * 2
    np.testing.assert_array_equal(found.sel(stimulus="obj3").values[:4], RATES[3])


def test_subjects_of_a_stack_of_rdms(load):
    found = load({"rdms": np.stack([RDM, 2 * RDM]), "images": IMAGES, "subjects": ["s1", "s2"]})
    assert found.sel(subject="s2", anchor="obj0", neighbor="obj5").item() == 2 * RDM[0, 5]


def test_string_objects_of_matlab_are_named(tmp_path):
    save_v73(tmp_path / "a.mat", {"resp": RATES})
    with h5py.File(tmp_path / "a.mat", "a") as file:
        file["names"] = np.zeros((6, 1), np.uint32)
        file["names"].attrs["MATLAB_class"] = np.bytes_("string")
        file["names"].attrs["MATLAB_object_decode"] = 3
    with pytest.raises(StimulusError, match=r"'names', string objects .*`cellstr\(names\)`"):
        io.load(tmp_path / "a.mat")
    with pytest.raises(FileFormatError, match=r"is a string object, which only MATLAB"):
        io.load(tmp_path / "a.mat", variable="names")


def test_arrays_without_names_take_no_name_of_a_variable(tmp_path):
    np.save(tmp_path / "a.npy", RATES)
    with pytest.raises(StimulusError, match=r"one string 'names', and no variable .*no names"):
        io.load(tmp_path / "a.npy", stimuli="names")
    with pytest.raises(
        StimulusError, match=r"6 rows are taken for stimuli, its 4 columns for unit"
    ):
        io.load(tmp_path / "a.npy")


def test_names_mean_the_same_whatever_their_capitals_underscores_and_endings():
    found = [meaning(name) for name in ("image_id", "ROI", "imgNames", "reaction_time")]
    assert found == ["stimulus", "region", "stimulus", None]
    names = ["sub", "image", "image_id", "unit", "voxel", "beta"]
    assert renamings(names) == {"sub": "subject", "image": "stimulus", "beta": "value"}
    assert known_names(["region", "layer"]) == "`region` (or roi, area), `layer` (or module)"
