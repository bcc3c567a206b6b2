"""An RDM that Net2Brain computed and ships, from the features it ships (net2brain78)."""

from __future__ import annotations

import numpy as np
import torch

from softrsa.rsm import similarity_matrix


def test_shipped_rdm_from_shipped_features(data_dir):
    folder = data_dir / "net2brain78"
    features = np.load(folder / "features_resnet18_layer4.1.bn2.npz")["features"]
    shipped = np.load(folder / "case1_rdm_layer4.1.bn2.npz")["arr_0"]
    units = features.reshape(len(features), -1).astype(np.float64)
    z = (units - units.mean(0)) / units.std(0)  # Net2Brain standardizes units over images, ddof 0
    rdm = 1 - similarity_matrix(torch.from_numpy(z), similarity="correlation").numpy()
    np.testing.assert_allclose(rdm, shipped, atol=1e-8, rtol=0)
