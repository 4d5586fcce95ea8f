"""What every test shares: the devices to run on, and repeatable randomness."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterator
from importlib import metadata

import pytest
import torch

ENVIRONMENT = "WGANGP_FAST_DEVICE"
"""Set to ``cpu`` or ``cuda`` to run the tests on that device alone."""


def available_devices() -> list[str]:
    """``["cpu"]``, ``["cpu", "cuda"]``, or the one named by :data:`ENVIRONMENT`.

    Raises:
        pytest.UsageError: the named device is unknown, or is not on this machine: a run that was asked
            to test the GPU must not pass by testing nothing.
    """
    present = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    named = os.environ.get(ENVIRONMENT)
    if not named:
        return present
    if named not in present:
        raise pytest.UsageError(f"{ENVIRONMENT}={named!r}: devices on this machine are {', '.join(present)}")
    return [named]


def version(package: str) -> tuple[int, int]:
    """Major and minor version of what is installed; (0, 0) where it is not."""
    try:
        major, minor, *_ = re.findall(r"\d+", metadata.version(package))
    except metadata.PackageNotFoundError:
        return (0, 0)
    return int(major), int(minor)


OLD_TRITON = (0, 0) < version("triton") < (3, 7)

# What torch or Triton cannot do on some version: when that is, parts of the tests' names, the reason.
KNOWN = (
    (
        version("torch") < (2, 12),
        ("[aten.grid_sampler_2d.default]", "grid sample]"),
        "torch before 2.12 has no second derivative of grid_sample",
    ),
    (
        version("torch") >= (2, 14),
        ("test_distances_that_reach_the_score_are_refused_by_name", "test_the_rule_is_lazy"),
        "torch 2.14 has the second derivative of cdist, which these expect to be missing",
    ),
    (
        version("torch") >= (2, 15),
        (
            "[products, samples middle]",
            "[products, samples last]",
            "form_of_the_engine[middle]",
            "form_of_the_engine[last]",
        ),
        "torch 2.15 writes a matmul whose samples are not in front differently for one batch and for three: "
        "such critics run on real, fake and penalty points apart",
    ),
    (
        OLD_TRITON and version("numpy") >= (2, 4),
        (
            *("test_interpreter[norm_", "test_interpreter_dtypes", "test_triton.py::test_launches"),
            *("without_a_gpu[values]", "without_a_gpu[meetings]"),
        ),
        "the interpreter of Triton before 3.7 does not run with numpy 2.4",
    ),
    (
        OLD_TRITON,
        ("compiles_without_spills", "norm_act_kernel instance-last]", "without_a_gpu[compile]"),
        "Triton before 3.7 compiles three kernels ill: norm_act_adjoint group-last spills 24 bytes on sm_80, "
        "mlp_penalty in float16 8 bytes on sm_100, norm_act instance-last has narrow loads",
    ),
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what :data:`KNOWN` names."""
    for holds, names, reason in KNOWN:
        for item in items:
            if holds and any(name in item.nodeid for name in names):
                item.add_marker(pytest.mark.skip(reason=reason))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test that asks for ``device`` runs once on each device."""
    if "device" in metafunc.fixturenames:
        devices = [torch.device(name) for name in available_devices()]
        metafunc.parametrize("device", devices, ids=str)


@pytest.fixture(autouse=True)
def _repeatable() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Networks too small to share are fastest on one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def no_stock_path() -> Iterator[None]:
    """A fallback is an error: it would compare stock code with itself."""
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "the stock gradient penalty runs")
        yield


@pytest.fixture(autouse=True, scope="session")
def _full_float32() -> None:
    # TF32 keeps 10 bits of the mantissa; the tests' tolerances are float32's.
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False


try:
    from hypothesis import settings
except ImportError:  # a GPU machine may lack it; tests that need it skip themselves
    pass
else:
    # Shared machines are slow at random moments, so no deadline; the same examples for everybody.
    settings.register_profile("repeatable", deadline=None, derandomize=True)
    settings.load_profile("repeatable")
