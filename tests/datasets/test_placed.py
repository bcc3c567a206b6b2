"""Data that are put in place by hand: small made-up files in the documented layouts."""

import gzip
import struct

import h5py
import numpy as np
import pytest
import scipy.io
import xarray as xr

from softrsa import datasets
from softrsa.datasets.loading import read_nifti
from softrsa.errors import DataError, FileFormatError, FileMissingError, StimulusError

SHAPE = (3, 2, 4)  # x, y, z


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.setenv("SOFTRSA_DATA", str(tmp_path))
    return tmp_path


def write_nifti(path, volume, *, order="<", kind=4):
    """Write a header by the standard's offsets, then the volume, first axis fastest."""
    header = bytearray(352)
    struct.pack_into(f"{order}i", header, 0, 348)
    struct.pack_into(f"{order}8h", header, 40, volume.ndim, *volume.shape, *[1] * (7 - volume.ndim))
    struct.pack_into(f"{order}h", header, 70, kind)
    struct.pack_into(f"{order}f", header, 108, 352.0)
    header[344:348] = b"n+1\0"
    content = bytes(header) + volume.astype(f"{order}i2").tobytes(order="F")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_nifti(place, order, name):
    volume = np.arange(24).reshape(SHAPE)
    write_nifti(place / name, volume, order=order)
    np.testing.assert_array_equal(read_nifti(place / name), volume)


def test_nifti_that_is_none(place):
    (place / "a.nii").write_bytes(b"hello")
    with pytest.raises(FileFormatError, match=r"a\.nii is no NIfTI-1"):
        read_nifti(place / "a.nii")
    (place / "a.nii.gz").write_bytes(b"hello")
    with pytest.raises(FileFormatError, match=r"cannot be unpacked: Not a gzipped file"):
        read_nifti(place / "a.nii.gz")
    write_nifti(place / "b.nii", np.ones(SHAPE), kind=1792)
    with pytest.raises(FileFormatError, match=r"NIfTI type 1792"):
        read_nifti(place / "b.nii")
    write_nifti(place / "b.nii", np.ones(SHAPE))
    (place / "b.nii").write_bytes((place / "b.nii").read_bytes()[:-1])
    with pytest.raises(FileFormatError, match=r"cut short: it must hold 24 values"):
        read_nifti(place / "b.nii")
    with pytest.raises(FileMissingError, match=r"no file .*c\.nii"):
        read_nifti(place / "c.nii")


def write_nsd(place, people=("subj01",), sessions=(1, 2), n_trials=750):
    """Lay out a dataset of 4 images per person, whose betas say image, voxel and repeat."""
    root = place / "nsd"
    order = np.tile(np.arange(1, 5), 30000 // 4)[None]
    images = np.stack([np.arange(10000) * 7 + 11 + 7 * s for s in range(8)])
    (root / "nsddata" / "experiments" / "nsd").mkdir(parents=True)
    scipy.io.savemat(
        root / "nsddata" / "experiments" / "nsd" / "nsd_expdesign.mat",
        {"masterordering": order, "subjectim": images},
    )
    regions = np.arange(24).reshape(SHAPE) % 9 - 1  # -1 and 0 outside, 1 to 7
    for person in people:
        roi = root / "nsddata" / "ppdata" / person / "func1pt8mm" / "roi"
        write_nifti(roi / "prf-visualrois.nii.gz", regions)
        folder = root / "nsddata_betas" / "ppdata" / person / "func1pt8mm"
        folder = folder / "betas_fithrf_GLMdenoise_RR"
        folder.mkdir(parents=True)
        voxels = np.arange(24).reshape(SHAPE)
        for session in sessions:
            shown = order[0, 750 * (session - 1) :][:n_trials]
            betas = 300 * (10 * shown[:, None, None, None] + voxels[None]) // 10
            with h5py.File(folder / f"betas_session{session:02d}.hdf5", "w") as file:
                file["betas"] = betas.transpose(0, 3, 2, 1).astype(np.int16)
    return regions, images


def test_nsd(place):
    regions, images = write_nsd(place)
    data = datasets.load("nsd")
    assert list(data.regions) == ["V1", "V2", "V3", "hV4"]
    for name, members in {"V1": (1, 2), "V2": (3, 4), "V3": (5, 6), "hV4": (7,)}.items():
        found = data.regions[name]
        assert found["stimulus"].values.tolist() == images[0, :4].tolist()
        assert found["subject"].values.tolist() == ["subj01"] * found.sizes["unit"]
        # voxel v answers to image i with i + v / 10
        voxels = np.flatnonzero(np.isin(regions.ravel(), members))
        expected = np.arange(1, 5)[:, None] + voxels[None] / 10
        np.testing.assert_allclose(found.values, expected, rtol=1e-6)
        assert found.dtype == np.float32


def test_nsd_of_two_people_takes_the_images_both_saw(place):
    _, images = write_nsd(place, people=("subj01", "subj02"), sessions=(3,), n_trials=20)
    found = datasets.load("nsd").regions["V1"]
    assert found["stimulus"].values.tolist() == sorted({*images[0, :4]} & {*images[1, :4]})
    assert dict.fromkeys(found["subject"].values.tolist()) == {"subj01": None, "subj02": None}


def test_nsd_without_common_images_or_with_other_volumes(place):
    write_nsd(place, people=("subj01", "subj06"), sessions=(1,))
    with pytest.raises(DataError, match=r"'subj01', 'subj06' .* have 0 images in common"):
        datasets.load("nsd")
    folder = place / "nsd/nsddata_betas/ppdata/subj01/func1pt8mm/betas_fithrf_GLMdenoise_RR"
    with h5py.File(folder / "betas_session01.hdf5", "w") as file:
        file["betas"] = np.zeros((5, 2, 2, 2), np.int16)
    with pytest.raises(FileFormatError, match=r"session01\.hdf5 must hold .* \(3, 2, 4\)"):
        datasets.load("nsd")


def test_majaj_hong(place):
    values = np.arange(24.0).reshape(3, 8, 1)  # as on disk: neuroid, presentation, time_bin
    assembly = xr.DataArray(
        values,
        dims=("neuroid", "presentation", "time_bin"),
        coords={
            "image_id": ("presentation", ["a", "b", "c", "d"] * 2),
            "repetition": ("presentation", [0] * 4 + [1] * 4),
            "neuroid_id": ("neuroid", ["n0", "n1", "n2"]),
            "region": ("neuroid", ["V4", "IT", "IT"]),
            "animal": ("neuroid", ["x", "x", "y"]),
            "time_bin_start": ("time_bin", [70]),
            "time_bin_end": ("time_bin", [170]),
        },
    )
    (place / "majaj-hong2015").mkdir()
    path = place / "majaj-hong2015" / "assy_dicarlo_MajajHong2015_public.nc"
    assembly.to_dataset(name="data").to_netcdf(path)
    found = datasets.load("majaj-hong2015").regions
    assert {name: region.shape for name, region in found.items()} == {"V4": (4, 1), "IT": (4, 2)}
    expected = (values[1:, :4, 0] + values[1:, 4:, 0]).T / 2
    np.testing.assert_array_equal(found["IT"].values, expected)
    assert found["IT"]["subject"].values.tolist() == ["x", "y"]


def test_things(place):
    folder = place / "things"
    folder.mkdir()
    rng = np.random.default_rng(0)
    values = rng.random((5, 49))
    np.savetxt(folder / "spose_embedding_49d_sorted.txt", values)
    (folder / "unique_id.txt").write_text("aardvark\nabacus\naccordion\nacorn\nair_bag\n")
    found = datasets.load("things").regions["behavior"]
    np.testing.assert_array_equal(found.values, values)
    assert found["stimulus"].values.tolist()[-1] == "air_bag"
    (folder / "unique_id.txt").write_text("aardvark\nabacus\n")
    with pytest.raises(DataError, match=r"has 5 rows, .*unique_id.txt 2 names"):
        datasets.load("things")
    (folder / "unique_id.txt").write_text("a\na\nb\nc\nd\n")
    with pytest.raises(StimulusError, match=r"repeats the stimuli 'a'"):
        datasets.load("things")
    (folder / "spose_embedding_49d_sorted.txt").write_text("one two\n")
    with pytest.raises(FileFormatError, match=r"is no table of numbers"):
        datasets.load("things")


def test_algonauts78_has_the_published_upper_ceilings(data_dir, monkeypatch):
    """By Net2Brain's own log, all printed digits."""
    from scipy.stats import spearmanr

    monkeypatch.setenv("SOFTRSA_DATA", str(data_dir))
    data = datasets.load("algonauts2019-78")
    assert list(data.images)[:2] == ["image_01", "image_02"]
    pairs = np.triu_indices(78, 1)
    for region, expected in {"EVC": 0.06397469419484077, "IT": 0.0647332511659806}.items():
        rdms = data.regions[region]
        assert dict(rdms.sizes) == {"subject": 15, "anchor": 78, "neighbor": 78}
        mean = rdms.mean("subject").values[pairs]
        squared = [spearmanr(person.values[pairs], mean).statistic ** 2 for person in rdms]
        assert np.mean(squared) == pytest.approx(expected, abs=1e-12)
    assert "no scientific claim" in " ".join(data.card.description.split())
