"""Cluster-based permutation tests: sign flips over subjects, at all positions at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from softrsa._checks import check_count, check_floating
from softrsa._groups import as_groups
from softrsa._wording import counted
from softrsa.errors import DataError, ShapeError, unknown_name
from softrsa.inference.adjacency import Neighbors, links, threshold_free

Alternative = Literal["two-sided", "greater", "less"]
Method = Literal["mass", "tfce", "max"]
ALTERNATIVES = ("two-sided", "greater", "less")
METHODS = ("mass", "tfce", "max")
LEVEL = 0.05
STEP = 0.2  # of heights of threshold-free cluster enhancement, in t
ROUNDING = 1e-10  # what differs by less than this share differs by rounding only
CHUNK = 2**18  # entries of t maps that are held at a time


@dataclass(frozen=True)
class ClusterTest:
    """Where the mean over subjects differs from 0: `cluster_test`.

    Attributes
    ----------
    t : Tensor, shape (...positions)
        Student's t of one sample. NaN where values are missing, or the same for all subjects.
    enhanced : Tensor, shape (...positions)
        What is compared with the flips, with the sign of ``t``: the mass of a position's cluster
        (0 outside of clusters), its threshold-free cluster enhancement, or its t.
    p : Tensor, shape (...positions)
        Corrected over all positions. For "mass" that of a position's cluster, 1 outside.
    p_uncorrected : Tensor, shape (...positions)
        Of each position by itself, from the same flips.
    labels : Tensor of int64, shape (...positions)
        The cluster each position is in, from 1, and 0 outside; 0 throughout unless for "mass".
    mass : Tensor, shape (n_clusters,)
        Sum of t over each cluster.
    cluster_p : Tensor, shape (n_clusters,)
        Of each cluster, corrected.
    null : Tensor, shape (n_flips,)
        Most extreme value over positions in each flip; the first is that of the data themselves.
    threshold : float
        Of t, beyond which positions form clusters; NaN unless for "mass".
    exact : bool
        Whether all flips that differ were counted.
    """

    t: Tensor
    enhanced: Tensor
    p: Tensor
    p_uncorrected: Tensor
    labels: Tensor
    mass: Tensor
    cluster_p: Tensor
    null: Tensor
    threshold: float
    exact: bool

    @property
    def masks(self) -> Tensor:
        """Positions of each cluster, of bool: (n_clusters, ...positions)."""
        number = torch.arange(1, len(self.mass) + 1, device=self.labels.device)
        return self.labels == number.view(-1, *[1] * self.labels.ndim)


def cluster_test(
    values: Tensor,
    *,
    adjacency: Any = None,
    method: Method = "mass",
    threshold: float | None = None,
    alternative: Alternative = "two-sided",
    n_flips: int = 1000,
    step: float = STEP,
    seed: int = 0,
    progress: bool = False,
    subject_groups: Sequence[object] | None = None,
) -> ClusterTest:
    r"""Test the mean over subjects against 0 at all positions, corrected by flips of signs.

    The values of a subject change sign together, at all positions. In each flip the t of all
    positions are formed, and the most extreme cluster mass, enhancement or t is kept:

    .. math:: p = \frac{\#\{\text{flips, the data among them, with a maximum} \ge
        \text{observed}\}}{\#\{\text{flips}\}}

    Parameters
    ----------
    values : Tensor, shape (n_subjects, ...positions)
        What should be 0 under the null hypothesis: scores less chance, or differences of scores.
        A position that is NaN in all subjects is left out, and NaN in the result.
    adjacency : Tensor, array or SciPy sparse array, shape (k, k), optional
        Which of the k entries of the last dimension are neighbors: symmetric, not 0 where they are.
        By default the last dimension is a line, such as times. All dimensions before it are lines
        too: positions one step apart in one dimension are neighbors.
    method : {"mass", "tfce", "max"}
        Clusters of neighbors with t beyond the threshold, by the sum of their t; threshold-free
        cluster enhancement; or t itself, without neighbors.
    threshold : float, optional
        For "mass", in t, positive; that of an uncorrected p of .05 by default.
    alternative : {"two-sided", "greater", "less"}
        How the mean differs from 0. Two-sided, clusters are of one sign.
    n_flips : int
        Random flips. Where there are no more that differ (:math:`2^{n}`; two-sided half of them, as
        all signs turned change nothing), all are taken once, and p is exact.
    step : float
        Between the heights that "tfce" sums over, in t.
    seed : int
        Of the flips.
    progress : bool
        Show a progress bar where it takes longer than two seconds.
    subject_groups : sequence, optional
        The group of each subject, such as a family or site. The subjects of a group are averaged
        first, and groups change sign; t and p are of groups, which count alike.

    Returns
    -------
    ClusterTest
        In the number type and on the device of ``values``.

    Raises
    ------
    DTypeError
        If values are not float32 or float64.
    ShapeError
        If there is no dimension of positions, the adjacency has another size than the last one, or
        there is not a label of a group for each subject.
    DataError
        If there is one subject; values are infinite, or NaN in some subjects only, or all NaN; the
        adjacency is not symmetric; threshold or step are not positive; ``n_flips`` is below 1; or a
        group is missing, or there is but one.
    UnknownNameError
        If there is no such method or alternative.

    Notes
    -----
    Exact where the values of each subject are symmetric about 0 under the null hypothesis, whatever
    else their distribution. p is at least 1 over the number of flips. A cluster that passes says
    that there is an effect, not at which of its positions, nor when it begins.

    Enhancement at a position is :math:`\sum_h e(h)^{1/2} h^2 \Delta h` over the heights below its t
    that are multiples of the step, with e the size of its cluster at that height.

    References
    ----------
    Maris & Oostenveld (2007), doi:10.1016/j.jneumeth.2007.03.024; Smith & Nichols (2009),
    doi:10.1016/j.neuroimage.2008.03.061; Nichols & Holmes (2002), doi:10.1002/hbm.1058.

    Examples
    --------
    >>> rng = torch.Generator().manual_seed(0)
    >>> values = torch.randn(8, 50, generator=rng)
    >>> values[:, 20:30] += 2  # an effect at times 20 to 29
    >>> found = cluster_test(values)
    >>> [round(float(p), 3) for p in found.cluster_p if p < 0.05]
    [0.008]
    >>> int((found.p < 0.05).sum()), found.exact
    (10, True)
    """
    _check_choices(method, alternative, n_flips, step)
    check_floating(values=values)
    x, shape = _checked(values)
    if subject_groups is not None:
        x = _means_of_groups(x, subject_groups)
    line = Neighbors(links(adjacency, shape[-1]))
    n = len(x)
    level = _threshold(threshold, n, alternative) if method == "mass" else float("nan")
    signs, exact = _signs(n, n_flips, alternative == "two-sided", seed)
    side = -1.0 if alternative == "less" else 1.0
    form = _Form(method, level, step, alternative == "two-sided", line)
    maps = _maps(side * x, signs.to(x))
    bar = tqdm(total=len(signs), desc="flipping signs", unit="flip", delay=2, disable=not progress)
    with bar:
        return _counted(maps, form, values, exact=exact, side=side, n=len(signs), bar=bar)


class _Form(NamedTuple):
    """What is made of t maps."""

    method: str
    threshold: float
    step: float
    two_sided: bool
    neighbors: Neighbors

    def size(self, t: Tensor) -> Tensor:
        """How far t is from 0, on the side that counts."""
        return t.abs() if self.two_sided else t

    def enhance(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Give the largest size in each map (r,), and what is compared and clusters of the first.

        Clusters are numbered from 0, -1 is outside.
        """
        t = t.cpu()
        outside = torch.full(t.shape[1:], -1)
        if self.method == "mass":
            return self._masses(t, outside)
        t = t.nan_to_num(nan=0.0, posinf=torch.inf, neginf=-torch.inf)
        t = t if self.two_sided else t.clamp_min(0.0)
        found = t if self.method == "max" else threshold_free(t, self.step, self.neighbors)
        return found.abs().flatten(1).amax(1), found[0], outside

    def _masses(self, t: Tensor, outside: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        beyond = (t > self.threshold).to(torch.int8)
        if self.two_sided:
            beyond -= (t < -self.threshold).to(torch.int8)
        nodes, labels, n = self.neighbors.components(beyond)
        masses = t.new_zeros(n).index_add_(0, labels, t.view(-1)[nodes])
        flip = nodes.div(outside.numel(), rounding_mode="floor")
        largest = t.new_zeros(len(t)).scatter_reduce_(0, flip, masses[labels].abs(), "amax")
        first = flip == 0
        enhanced = torch.zeros_like(t[0])
        outside.view(-1)[nodes[first]] = labels[first]
        enhanced.view(-1)[nodes[first]] = masses[labels[first]]
        return largest, enhanced, outside


def _counted(
    maps: Iterator[Tensor],
    form: _Form,
    values: Tensor,
    *,
    exact: bool,
    side: float,
    n: int,
    bar: tqdm,
) -> ClusterTest:
    """Compare the first of the t maps with all."""
    t = enhanced = labels = reach = torch.empty(0)
    null, alone = [], torch.zeros(())
    for flat in maps:
        part = flat.view(-1, *values.shape[1:])
        largest, found, own = form.enhance(part)
        if not null:
            t, enhanced, labels = part[0], found.to(part), own
            reach = form.size(t) - ROUNDING * t.abs()
        alone = alone + (form.size(part) >= reach).sum(0)
        null.append(largest)
        bar.update(len(part))
    most = torch.cat(null).to(enhanced)
    ascending = most.sort().values
    defined, unknown = ~t.isnan(), t.new_full((), torch.nan)

    def p_of(extreme: Tensor) -> Tensor:
        least = extreme.abs() * (1 - ROUNDING)  # a tie stays one whatever the order of sums
        return (n - torch.searchsorted(ascending, least.contiguous())) / n

    labels, mass = _numbered(labels, enhanced.cpu())
    like = {"device": values.device, "dtype": values.dtype}
    return ClusterTest(
        t=(side * t).to(**like),
        enhanced=torch.where(defined, side * enhanced, unknown).to(**like),
        p=torch.where(defined, p_of(enhanced), unknown).to(**like),
        p_uncorrected=torch.where(defined, alone / n, unknown).to(**like),
        labels=labels.to(values.device),
        mass=(side * mass).to(**like),
        cluster_p=p_of(mass.to(most)).to(**like),
        null=(side * most if not form.two_sided else most).to(**like),
        threshold=side * form.threshold,
        exact=exact,
    )


def _numbered(labels: Tensor, enhanced: Tensor) -> tuple[Tensor, Tensor]:
    """Count the clusters of one map from 1 on, by their first position, and give their masses."""
    inside = (labels >= 0).view(-1).nonzero().flatten()
    names, places = labels.view(-1)[inside].unique(return_inverse=True)
    first = torch.full((len(names),), labels.numel()).scatter_reduce_(0, places, inside, "amin")
    numbered = torch.zeros_like(labels)
    numbered.view(-1)[inside] = first.argsort().argsort()[places] + 1
    return numbered, enhanced.reshape(-1)[first.sort().values]


def _maps(x: Tensor, signs: Tensor) -> Iterator[Tensor]:
    """Yield maps of t (chunk, positions) of flips; the first row is of the data themselves."""
    n = len(x)
    mean, spread = x.mean(0), x.std(0)
    known = spread > ROUNDING * x.abs().amax(0)  # false of NaN
    t = torch.where(known, mean / spread * n**0.5, torch.nan)
    clean = torch.where(known, x, 1.0)
    squares = n * clean.square().sum(0)  # which no flip changes
    clean = clean * (n - 1) ** 0.5
    for i, some in enumerate(signs.split(max(1, CHUNK // x.shape[1]))):
        sums = some @ clean
        rest = torch.addcmul(squares, sums, sums, value=-1 / (n - 1)).clamp_min_(0.0)
        part = sums.mul_(rest.rsqrt_())
        part[:, ~known] = torch.nan
        if i == 0:
            part[0] = t
        yield part


def _signs(n: int, n_flips: int, two_sided: bool, seed: int) -> tuple[Tensor, bool]:
    """Signs (r, n), the first all plus: all that differ, or the data's and random ones."""
    free = n - 1 if two_sided else n
    if 2**free <= n_flips:
        bits = torch.arange(2**free)[:, None] >> torch.arange(free)
        flipped = torch.nn.functional.pad(bits & 1, (0, n - free))
        return 1 - 2 * flipped, True
    rng = torch.Generator().manual_seed(seed)
    flipped = torch.randint(2, (n_flips, n), generator=rng)
    return torch.cat([torch.ones(1, n, dtype=torch.int64), 1 - 2 * flipped]), False


def _check_choices(method: str, alternative: str, n_flips: int, step: float) -> None:
    if method not in METHODS:
        raise unknown_name("method", method, METHODS)
    if alternative not in ALTERNATIVES:
        raise unknown_name("alternative", alternative, ALTERNATIVES)
    check_count("n_flips", n_flips, 1)
    if not step > 0:
        raise DataError(f"`step` must be positive, in units of t, got {step!r}, e.g. {STEP}.")


def _checked(values: Tensor) -> tuple[Tensor, tuple[int, ...]]:
    """Values (n_subjects, n_positions) in float64, and the shape of positions."""
    shape = tuple(values.shape[1:])
    if not shape or 0 in shape:
        raise ShapeError(
            "`values` must be (n_subjects, ...positions), with at least one position, got shape "
            f"{tuple(values.shape)}."
        )
    if len(values) < 2:
        raise DataError(
            f"A test over subjects needs at least 2 of them, got {len(values)}: with one subject "
            "nothing is known about others."
        )
    x = values.detach().double().flatten(1)
    if bool(x.isinf().any()):
        raise DataError(f"`values` must be finite, {int(x.isinf().sum())} are infinite.")
    missing = x.isnan()
    some = missing.any(0) & ~missing.all(0)
    if bool(some.any()):
        first = int(some.nonzero()[0])
        who = missing[:, first].nonzero().flatten().tolist()
        place = tuple(int(i) for i in np.unravel_index(first, shape))
        raise DataError(
            f"{counted(int(some.sum()), 'position')} of {len(some)} are NaN in some subjects but "
            f"not in all, such as {place} in the subjects {who[:5]}. Leave these subjects out, or "
            "make the positions NaN in all to leave them out."
        )
    if bool(missing.all()):
        raise DataError("`values` are all NaN: there is no position to test.")
    return x, shape


def _means_of_groups(x: Tensor, labels: Sequence[object]) -> Tensor:
    """Means (n_groups, n_positions) of subjects (n_subjects, n_positions) of one group."""
    groups = as_groups(labels, len(x), "subject_groups", "subject")
    return torch.from_numpy(groups.means(x.T.cpu().numpy()).T).to(x)


def _threshold(threshold: float | None, n: int, alternative: str) -> float:
    """Threshold of t that forms clusters."""
    if threshold is None:
        from scipy.stats import t

        return float(t.isf(LEVEL / 2 if alternative == "two-sided" else LEVEL, n - 1))
    if not 0 < threshold < float("inf"):
        raise DataError(
            f"`threshold` must be a positive t, got {threshold!r}: at 0 or below, all positions "
            "would be one cluster. For alternative='less' it is the size of a negative t."
        )
    return float(threshold)
