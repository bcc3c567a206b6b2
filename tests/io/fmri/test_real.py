"""A slice of Haxby et al. (2001) in the layout of OpenfMRI: 12 runs with events."""

import numpy as np
import pytest
from scipy.stats import spearmanr

from softrsa.errors import ShapeError
from softrsa.io import from_nifti
from softrsa.rsm import build_rdms


def split_half(trials, **how):
    """Rank correlation of the RDMs of odd and even runs."""
    odd = trials["run"].values % 2 == 1
    first, second = (build_rdms(trials[own], fold="run", **how) for own in (odd, ~odd))
    second = second.sel(anchor=first["anchor"], neighbor=first["neighbor"])
    upper = np.triu_indices(8, 1)
    return spearmanr(first.values[upper], second.values[upper]).statistic


def test_a_real_slice_has_the_reliability_that_is_known(data_dir):
    folder = data_dir / "haxby2001_slice" / "sub001"
    images = sorted(folder.glob("BOLD/*/bold_1slice.nii.gz"))
    events = sorted(folder.glob("BOLD/*/bold_events.tsv"))
    trials = from_nifti(images, events=events, progress=False)
    assert trials.shape == (96, 530)
    assert trials["run"].values.max() == 12
    plain = split_half(trials, method="mahalanobis", noise=None)
    assert plain == pytest.approx(0.39, abs=0.01)  # of the card: outside value
    assert split_half(trials, method="crossnobis") > plain
    mask = folder / "masks" / "25mm" / "vt.nii.gz"
    with pytest.raises(ShapeError, match=r"6 × 10 × 10 voxels of 25 × 25 × 25 mm.*40 × 20 × 1"):
        from_nifti(images, events=events, mask=mask)
