"""Shape of representations: normalized Bures similarity and Procrustes, from the nuclear norm."""

from __future__ import annotations

from torch import Tensor

from softrsa._precision import short_type
from softrsa.measures._features import centered, check_features
from softrsa.measures._spectral import angular_score, cross_nuclear_norm


def nbs(x: Tensor, y: Tensor) -> Tensor:
    r"""Measure the normalized Bures similarity of two sets of features.

    With columns centered and :math:`\lVert\cdot\rVert_*` the sum of singular values,

    .. math:: \mathrm{NBS}(X, Y) = \frac{\lVert X^\top Y\rVert_*}
              {\sqrt{\operatorname{tr} XX^\top \,\operatorname{tr} YY^\top}}

    Parameters
    ----------
    x : Tensor, shape (..., n_stimuli, p)
        Responses, float32 or float64, in any unit.
    y : Tensor, shape (..., n_stimuli, q)
        Responses to the same stimuli; leading dimensions broadcast.

    Returns
    -------
    Tensor, shape (...)
        Score in [0, 1]: the cosine of the angle between X and Y after the best rotation. NaN where
        no unit of ``x`` or of ``y`` varies over stimuli.

    Raises
    ------
    DTypeError
        If a tensor is neither float32 nor float64, or they differ.
    ShapeError
        If the two do not have the same stimuli, or fewer than 2.

    Notes
    -----
    Computed in float64 whatever the input, by one symmetric eigendecomposition no larger than the
    smallest of n, p and q; the gradient is the polar factor of X'Y, finite also for repeated or
    zero singular values. Under `torch.autocast` X'Y alone is formed in its type, for float32.

    References
    ----------
    Harvey, Larsen & Williams (2024), arXiv:2311.11436; Cloos et al. (2024), arXiv:2407.07059.

    Examples
    --------
    >>> import torch
    >>> x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0]])
    >>> nbs(x, x @ torch.tensor([[0.0, 2.0], [-2.0, 0.0]]))
    tensor(1.)
    >>> nbs(x, x[:, :1])
    tensor(0.7906)
    """
    check_features(x, y)
    return _nbs(x, y)


def _nbs(x: Tensor, y: Tensor) -> Tensor:
    dtype, short = x.dtype, short_type(x)
    scaled = short is not None  # whose range may be short, too
    x, y = centered(x.double(), scaled=scaled), centered(y.double(), scaled=scaled)
    sizes = x.norm(dim=(-2, -1)) * y.norm(dim=(-2, -1))
    return (cross_nuclear_norm(x, y, short) / sizes).to(dtype)


def angular_procrustes(x: Tensor, y: Tensor) -> Tensor:
    r"""Angle between features after the best rotation, from 0 (right angle) to 1 (none).

    .. math:: 1 - \frac{\arccos \mathrm{NBS}(X, Y)}{\pi / 2}

    It is the angular form of `nbs` and of the Procrustes similarity alike.

    Parameters
    ----------
    x, y : Tensor, shape (..., n_stimuli, p) and (..., n_stimuli, q)
        As for `nbs`.

    Returns
    -------
    Tensor, shape (...)
        Score in [0, 1]; 1 minus it is a metric. NaN where `nbs` is.

    Raises
    ------
    DTypeError, ShapeError
        As `nbs`.

    Notes
    -----
    At a score of 1, where the angle has a kink, the gradient is 0.

    References
    ----------
    Williams, Kunz, Kornblith & Linderman (2021), arXiv:2110.14739.

    Examples
    --------
    >>> import torch
    >>> x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0]])
    >>> angular_procrustes(x, x[:, :1])
    tensor(0.5804)
    """
    check_features(x, y)
    return angular_score(_nbs(x, y))


def procrustes_distance(x: Tensor, y: Tensor, *, scaling: bool = False) -> Tensor:
    r"""Euclidean distance between two sets of features after the best rotation.

    .. math:: \min_Q \lVert XQ - Y\rVert_F
              = \sqrt{\lVert X\rVert_F^2 + \lVert Y\rVert_F^2 - 2\lVert X^\top Y\rVert_*}

    with columns centered; features of fewer units are filled up with zeros.

    Parameters
    ----------
    x, y : Tensor, shape (..., n_stimuli, p) and (..., n_stimuli, q)
        As for `nbs`.
    scaling : bool
        Bring both to a Frobenius norm of 1 first, so that only the shape counts.

    Returns
    -------
    Tensor, shape (...)
        Distance from 0, in the unit of the responses; a metric. With ``scaling`` at most
        :math:`\sqrt 2`, and NaN where no unit varies over stimuli.

    Raises
    ------
    DTypeError, ShapeError
        As `nbs`.

    Notes
    -----
    It is the root of a difference, so below about 1e-8 of the norms it is rounding. At a distance
    of 0, where it has a kink, the gradient is 0.

    References
    ----------
    Williams, Kunz, Kornblith & Linderman (2021), arXiv:2110.14739.

    Examples
    --------
    >>> import torch
    >>> x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0]])
    >>> procrustes_distance(x, 2 * x)
    tensor(2.)
    >>> procrustes_distance(x, x[:, :1], scaling=True)
    tensor(0.6472)
    """
    check_features(x, y)
    dtype = x.dtype
    # in float64: the difference below loses half of the digits
    x, y = centered(x.double()), centered(y.double())
    if scaling:
        x, y = (z / z.norm(dim=(-2, -1), keepdim=True) for z in (x, y))
    squares = x.square().sum((-2, -1)) + y.square().sum((-2, -1))
    square = squares - 2 * cross_nuclear_norm(x, y)
    apart = square > 0
    distance = square.where(apart | square.isnan(), 1.0).sqrt()
    return distance.where(apart | square.isnan(), 0.0).to(dtype)
