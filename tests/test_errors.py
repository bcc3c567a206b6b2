"""Every error is caught as a SoftRSAError and as a builtin."""

import builtins

import pytest

from softrsa import errors
from softrsa._checks import resolve_device
from softrsa.errors import DeviceError, SoftRSAError, UnknownNameError, unknown_name

CLASSES = [
    getattr(errors, name) for name in errors.__all__ if name not in {"SoftRSAError", "unknown_name"}
]


@pytest.mark.parametrize("error", CLASSES, ids=lambda error: error.__name__)
def test_is_a_softrsa_error_and_a_builtin_one(error):
    assert issubclass(error, SoftRSAError)
    builtin = [base for base in error.__mro__ if vars(builtins).get(base.__name__) is base]
    assert set(builtin) - {Exception, BaseException, object}


def test_unknown_name_lists_the_nearest_and_at_most_thirty():
    error = unknown_name("layer", "blocks.31", [f"blocks.{i}" for i in range(31)])
    assert isinstance(error, UnknownNameError)
    assert "Unknown layer 'blocks.31'. Did you mean 'blocks." in str(error)
    assert str(error).endswith("blocks.29, ... (31 in all).")


def test_unknown_name_without_a_near_one_has_no_hint():
    assert str(unknown_name("region", "V4", ["hippocampus"])) == (
        "Unknown region 'V4'. Known: hippocampus."
    )
    assert str(unknown_name("region", "V4", [])) == "Unknown region 'V4'. Known: none."


@pytest.mark.parametrize(("device", "found"), [("mps", "got 'mps'"), ("tpu9", "got 'tpu9'")])
def test_other_devices_are_refused_by_name(device, found):
    with pytest.raises(DeviceError, match=found):
        resolve_device(device)
