"""The backends that tests run on: ``be`` is one of them, with its arrays, its dtype and its tolerance."""

import collections
import dataclasses
import functools
import importlib
import pathlib

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from nearlin import _array
from nearlin.complexity import counting
from tests import doubles

BACKENDS = (
    "numpy",
    "numpy:readonly",
    "array_api_strict",
    "array_api_strict:device1",
    "array_api_strict:no_float64",
    "counting",
    "torch",
    "torch:cuda",
    "cupy",
    "cupy:float32",
    "cupy:device1",
)
ON_GPU = ("torch:cuda", "cupy", "cupy:float32", "cupy:device1")
DOUBLES = pathlib.Path(__file__).parent / "doubles"
SUBSUMED = ("numpy", "array_api_strict")  # what fails there fails on numpy:readonly and array_api_strict:device1 too
WHOLE = ("numpy:readonly", "cupy")  # where every case of a test runs; elsewhere each value of each parameter is in one
ONCE = ("array_api_strict:device1", "cupy:device1")  # of a test one case: its float64, or its device, is that of others, too


def pytest_addoption(parser):
    parser.addoption(
        "--backend",
        action="append",
        default=None,
        metavar="NAME",
        help=f"run on this backend only, and fail where it cannot be used; repeatable; one of {', '.join(BACKENDS)}; "
        "numpy, torch, cupy and array_api_strict include their variants",
    )
    parser.addoption("--double", action="store_true", help="with --backend cupy: on a double of CuPy, which needs no GPU")
    parser.addoption("--record", metavar="FOLDER", help="with --double: write the forms of all calls there, for the real CuPy")
    parser.addoption("--nightly", action="store_true", help="run the cases too that are sampled or left out otherwise")


def pytest_collection_modifyitems(config, items):
    """Leave the cases out that only a nightly run has time for."""
    if not config.getoption("--nightly"):
        kept = set(sampled([item for item in items if not item.get_closest_marker("nightly")]))
        config.hook.pytest_deselected(items=[item for item in items if item not in kept])
        items[:] = [item for item in items if item in kept]
    if config.getoption("--double"):  # what takes no backend is the same on every one
        items[:] = [item for item in items if "be" in item.fixturenames or DOUBLES in item.path.parents]


def sampled(items):
    """What runs of ``items`` without --nightly: on backends beside `WHOLE` some cases of each test."""
    tests = collections.defaultdict(list)
    for item in items:
        backend = item.callspec.params.get("be") if hasattr(item, "callspec") else None
        if backend is None or backend in WHOLE:
            yield item
        else:
            tests[item.nodeid.partition("[")[0], backend].append(item)
    for (_, backend), cases in tests.items():
        yield from cases[:1] if backend in ONCE else covering(cases)


def covering(cases):
    """So many of a test's ``cases`` that each value of each parameter is in one; next is the one with the most new values."""
    values = {case: {(name, id(value)) for name, value in case.callspec.params.items()} for case in cases}
    left, used = set().union(*values.values()), collections.Counter()
    while left:
        best = max(cases, key=lambda case: (len(values[case] & left), -sum(used[value] for value in values[case])))
        yield best
        left -= values[best]
        used.update(values[best])


def pytest_ignore_collect(collection_path, config):
    """The tests of the double need it in place of CuPy."""
    return True if collection_path == DOUBLES and not config.getoption("--double") else None


def pytest_configure(config):
    threadpool_limits(1, user_api="blas")  # small arrays: BLAS threads wait for each other, and for every other process
    config.addinivalue_line("markers", "gpu: needs a CUDA device")
    for name in config.getoption("--backend") or ():
        if name not in BACKENDS:
            raise pytest.UsageError(f"--backend {name}: expected one of {', '.join(BACKENDS)}")
    if config.getoption("--double"):
        if config.getoption("--backend") != ["cupy"]:
            raise pytest.UsageError("--double stands in for CuPy; expected --backend cupy and no other")
        try:
            doubles.install(config.getoption("--record"))
        except RuntimeError as error:
            raise pytest.UsageError(f"--double: {error}") from error


def _device(name):
    """The device that a backend's arrays are made on; None is its default."""
    module, _, variant = name.partition(":")
    if module == "array_api_strict":
        return importlib.import_module(module).Device(variant or "CPU_DEVICE")
    if module == "cupy":
        return importlib.import_module(module).cuda.Device(int(variant == "device1"))
    return {"torch": variant or "cpu"}.get(module)


@functools.cache
def unusable(name):
    """Why the tests cannot use a backend here, or None."""
    module, _, variant = name.partition(":")
    if name == "counting":
        return None
    if reason := _array.unusable(module):
        return reason
    if variant == "cuda" and not importlib.import_module("torch").cuda.is_available():
        return "torch sees no usable CUDA device"
    if variant == "device1" and module == "cupy" and importlib.import_module(module).cuda.runtime.getDeviceCount() < 2:
        return "there is one CUDA device"
    return None


@dataclasses.dataclass(frozen=True)
class Backend:
    """One backend under test: a namespace, a device, and the dtype that its floats have."""

    name: str

    @property
    def xp(self):
        """The array API namespace."""
        if self.name == "counting":
            return counting.xp
        return _array.namespace(importlib.import_module(self.name.partition(":")[0]).empty(0))

    @property
    def device(self):
        """The device that arrays are made on; None is the backend's default."""
        return _device(self.name)

    @property
    def dtype(self):
        """float64, or float32 where the device has nothing wider."""
        return self.xp.float32 if self.name.endswith(("no_float64", ":float32")) else self.xp.float64

    @property
    def eps(self):
        """The spacing of floats at 1."""
        return float(self.xp.finfo(self.dtype).eps)

    @property
    def like(self):
        """An empty array, to be passed as ``like``."""
        return self.xp.empty((0,), dtype=self.dtype, device=self.device)

    def array(self, a, dtype=None):
        """``a`` as an array of its own, by default in ``dtype`` of the backend; not writeable on ``numpy:readonly``."""
        kind = getattr(self.xp, dtype) if isinstance(dtype, str) else dtype or self.dtype
        name = str(self.xp.empty((0,), dtype=kind).dtype).split(".")[-1]
        x = self.xp.asarray(np.asarray(a).astype(name), device=self.device)
        if self.name == "numpy:readonly":
            x.flags.writeable = False
        return x

    def numpy(self, x):
        """The explicit way back; asserts that ``x`` is an array of this backend on this device."""
        assert _array.is_array(x), f"{type(x).__name__} is no array"
        assert _array.namespace(x) is self.xp, f"expected a {self.name} array, got a {_array.describe(x)}"
        assert _array.device(x) == _array.device(self.like), f"{_array.describe(x)} left its device"
        return _array.to_numpy(x)

    def tol(self, float64_tol):
        """A tolerance that suits float64, scaled to the dtype of this backend."""
        return float64_tol * self.eps / np.finfo(np.float64).eps


def asked(config):
    """The backends that --backend names, with their variants; without it all."""
    wanted = set(config.getoption("--backend") or BACKENDS)
    return [name for name in BACKENDS if {name, name.partition(":")[0]} & wanted]


def pytest_generate_tests(metafunc):
    """``be`` is in turn each backend that can be used here, or is asked for by name."""
    if "be" in metafunc.fixturenames:
        left_out = () if metafunc.config.getoption("--nightly") else SUBSUMED
        named = metafunc.config.getoption("--backend") or ()
        names = [name for name in asked(metafunc.config) if name not in left_out and (name in named or not unusable(name))]
        marked = [pytest.param(name, marks=[pytest.mark.gpu] * (name in ON_GPU)) for name in names]
        metafunc.parametrize("be", marked, indirect=True)


def pytest_terminal_summary(terminalreporter, config):
    """Say once, and not test by test, what was not run."""
    for name in asked(config):
        if reason := unusable(name):
            terminalreporter.write_line(f"not run on {name}: {reason}")


@pytest.fixture
def be(request):
    """One backend under test."""
    name = request.param
    if reason := unusable(name):
        pytest.fail(f"--backend {name}: {reason}")
    if name.startswith("torch"):
        importlib.import_module("torch").set_num_threads(1)  # small arrays: threads only get into each other's way
    if not name.startswith("cupy"):
        yield Backend(name)
        return
    with _device(name):
        yield Backend(name)


@pytest.fixture
def numpy_backend():
    """Plain NumPy, the reference that other backends are compared with."""
    return Backend("numpy")


@pytest.fixture
def rng():
    """A NumPy generator with a fixed seed."""
    return np.random.default_rng(20061)
