"""On simulated data the truth is known: the right layer, and the warp between it and the region."""

from __future__ import annotations

import pytest
import torch
import xarray as xr

import softrsa
from softrsa import datasets
from softrsa.alignment import stimulus_folds
from softrsa.measures import centered_pearson
from softrsa.rsm import build_rsms, scale_similarities, similarity_matrix
from softrsa.transforms import soft_step

MATCHES = {"early": "layer1", "middle": "layer2", "late": "layer4"}
FIXED = ["identity", "centered", "geo_topological"]
# wrong layers have gains that are no geometry
pytestmark = pytest.mark.filterwarnings("ignore::softrsa.alignment.StimulusScaleWarning")


@pytest.fixture(scope="module")
def simulated():
    return datasets.load("simulated", progress=False)


@pytest.fixture(scope="module")
def table(simulated):
    result = softrsa.align(simulated.layers, simulated.regions, seed=0)
    return result.table.set_index(["region", "layer", "transform"])["score"].sort_index()


def score_with_true_warp(simulated, region):
    """Mean held-out score over the folds of `table` when the layer is warped as it was made."""
    units = simulated.layers["layer"] == MATCHES[region]
    layer = torch.from_numpy(simulated.layers.values[:, units.values]).double()
    scaled = scale_similarities(similarity_matrix(layer), "affine")
    with xr.open_dataarray(datasets.fetch("simulated")["warp.nc"]) as file:
        warp = torch.from_numpy(file.sel(region=region).values)
    stepped = soft_step(scaled, *(p.unsqueeze(-1) for p in warp))
    truth = (stepped + stepped.mT) / 2
    rsms = build_rsms(simulated.regions[region].astype("float64"), by="subject").values
    brain = torch.from_numpy(rsms)
    scores = [
        centered_pearson(truth[test][:, test], brain[:, test][:, :, test]).mean()
        for _, test in stimulus_folds(60, 5, seed=0)
    ]
    return float(torch.stack(scores).mean())


@pytest.mark.slow
@pytest.mark.parametrize("region", MATCHES)
def test_learned_warp_nearly_reaches_the_true_one(simulated, table, region):
    scores = table[region, MATCHES[region]]
    true = score_with_true_warp(simulated, region)
    assert scores["instance"] >= 0.97 * true
    assert scores[FIXED].max() < scores["instance"] - 0.03
    assert scores["global"] < scores["instance"] - 0.03


@pytest.mark.slow
@pytest.mark.parametrize("transform", ["instance", "selected", "identity"])
@pytest.mark.parametrize("region", MATCHES)
def test_right_layer_wins(table, region, transform):
    scores = table[region].xs(transform, level="transform")
    assert scores.idxmax() == MATCHES[region]
