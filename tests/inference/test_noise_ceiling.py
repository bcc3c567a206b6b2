"""Noise ceilings against rsatoolbox, a NumPy loop and the published Algonauts numbers."""

import h5py
import numpy as np
import pytest
import torch
import xarray as xr
from rsatoolbox.inference.noise_ceiling import boot_noise_ceiling
from rsatoolbox.rdm import RDMs
from scipy.stats import rankdata

from softrsa.errors import DataError, DTypeError, ShapeError, UnknownNameError
from softrsa.inference import evaluate, noise_ceiling
from softrsa.measures import Measure, available, get
from softrsa.pairs import condense
from softrsa.transforms import double_center


def rdms(rng, *lead, n=8, dtype=torch.float64):
    common = torch.rand(n, n, dtype=dtype, generator=rng)
    stack = common + 0.7 * torch.rand(*lead, n, n, dtype=dtype, generator=rng)
    return stack + stack.mT


@pytest.mark.parametrize(
    ("measure", "method"),
    [
        ("pearson", "corr"),
        ("cosine", "cosine"),
        ("spearman", "spearman"),
        ("rho_a", "rho-a"),
        ("kendall_tau_a", "tau-a"),
        ("kendall_tau_b", "tau-b"),
        ("whitened_pearson", "corr_cov"),
        ("whitened_cosine", "cosine_cov"),
    ],
)
@pytest.mark.filterwarnings("ignore:Noise ceiling for tau based on averaged ranks")
def test_rsatoolbox(measure, method, rng):
    stack = condense(rdms(rng, 5))
    expected = boot_noise_ceiling(RDMs(stack.numpy().copy()), method)
    for given in (stack, torch.stack([torch.from_numpy(m) for m in RDMs(stack).get_matrices()])):
        found = noise_ceiling(given, measure)
        assert found.lower.shape == found.upper.shape == (5,)
        np.testing.assert_allclose([x.mean() for x in found], expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("pool", ["normalized", "raw"])
def test_centered_pearson_by_a_loop(pool, rng):
    stack = rdms(rng, 4)
    centered = [double_center(one).numpy() for one in stack]
    if pool == "normalized":
        centered = [one / np.linalg.norm(one) for one in centered]
    lower, upper = noise_ceiling(stack, "centered_pearson", pool=pool)
    for i, one in enumerate(centered):
        others = np.mean(centered[:i] + centered[i + 1 :], axis=0)
        everyone = np.mean(centered, axis=0)
        for found, mean in ((lower[i], others), (upper[i], everyone)):
            expected = np.corrcoef(double_center(torch.from_numpy(one)).flatten(), mean.ravel())
            assert found.item() == pytest.approx(expected[0, 1], abs=1e-12)


def test_spearman_pools_ranks(rng):
    stack = condense(rdms(rng, 4))
    ranks = np.stack([rankdata(one) for one in stack])
    upper = noise_ceiling(stack, "spearman").upper
    for i in range(4):
        expected = np.corrcoef(ranks[i], rankdata(ranks.mean(0)))[0, 1]
        assert upper[i].item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("name", "region", "lower", "upper"),
    [
        ("92", "IT", ".2264", ".3075"),
        ("92", "EVC", ".0686", ".1589"),
        ("78_T1", "EVC", ".0068", ".0640"),
        ("78_T1", "IT", ".0028", ".0647"),
    ],
)
def test_algonauts_to_the_printed_digits(data_dir, name, region, lower, upper):
    """Mean over the 15 subjects of the squared Spearman correlation, raw mean RDM."""
    with h5py.File(data_dir / "algonauts2019" / f"{name}_target_fmri.mat") as file:
        stack = torch.from_numpy(np.asarray(file[f"{region}_RDMs"]).transpose()).double()
    assert stack.shape[0] == 15
    found = noise_ceiling(condense(stack), "spearman", pool="raw")
    squared = [f"{ceiling.square().mean():.4f}"[1:] for ceiling in found]
    assert squared == [lower, upper]


ON_RSMS = [name for name, entry in available().items() if entry.takes != "features"]


@pytest.mark.parametrize("measure", ON_RSMS)
class TestEveryMeasure:
    def test_batch_equals_loop(self, measure, rng):
        stack = rdms(rng, 2, 3, 4)
        before = stack.clone()
        found = noise_ceiling(stack, measure)
        for i in range(2):
            for j in range(3):
                one = noise_ceiling(stack[i, j], measure)
                for batched, single in zip(found, one, strict=True):
                    torch.testing.assert_close(batched[i, j], single, rtol=0, atol=1e-13)
        assert torch.equal(stack, before)

    def test_upper_is_not_below_lower_and_all_agree_when_equal(self, measure, rng):
        lower, upper = noise_ceiling(rdms(rng, 30, 5), measure)
        assert (upper.mean(-1) >= lower.mean(-1)).all()
        same = noise_ceiling(rdms(rng, 1).expand(4, 8, 8), measure)
        # the soft rank of a soft rank is not quite itself
        tolerance = 1e-4 if measure == "soft_spearman" else 1e-12
        for ceiling in same:
            torch.testing.assert_close(ceiling, torch.ones(4).double(), rtol=0, atol=tolerance)

    def test_one_subject_has_no_ceiling(self, measure, rng):
        found = noise_ceiling(rdms(rng, 3, 1), measure)
        for ceiling in found:
            assert ceiling.shape == (3, 1)
            assert ceiling.isnan().all()

    def test_entry_and_function_are_as_good_as_the_name(self, measure, rng):
        stack = rdms(rng, 3, dtype=torch.float32)
        expected = noise_ceiling(stack, measure)
        for given in (get(measure), get(measure).function):
            for found, same in zip(noise_ceiling(stack, given), expected, strict=True):
                assert torch.equal(found, same)
                assert found.dtype == torch.float32

    def test_asymmetric_matrices_count_with_all_entries(self, measure, rng):
        stack = rdms(rng, 3)
        half = stack + torch.rand(3, 8, 8, dtype=torch.float64, generator=rng).triu(1)
        other = noise_ceiling(half.mT, measure)
        kept = get(measure).invariances
        of_rows = "row_scale" in kept or ("row_offset" in kept and "column_offset" not in kept)
        for found, same in zip(noise_ceiling(half, measure), other, strict=True):
            assert torch.allclose(found, same, rtol=0, atol=1e-12) != of_rows
        below = half.tril() + half.tril(-1).mT
        changed = noise_ceiling(half, measure).upper - noise_ceiling(below, measure).upper
        assert changed.abs().max() > 1e-6


NEED_ALL = [name for name in ON_RSMS if get(name).on_squares and get(name).embed is None]


@pytest.mark.parametrize("measure", NEED_ALL)
def test_a_missing_pair_is_refused_where_all_are_needed(measure, rng):
    stack = rdms(rng, 4)
    stack[0, 2, 5] = stack[0, 5, 2] = torch.nan
    with pytest.raises(DataError, match=rf"1 pairs are missing \(NaN\), and '{measure}' needs all"):
        noise_ceiling(stack, measure)
    with pytest.raises(DataError, match=rf"'{measure}' needs all of them"):
        evaluate(stack[:1], stack, measure)


@pytest.mark.parametrize("measure", [name for name in ON_RSMS if name not in NEED_ALL])
def test_a_missing_pair_is_left_out_of_all_as_in_evaluate(measure, rng):
    stack = rdms(rng, 2, 4)
    stack[0, 1, 2, 5] = stack[0, 1, 5, 2] = torch.nan
    stack[1, 0, 0, 1] = stack[1, 0, 1, 0] = torch.nan
    gone = torch.cat([stack, torch.full_like(stack[:1], torch.nan)])
    found = noise_ceiling(gone, measure)
    for ceiling in found:
        assert ceiling.shape == (3, 4)
        assert ceiling[:2].isfinite().all()
        assert ceiling[2].isnan().all()
    for i, one in enumerate(stack):
        expected = evaluate(one[:1], one, measure).data["ceiling"].values
        for ceiling, same in zip(found, expected, strict=True):
            np.testing.assert_allclose(ceiling[i], same, rtol=0, atol=1e-12)
    alone = noise_ceiling(stack[0].float(), measure).lower
    assert alone.dtype == torch.float32
    with pytest.raises(DataError, match=r"takes no missing pairs, and 4 entries are NaN"):
        noise_ceiling(stack, measure, pool="raw")


def test_a_missing_pair_is_as_if_it_were_not_there(rng):
    stack = condense(rdms(rng, 4))
    kept = [i for i in range(28) if i != 9]
    expected = noise_ceiling(stack[:, kept], "spearman")
    stack[2, 9] = torch.nan
    for found, same in zip(noise_ceiling(stack, "spearman"), expected, strict=True):
        torch.testing.assert_close(found, same, rtol=0, atol=1e-12)
    stack[3, 2:] = torch.nan
    with pytest.raises(DataError, match=r"fewer than 3 are left\. 'subject 4' misses most \(93%\)"):
        noise_ceiling(stack, "spearman")


def test_labelled_stacks(rng):
    stack = rdms(rng, 2, 4)
    stack = stack * (1 - torch.eye(8))
    ids = [f"image {i}" for i in range(8)]
    labelled = xr.DataArray(
        stack.numpy(),
        dims=("region", "subject", "anchor", "neighbor"),
        coords={"region": ["V4", "IT"], "anchor": ids, "neighbor": ids},
    )
    for found, same in zip(
        noise_ceiling(labelled, "pearson"), noise_ceiling(stack, "pearson"), strict=True
    ):
        assert torch.equal(found, same)


def test_a_measure_of_ones_own_pools_raw_rsms(rng):
    def agreement(a, b):
        return 1 - (a - b).abs().mean(-1)

    mine = Measure(function=agreement, takes="vectors", range=(0, 1), smallest_n=2, reference="")
    stack = condense(rdms(rng, 3))
    with pytest.raises(DataError, match=r"'agreement' does not say how .* pool='raw'"):
        noise_ceiling(stack, mine)
    others = [stack[[1, 2]], stack[[0, 2]], stack[[0, 1]]]
    expected = [agreement(own, rest.mean(0)) for own, rest in zip(stack, others, strict=True)]
    lower = noise_ceiling(stack, mine, pool="raw").lower
    torch.testing.assert_close(lower, torch.stack(expected))
    with pytest.raises(DataError, match="'linear_cka' compares features"):
        noise_ceiling(rdms(rng, 3), "linear_cka")


def test_wrong_arguments_are_named(rng):
    stack = rdms(rng, 3)
    with pytest.raises(UnknownNameError, match=r"measure 'pearsn'\. Did you mean 'pearson'"):
        noise_ceiling(stack, "pearsn")
    with pytest.raises(UnknownNameError, match=r"Unknown measure .dot."):
        noise_ceiling(stack, torch.dot)
    with pytest.raises(UnknownNameError, match=r"pooling 'ranked'.*Known: normalized, raw"):
        noise_ceiling(stack, "pearson", pool="ranked")
    with pytest.raises(ShapeError, match=r"'pearson' takes vectors; got shape \(28,\)"):
        noise_ceiling(condense(stack)[0], "pearson")
    with pytest.raises(ShapeError, match=r"'centered_pearson' takes matrices; got shape \(8, 8\)"):
        noise_ceiling(stack[0], "centered_pearson")
    with pytest.raises(ShapeError, match=r"square.*got \(2, 3, 28\)"):
        noise_ceiling(condense(stack).expand(2, 3, 28), "centered_pearson")
    with pytest.raises(DTypeError, match=r"`rsms` must be .* got torch\.float16"):
        noise_ceiling(stack.half(), "pearson")
