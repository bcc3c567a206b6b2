"""Neighbors in mm and along surfaces, against distances by hand."""

import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import cdist

from softrsa.errors import DataError, ShapeError
from softrsa.rsm import disks, spheres, touching

FLAT = (4, 5)  # vertices of a grid of triangles


def voxels(indices, size=(2.0, 3.0, 3.0)):
    indices = np.asarray(indices)
    coords = {axis: ("unit", size[i] * indices[:, i]) for i, axis in enumerate("xyz")}
    coords |= {axis: ("unit", indices[:, i]) for i, axis in enumerate("ijk")}
    return xr.DataArray(np.zeros((2, len(indices))), coords, ("stimulus", "unit"))


def sheet():
    """A flat grid, two triangles to a square, sides of 1 mm."""
    y, x = np.mgrid[: FLAT[0], : FLAT[1]]
    points = np.stack([x.ravel(), y.ravel(), 0 * x.ravel()], axis=1).astype(float)
    number = np.arange(len(points)).reshape(FLAT)
    a, b, c, d = number[:-1, :-1], number[:-1, 1:], number[1:, :-1], number[1:, 1:]
    faces = [np.stack([one.ravel() for one in three], axis=1) for three in ((a, b, c), (b, d, c))]
    return points, np.concatenate(faces)


def vertices(own, hemisphere=None):
    coords = {"vertex": ("unit", np.asarray(own))}
    if hemisphere is not None:
        coords["hemisphere"] = ("unit", hemisphere)
    return xr.DataArray(np.zeros((2, len(own))), coords, ("stimulus", "unit"))


@given(st.integers(0, 1000), st.sampled_from([2.0, 3.0, 3.7, 6.0]))
def test_spheres_are_all_within_the_radius(seed, radius):
    units = voxels(np.random.default_rng(seed).permutation(60)[:25, None] // [12, 4, 1] % [5, 3, 4])
    places = np.stack([units[axis].values for axis in "xyz"], axis=1)
    near = cdist(places, places) <= radius + 1e-6
    found = spheres(units, radius)
    assert [own.tolist() for own in found] == [np.flatnonzero(row).tolist() for row in near]


def test_voxels_touch_at_faces_only():
    units = voxels([[0, 0, 0], [1, 0, 0], [1, 1, 0], [3, 0, 0]])
    wanted = np.zeros((4, 4), bool)
    for i, j in ((0, 1), (1, 2)):
        wanted[i, j] = wanted[j, i] = True
    np.testing.assert_array_equal(touching(units).toarray(), wanted)


def test_disks_follow_edges_and_leave_out_what_is_no_unit():
    own = [0, 1, 2, 5, 6, 19]
    ring = disks(vertices(own), sheet(), rings=1)
    assert ring[1].tolist() == [0, 1, 2, 3, 4]  # 0, 2, 5 and 6 share an edge with 1
    assert ring[5].tolist() == [5]
    two = disks(vertices(own), sheet(), rings=2)
    assert two[0].tolist() == [0, 1, 2, 3, 4]
    near = disks(vertices(own), sheet(), radius=1.0)
    assert near[0].tolist() == [0, 1, 3]
    far = disks(vertices(own), sheet(), radius=1 + 2**0.5)
    assert far[0].tolist() == [0, 1, 2, 3, 4]


def test_hemispheres_do_not_meet():
    units = vertices([0, 1, 0, 1], ["left", "left", "right", "right"])
    mesh = {"left": sheet(), "right": sheet()}
    assert [own.tolist() for own in disks(units, mesh, rings=3)] == [[0, 1], [0, 1], [2, 3], [2, 3]]
    assert touching(units, mesh).toarray().astype(int).tolist() == [
        [0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1], [0, 0, 1, 0],
    ]  # fmt: skip
    with pytest.raises(DataError, match="Units are of 'left', 'right': give a mesh for each"):
        disks(units, sheet(), rings=1)
    with pytest.raises(DataError, match="no mesh for 'right'; there are 'left'"):
        disks(units, {"left": sheet()}, rings=1)


def test_what_cannot_be_is_refused():
    units = vertices([0, 1])
    with pytest.raises(DataError, match="radius=None, rings=None"):
        disks(units, sheet())
    with pytest.raises(DataError, match="run to 20, and the mesh '' has 20 vertices"):
        disks(vertices([20]), sheet(), rings=1)
    with pytest.raises(DataError, match="more than once"):
        disks(vertices([1, 1]), sheet(), rings=1)
    with pytest.raises(ShapeError, match=r"got \(20, 2\) and"):
        disks(units, (sheet()[0][:, :2], sheet()[1]), rings=1)
    with pytest.raises(DataError, match="'x', 'y', 'z' on `unit` are missing"):
        spheres(units, 1.0)
    with pytest.raises(DataError, match="positive number, got 0"):
        spheres(voxels([[0, 0, 0]]), 0)
    with pytest.raises(DataError, match="no 'i', 'j', 'k'"):
        touching(units)
