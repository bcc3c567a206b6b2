"""torch.compile takes steps and measures whole, without a break in the graph."""

import shutil

import pytest
import torch
from torch.backends.cpu import get_cpu_capability

from softrsa.measures import centered_pearson
from softrsa.transforms import soft_step, soft_step_s2


def first_family(s, lower, upper, transition):
    return centered_pearson(soft_step(s, lower, upper, transition), s)


def second_family(s, lower, upper, transition):
    del lower
    return centered_pearson(soft_step_s2(s, upper, transition), s)


# Told to do without vectors, torch 2.13 writes C++ with them all the same, and it does not compile.
BACKEND = "aot_eager" if get_cpu_capability() == "DEFAULT" else "inductor"


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")  # torch's own
@pytest.mark.parametrize("score", [first_family, second_family])
def test_compiled_in_one_piece_with_the_same_gradients(score, rng):
    s = torch.rand(30, 30, generator=rng, dtype=torch.float64)
    parameters = [
        torch.full((30, 1), value, dtype=torch.float64, requires_grad=True)
        for value in (0.1, 0.9, 0.7)
    ]
    used = parameters if score is first_family else parameters[1:]
    compiled = torch.compile(score, fullgraph=True, backend=BACKEND)
    results = []
    for function in (score, compiled):
        value = function(s, *parameters)
        results.append((value.detach(), *torch.autograd.grad(value, used)))
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)
