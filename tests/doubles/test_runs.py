"""Runs and estimates on a GPU, on the double."""

import tracemalloc

import pytest

import nearlin as nl
from nearlin.experiments import building, estimate, train
from tests.doubles import devices

cp = pytest.importorskip("cupy")
NAMES = {"near-linear-gauss-newton": "NearLinearGaussNewton", "gram-gauss-newton": "GramGaussNewton", "sgd": "SGD"}


def sphere(n=40, d=3):
    """Rows of unit length and targets, on the device."""
    return tuple(cp.asarray(a) for a in nl.data.sphere(n=n, d=d, seed=1))


# ----------------------------------------------------------------------------------------------------------------- memory


@pytest.mark.parametrize("activation", ["relu", "tanh"])
@pytest.mark.parametrize("name", NAMES)
def test_an_estimate_is_of_the_blocks_of_a_gpu(name, activation):
    """256 MB, where those of a CPU are 2 MB."""
    n, d, m = 512, 8, 16384
    batch, optimizer = sphere(n, d), getattr(nl.optim, NAMES[name])()
    objective = nl.nn.Objective(nl.nn.TwoLayer(d, m, activation), nl.nn.SquaredLoss())
    tracemalloc.start()
    params = objective.network.init(key=0, like=batch[0])
    optimizer.step(params, optimizer.init(params, objective), objective, batch, key=0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    sizes = {"rows": n, "features": d, "width": m, "activation": activation, "optimizer": name}
    assert 0.8 * peak < estimate(backend="cupy", **sizes).peak < 1.25 * peak


def test_a_step_that_does_not_fit_the_gpu_is_refused(monkeypatch):
    """What the pool keeps of freed arrays is given back before."""
    sizes = {"rows": 4096, "features": 16, "width": 131072, "backend": "cupy"}
    need = estimate(**sizes).peak
    monkeypatch.setattr(devices, "MEMORY", need)
    monkeypatch.setattr(devices.POOL, "kept", need // 2)
    assert estimate(**sizes).peak == need
    monkeypatch.setattr(devices, "MEMORY", need - 1)
    with pytest.raises(ValueError, match=r"and the GPU has .* GiB; what would fit: --dtype float32"):
        estimate(**sizes)


def test_weights_that_do_not_fit_the_gpu_are_refused(monkeypatch):
    options = {"width": 16, "steps": 1, "test_fraction": 0, "progress": False}
    monkeypatch.setattr(devices, "MEMORY", building.COPIES * 16 * 3 * 8)
    monkeypatch.setattr(devices.POOL, "kept", 1000)
    assert train(sphere(), **options).steps == 1
    monkeypatch.setattr(devices, "MEMORY", building.COPIES * 16 * 3 * 8 - 1)
    with pytest.raises(ValueError, match=r"3 copies of 16 x 3 weights take .* GiB are free on the GPU"):
        train(sphere(), **options)
