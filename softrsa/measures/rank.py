"""Rank correlations between RSMs: Kendall's tau-a and tau-b, rho-a, and a soft Spearman."""

from __future__ import annotations

import torch
from torch import Tensor

from softrsa._ranks import average_ranks
from softrsa.measures._inversions import net_concordance, tied_pairs
from softrsa.measures.correlation import check_pairs, pearson
from softrsa.transforms import soft_rank

SOFT_STRENGTH = 0.1  # of `soft_spearman`


def kendall_tau_a(x: Tensor, y: Tensor) -> Tensor:
    r"""Kendall's tau-a between two condensed RSMs, where a tie is neither agreement nor not.

    .. math:: \tau_a = \frac{n_\text{concordant} - n_\text{discordant}}{n_\text{pairs}
              (n_\text{pairs} - 1) / 2}

    Parameters
    ----------
    x, y : Tensor, shape (..., n_pairs)
        Pairs of two RSMs in the same order; any unit; leading dimensions broadcast.

    Returns
    -------
    Tensor, shape (...)
        Correlation in [-1, 1], reached only without ties; 0 where ``x`` or ``y`` is constant. NaN
        for fewer than two pairs or where a value is missing.

    Raises
    ------
    DTypeError
        If either tensor is not float32 or float64.
    ShapeError
        If the two do not have the same number of pairs.

    Notes
    -----
    Counted exactly. Each vector is sorted once, whatever it is compared with; each comparison
    takes time in proportion to ``n_pairs ** 1.5``, and memory is bounded. No gradient is passed.
    RSMs that predict ties are not favored by it, as they are by tau-b and Spearman.

    References
    ----------
    Nili et al. (2014), doi:10.1371/journal.pcbi.1003553. ``rsatoolbox.rdm.compare`` "tau-a".

    Examples
    --------
    >>> kendall_tau_a(torch.tensor([1.0, 2.0, 3.0, 3.0]), torch.tensor([1.0, 3.0, 2.0, 4.0]))
    tensor(0.5000)
    """
    check_pairs(x=x, y=y)
    n = x.shape[-1]
    return (net_concordance(x, y) / (n * (n - 1) / 2 or torch.nan)).to(_common_type(x, y))


def kendall_tau_b(x: Tensor, y: Tensor) -> Tensor:
    r"""Kendall's tau-b between two condensed RSMs, which corrects for ties.

    .. math:: \tau_b = \frac{n_\text{concordant} - n_\text{discordant}}
              {\sqrt{(n_0 - n_x)(n_0 - n_y)}}

    with :math:`n_0` pairs of entries in all, :math:`n_x` and :math:`n_y` tied in either RSM.

    Parameters
    ----------
    x, y : Tensor, shape (..., n_pairs)
        Pairs of two RSMs in the same order; any unit; leading dimensions broadcast.

    Returns
    -------
    Tensor, shape (...)
        Correlation in [-1, 1]. NaN where ``x`` or ``y`` is constant or a value is missing
        (`scipy.stats.kendalltau` agrees).

    Raises
    ------
    DTypeError
        If either tensor is not float32 or float64.
    ShapeError
        If the two do not have the same number of pairs.

    Notes
    -----
    Counted exactly, as in `kendall_tau_a`. No gradient is passed.

    References
    ----------
    Kendall (1945), doi:10.1093/biomet/33.3.239. ``rsatoolbox.rdm.compare`` "tau-b", "kendall".

    Examples
    --------
    >>> kendall_tau_b(torch.tensor([1.0, 2.0, 3.0, 3.0]), torch.tensor([1.0, 3.0, 2.0, 4.0]))
    tensor(0.5477)
    """
    check_pairs(x=x, y=y)
    total = x.shape[-1] * (x.shape[-1] - 1) / 2
    untied = ((total - tied_pairs(vectors)).sqrt() for vectors in (x, y))
    x_untied, y_untied = untied
    # each root by itself, as SciPy has it: 1 for a vector with itself
    tau = net_concordance(x, y) / x_untied / y_untied
    return tau.clamp(-1.0, 1.0).to(_common_type(x, y))


def rho_a(x: Tensor, y: Tensor) -> Tensor:
    r"""Spearman correlation expected when ties are broken at random.

    .. math:: \rho_a = \frac{12}{n^3 - n} \sum_i
              \left(r_i(x) - \tfrac{n+1}{2}\right) \left(r_i(y) - \tfrac{n+1}{2}\right)

    with average ranks :math:`r` of :math:`n` pairs.

    Parameters
    ----------
    x, y : Tensor, shape (..., n_pairs)
        Pairs of two RSMs in the same order; any unit; leading dimensions broadcast.

    Returns
    -------
    Tensor, shape (...)
        Correlation in [-1, 1], reached only without ties; 0 where ``x`` or ``y`` is constant. NaN
        for fewer than two pairs or where a value is missing.

    Raises
    ------
    DTypeError
        If either tensor is not float32 or float64.
    ShapeError
        If the two do not have the same number of pairs.

    Notes
    -----
    Without ties it is `spearman`. No gradient is passed.

    References
    ----------
    Schütt et al. (2023), doi:10.7554/eLife.82566. ``rsatoolbox.rdm.compare`` "rho-a".

    Examples
    --------
    >>> rho_a(torch.tensor([1.0, 2.0, 3.0, 3.0]), torch.tensor([1.0, 3.0, 2.0, 4.0]))
    tensor(0.6000)
    """
    check_pairs(x=x, y=y)
    n = x.shape[-1]
    left, right = (average_ranks(ranked.double()) - (n + 1) / 2 for ranked in (x, y))
    product = torch.einsum("...i,...i->...", left, right)
    return (product * 12 / (n**3 - n or torch.nan)).to(_common_type(x, y))


def soft_spearman(x: Tensor, y: Tensor, *, strength: float = SOFT_STRENGTH) -> Tensor:
    """Spearman rank correlation with a gradient: Pearson of soft ranks.

    Parameters
    ----------
    x, y : Tensor, shape (..., n_pairs)
        Pairs of two RSMs in the same order; any unit; leading dimensions broadcast.
    strength : float
        Of `softrsa.transforms.soft_rank`, in the unit of each vector's own spread. Towards 0 the
        result becomes `spearman`; well above 1 it is `pearson`. The default is within .001 of
        Spearman for some hundred normally distributed values, within .02 for clustered ones.

    Returns
    -------
    Tensor, shape (...)
        Correlation in [-1, 1]. NaN where ``x`` or ``y`` is constant or a value is not finite.

    Raises
    ------
    DTypeError
        If either tensor is not float32 or float64.
    ShapeError
        If the two do not have the same number of pairs.
    DataError
        If ``strength`` is not positive and finite.

    Notes
    -----
    Differentiable wherever it is defined; each vector is ranked once, before broadcasting.

    References
    ----------
    Blondel, Teboul, Berthet & Djolonga (2020), arXiv:2002.08871.

    Examples
    --------
    >>> x, y = torch.tensor([1.0, 2.0, 9.0]), torch.tensor([1.0, 3.0, 2.0])
    >>> soft_spearman(x, y, strength=1e-3)
    tensor(0.5000)
    >>> soft_spearman(x, y, strength=100.0) - pearson(x, y) < 1e-6
    tensor(True)
    """
    check_pairs(x=x, y=y)
    return pearson(soft_rank(x, strength=strength), soft_rank(y, strength=strength))


def _common_type(x: Tensor, y: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, y.dtype)
