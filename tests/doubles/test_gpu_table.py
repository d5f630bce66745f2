"""The table of times on a GPU is made to its end, on the double, and what it times is what it says."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

import nearlin as nl
from nearlin.linalg import Rates

PATH = Path(__file__).parents[2] / "asv_bench" / "gpu_table.py"


@pytest.fixture
def script():
    spec = importlib.util.spec_from_file_location("gpu_table", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Due:
    """Takes 7 s in every fourth step, 3 s in the others, and 100 s in the first one; by a clock of its own."""

    now = 0.0

    def init(self, params, objective):
        return None

    def step(self, params, state, objective, batch, key):
        self.now += 100 if key == 0 else 7 if key % 4 == 0 else 3
        return params, state, None


def test_a_step_takes_the_mean_over_periods_and_a_body_the_median_after_the_first(script, monkeypatch):
    optimizer, x = Due(), np.ones((2, 3))
    monkeypatch.setattr(script.time, "perf_counter", lambda: optimizer.now)
    assert script.steps(optimizer, nl.nn.MLP((3, 2)), nl.nn.SquaredLoss(), (x, np.ones((2, 2))), period=4) == (7 + 3 * 3) / 4
    spent = iter((100, 5, 1, 2))
    assert script.seconds(lambda: setattr(optimizer, "now", optimizer.now + next(spent)), x, rounds=3) == 2


def test_the_table_the_plot_and_the_rates_are_written(script, tmp_path):
    pytest.importorskip("matplotlib")
    script.main(["--backend", "cupy", "--quick", "--out", str(tmp_path)])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["gpu_rates.json", "gpu_table.md", "gpu_table.png"]
    assert Rates.from_dict(json.loads((tmp_path / "gpu_rates.json").read_text())).device == "double"
    table = (tmp_path / "gpu_table.md").read_text()
    assert "double, device 0 of 2; compute capability 9.0" in table
    rows = [line.split(" | ") for line in table.splitlines() if line.endswith("|")][2:]
    assert len(rows) == 12
    assert all(len(row) == 4 and row[2] for row in rows)
    assert "| exact step, masks in half precision | " in table
    assert "](gpu_table.png)" in table
    two = script.markdown([], {"a step": (3.0, "s"), "copy": (1.0, "GB/s")}, {"a step": (0.5, "s"), "copy": (2.0, "GB/s")}, "xy")
    assert two.splitlines()[-2:] == ["| a step | 3e+03 ms | 500 ms | 6 |", "| copy | 1 GB/s | 2 GB/s |  |"]
