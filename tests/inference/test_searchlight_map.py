"""Maps of scores, against SciPy around single centers and permutations by hand."""

import nibabel
import numpy as np
import pytest
import torch
import xarray as xr
from scipy.spatial.distance import pdist, squareform
from scipy.stats import spearmanr

from softrsa.errors import DataError, StimulusError, UnknownNameError
from softrsa.inference import SearchlightResult, cluster_test, searchlight_maps
from softrsa.io import from_nifti
from softrsa.rsm import build_rdms, disks, spheres

N, SHAPE, RADIUS = 9, (4, 4, 3), 3.5
IDS = [f"image {i}" for i in range(N)]
UPPER = np.triu_indices(N, 1)


def brain(seed=0, strength=1.0, n_runs=1, ids=IDS):
    """Voxels of which one half follows five latent values, as an image read back."""
    rng = np.random.default_rng(seed)
    signal = latents() @ rng.normal(size=(5, *SHAPE, 1)).reshape(5, -1)
    half = np.broadcast_to((np.arange(4) < 2)[:, None, None], SHAPE).ravel()
    images = []
    for _ in range(n_runs):
        values = strength * signal * half + rng.normal(size=signal.shape)
        images.append(nibabel.Nifti1Image(values.T.reshape(*SHAPE, N), np.diag([2.0, 2, 2, 1])))
    return from_nifti(images, stimuli=ids, runs=[*range(n_runs)])


def latents():
    return np.random.default_rng(99).normal(size=(N, 5))


def models():
    squares = [squareform(pdist(latents())), squareform(np.random.default_rng(5).random(N * 4))]
    coords = {"layer": ["latent", "chance"], "anchor": IDS, "neighbor": IDS}
    return xr.DataArray(squares, coords, ("layer", "anchor", "neighbor"), attrs={"kind": "rdm"})


def test_scores_are_those_of_scipy_around_each_center():
    recording = brain()
    result = searchlight_maps(models(), recording, radius=RADIUS, progress=False)
    score = result.data["score"].sel(subject="subject 1")
    for center, own in enumerate(spheres(recording, RADIUS)):
        rdm = pdist(recording.values[:, own], "correlation")
        for layer in ("latent", "chance"):
            wanted = spearmanr(rdm, models().sel(layer=layer).values[UPPER]).statistic
            assert score.sel(model=layer)[center].item() == pytest.approx(wanted, abs=1e-10)
    peak = result.table.set_index("layer").loc["latent"]
    assert peak["score"] == pytest.approx(score.sel(model="latent").max().item())
    assert peak["x"] <= 2
    assert result.table["n_stimuli"].tolist() == [N, N]
    assert result.data["p_corrected"].isnull().all()
    assert result.warnings == ["One subject: nothing about other subjects is tested."]


def test_stimuli_are_joined_by_their_ids():
    plain = searchlight_maps(models(), brain(), radius=RADIUS, progress=False)
    order = np.random.default_rng(1).permutation(N)
    turned = models()[:, order][:, :, order[::-1]]
    found = searchlight_maps(turned, brain(), radius=RADIUS, progress=False)
    np.testing.assert_allclose(found.data["score"], plain.data["score"], atol=1e-12)
    with pytest.raises(StimulusError, match="image 8"):
        searchlight_maps(models()[:, :8, :8], brain(), radius=RADIUS)
    fewer = searchlight_maps(
        models()[:, :8, :8], brain(), radius=RADIUS, join="intersection", progress=False
    )
    assert fewer.data.attrs["n_stimuli"] == 8


@pytest.mark.parametrize("measure", ["spearman", "centered_pearson", "cosine"])
def test_rsms_are_taken_as_the_distances_they_are(measure):
    rsms = (1 - models()).assign_attrs(kind="rsm")
    found = [
        searchlight_maps(one, brain(), measure, radius=RADIUS, progress=False)
        for one in (models(), rsms)
    ]
    np.testing.assert_allclose(found[0].data["score"], found[1].data["score"], atol=1e-12)


def test_crossnobis_is_that_of_build_rdms():
    trials = brain(n_runs=4)
    result = searchlight_maps(
        models(), trials, "pearson", radius=RADIUS, method="crossnobis", progress=False
    )
    own = spheres(trials, RADIUS)[20]
    rdm = build_rdms(trials[:, own], method="crossnobis", fold="run").values[UPPER]
    wanted = np.corrcoef(rdm, models().values[0][UPPER])[0, 1]
    assert result.data["score"].values[0, 0, 20] == pytest.approx(wanted, abs=1e-9)
    with pytest.raises(DataError, match=r"needs single trials with a coordinate 'run'"):
        searchlight_maps(models(), _means(trials), radius=RADIUS, method="crossnobis")
    with pytest.raises(DataError, match=r"first run 3 and stimulus 'image 8'"):
        searchlight_maps(models(), trials[:-1], radius=RADIUS, method="crossnobis")


def _means(trials):
    return trials.groupby("stimulus").mean().transpose("stimulus", "unit")


def test_p_of_one_subject_is_from_the_largest_score_of_each_permutation():
    n = 150
    result = searchlight_maps(
        models(), brain(strength=2.0), radius=RADIUS, n_permutations=n, seed=3, progress=False
    )
    generator = torch.Generator().manual_seed(3)
    squares = models().values
    largest = []
    for _ in range(n):
        order = torch.randperm(N, generator=generator).numpy()
        turned = models().copy(data=squares[:, order][:, :, order])
        found = searchlight_maps(turned, brain(strength=2.0), radius=RADIUS, progress=False)
        largest.append(found.data["score"].values[0].max(1))
    score = result.data["score"].values[0]
    beyond = (np.array(largest)[:, :, None] >= score - 1e-9).sum(0)
    np.testing.assert_allclose(result.data["p_corrected"], (1 + beyond) / (1 + n))
    assert result.table["p_corrected"].iloc[0] < 0.05


def test_maps_of_subjects_are_tested_by_flips():
    subjects = {f"s{i}": brain(seed=i, strength=0.7) for i in range(7)}
    subjects["s1"] = subjects["s1"][:, 1:]  # a voxel that one subject lacks
    result = searchlight_maps(models(), subjects, radius=RADIUS, seed=1, progress=False)
    assert result.data.sizes["unit"] == 47
    assert "47 units that all subjects have, of up to 48" in result.warnings[0]
    values = torch.from_numpy(result.data["score"].sel(model="latent").values)
    wanted = cluster_test(values, method="max", alternative="greater", seed=1)
    np.testing.assert_allclose(result.data["p_corrected"].sel(model="latent"), wanted.p)
    np.testing.assert_allclose(result.data["t"].sel(model="latent"), wanted.t)
    clusters = searchlight_maps(models(), subjects, radius=RADIUS, test="mass", progress=False)
    assert (clusters.data["p_corrected"].sel(model="latent") < 0.05).sum() > 5
    table = result.table.set_index("layer")
    assert table.loc["latent", "n_significant"] > 0 == table.loc["chance", "n_significant"]


def test_subjects_side_by_side_in_one_array_are_told_apart():
    parts = [brain(seed=i).assign_coords(subject=("unit", [f"s{i}"] * 48)) for i in range(2)]
    both = xr.concat([_means(part) for part in parts], "unit").transpose("unit", "stimulus")
    found = searchlight_maps(models(), both, radius=RADIUS, progress=False)
    wanted = searchlight_maps(models(), [*map(brain, (0, 1))], radius=RADIUS, progress=False)
    np.testing.assert_allclose(found.data["score"], wanted.data["score"], atol=1e-9)
    assert found.data["subject"].values.tolist() == ["s0", "s1"]


def test_images_files_and_figures(tmp_path):
    result = searchlight_maps(models(), brain(), radius=RADIUS, n_permutations=19, progress=False)
    paths = result.to_nifti(tmp_path / "maps")
    assert [path.name for path in paths] == [
        "latent_score.nii.gz", "latent_1-p.nii.gz", "chance_score.nii.gz", "chance_1-p.nii.gz",
    ]  # fmt: skip
    image = nibabel.load(paths[0])
    np.testing.assert_allclose(image.get_fdata().ravel(), result.mean[0], atol=1e-6)
    np.testing.assert_array_equal(image.affine, np.diag([2.0, 2, 2, 1]))
    result.to_netcdf(tmp_path / "result.nc")
    again = SearchlightResult.from_netcdf(tmp_path / "result.nc")
    np.testing.assert_array_equal(again.data["score"], result.data["score"])
    assert again.table.equals(result.table)
    assert len(result.plot().axes) == 2 * 3 + 1
    assert "2 layers × 48 centers, 1 subject, spearman" in repr(result)


def test_surfaces_go_out_as_gifti(tmp_path):
    y, x = np.mgrid[:5, :6]
    points = np.stack([np.sin(x.ravel()), x.ravel(), y.ravel()], axis=1)
    number = np.arange(30).reshape(5, 6)
    corners = (number[:-1, :-1], number[:-1, 1:], number[1:, :-1])
    mesh = {"left": (points, np.stack([one.ravel() for one in corners], axis=1))}
    rng = np.random.default_rng(0)
    recording = xr.DataArray(
        latents() @ rng.normal(size=(5, 30)) + rng.normal(size=(N, 30)),
        {"stimulus": IDS, "vertex": ("unit", np.arange(30)),
         "hemisphere": ("unit", ["left"] * 30)},
        ("stimulus", "unit"), attrs={"vertices_left": 30},
    )  # fmt: skip
    result = searchlight_maps(models(), recording, rings=2, mesh=mesh, progress=False)
    own = disks(recording, mesh, rings=2)[14]
    wanted = spearmanr(
        pdist(recording.values[:, own], "correlation"), models().values[0][UPPER]
    ).statistic
    assert result.data["score"].values[0, 0, 14] == pytest.approx(wanted, abs=1e-10)
    (path, _) = result.to_gifti(tmp_path)
    np.testing.assert_allclose(nibabel.load(path).darrays[0].data, result.mean[0], atol=1e-6)
    assert len(result.plot(mesh=mesh).axes) == 2 * 2 + 1
    with pytest.raises(DataError, match=r"give the mesh, `plot\(mesh=...\)`"):
        result.plot()


ERRORS = {
    "radius": ({}, DataError, "Give `radius`, in mm"),
    "small": ({"radius": 1.0}, DataError, r"No center has 5 units around it \(at most 1\)"),
    "test": ({"radius": 3, "test": "t"}, UnknownNameError, "tfce"),
    "method": ({"radius": 3, "method": "corr"}, UnknownNameError, "correlation"),
    "side": (
        {"radius": 3, "n_permutations": 9, "alternative": "less"}, DataError, "alternative='less'",
    ),
    "feature": ({"radius": 3, "measure": "linear_cka"}, DataError, "compares features"),
}  # fmt: skip


@pytest.mark.parametrize("case", ERRORS)
def test_errors_say_what_to_do(case):
    options, kind, message = ERRORS[case]
    with pytest.raises(kind, match=message):
        searchlight_maps(models(), brain(), progress=False, **options)


def test_grids_that_differ_are_refused():
    other = brain(seed=1)
    other.attrs["affine"] = np.diag([2.0, 2, 2.5, 1]).ravel().tolist()
    with pytest.raises(DataError, match=r"'subject 2' differs from 'subject 1' in 'affine'"):
        searchlight_maps(models(), [brain(), other], radius=3, progress=False)
