"""The table of times on a GPU is made to its end, on the double."""

import importlib.util
import json
from pathlib import Path

import pytest

from nearlin.linalg import Rates

PATH = Path(__file__).parents[2] / "asv_bench" / "gpu_table.py"


def test_the_table_the_plot_and_the_rates_are_written(tmp_path):
    pytest.importorskip("matplotlib")
    spec = importlib.util.spec_from_file_location("gpu_table", PATH)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
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
