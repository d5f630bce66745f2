"""The generated pages of the site: heads of optimizer files, names of every floor, help of every command, verdicts of claims."""

import importlib
import pathlib
import re

import pytest

from nearlin import nn, optim
from nearlin.complexity import cost

ROOT = pathlib.Path(__file__).parents[1]
OPTIMIZER_FILES = sorted((ROOT / "nearlin" / "optim").glob("[!_]*.py"))


@pytest.fixture
def pages(monkeypatch):
    """Imports a module of the site's extension."""
    monkeypatch.syspath_prepend(str(ROOT / "docs" / "_ext"))
    return lambda name: importlib.import_module(f"nearlin_docs.{name}")


def words(text):
    """The words and formulas of a text, without the marks of Markdown and without addresses."""
    text = re.sub(r"^:::.*|^:class:.*|\]\(https\S*", "", text, flags=re.MULTILINE)
    return "".join(c for c in text if c.isalnum() or c in "←→∘√")


@pytest.mark.parametrize("path", OPTIMIZER_FILES, ids=lambda p: p.stem)
def test_the_papers_page_holds_every_field_in_full(path, pages):
    heads = pages("heads")
    head = heads.read(path)
    section = words(heads.page([head]).split(f"## {head.classname}")[1])
    assert tuple(head.fields) == heads.FIELDS
    assert [name for name in head.fields if name + words(head.text(name)) not in section] == []


def test_the_table_of_papers_names_every_optimizer(pages):
    heads = pages("heads")
    table = heads.page(heads.read_all(ROOT / "nearlin" / "optim")).split("\n## ")[0]
    assert [name for name in optim.__all__ if f"`{name}`" not in table] == []


def test_an_update_is_in_the_table_without_its_explanations(pages):
    head = pages("heads").read(ROOT / "nearlin" / "optim" / "sgd.py")
    of_nesterov = "nesterov = True:  W ← W - lr (g + momentum v) with the new v"
    assert pages("heads").update_lines(head) == ["v ← momentum v + g", "W ← W - lr v", of_nesterov]


def test_a_head_without_a_field_is_refused(pages, tmp_path):
    path = tmp_path / "bad.py"
    path.write_text('"""Bad.\n\nPaper       nobody\n"""\n\n\nclass Bad:\n    def step(self):\n        pass\n')
    with pytest.raises(ValueError, match="expected Paper, Update"):
        pages("heads").read(path)


@pytest.mark.parametrize(
    "room", ["linalg", "sketch", "nn", "curvature", "steps", "data", "optim", "complexity", "experiments", "sklearn"]
)
def test_the_page_of_a_floor_has_all_its_names(room, pages):
    pytest.importorskip("click")
    module = importlib.import_module(f"nearlin.{room}")
    page = pages("api").page(room)
    assert [name for name in module.__all__ if f":: {name}\n" not in page and f":: nearlin.{room}.{name}\n" not in page] == []


def test_every_command_has_its_help_on_the_page(pages):
    pytest.importorskip("click")
    cli = importlib.import_module("nearlin.experiments.commands").cli
    page = pages("commands").page()
    assert [name for name in cli.commands if f"## nearlin {name}\n" not in page] == []
    assert "--optimizer" in page


def claim(**changes):
    fields = {
        "id": "a-claim",
        "family": "a family",
        "paper": "arXiv:2006.11648",
        "statement": "It <always> holds.",
        "how": "count",
    }
    fields |= {"quantity": "flops", "expected": "1", "condition": "any size", "value": "1", "verdict": "holds", "detail": ""}
    return fields | {"seconds": 0.1, "should_hold": True} | changes


def test_the_claims_page_shows_verdicts_plots_and_known_failures(pages):
    found = {"summary": "2 claims", "seconds": 1.0, "machine": "Linux", "versions": {"numpy": "2"}}
    found["claims"] = [claim(), claim(id="another", verdict="fails", should_hold=False)]
    page = pages("claims").page(found, {"a family": "generated/claims/a.png"})
    assert "**holds**" in page
    assert "**fails** (known)" in page
    assert "a.png" in page
    assert r"It \<always\> holds" in page


def test_claims_are_measured_again_only_when_sources_change(pages, monkeypatch, tmp_path):
    claims, runs = pages("claims"), []
    package, cache = tmp_path / "package", tmp_path / "cache"
    package.mkdir()
    (package / "a.py").write_text("a = 1\n")

    def measure(folder, progress):
        runs.append(1)
        folder.mkdir(exist_ok=True)
        (folder / "claims.json").write_text("{}")

    monkeypatch.setattr(claims, "_measure", measure)
    claims.report(package, cache)
    claims.report(package, cache)
    assert len(runs) == 1
    (package / "a.py").write_text("a = 2\n")
    claims.report(package, cache)
    assert len(runs) == 2


def test_estimated_times_on_a_gpu_are_those_that_routes_are_planned_by():
    words = (ROOT / "docs" / "gpu.md").read_text()
    network, named = nn.TwoLayer(16, 131072), {"plain conjugate gradients": "cg", "pivoted columns": "pivoted"}
    rows = re.findall(r"^\| ([a-z ]+) \| ([\d.]+) ms \| ([\d.]+) s \|$", words, flags=re.MULTILINE)
    assert len(rows) == 5
    for name, *said in rows:
        optimizer = optim.GaussNewton(epsilon=1 / 6, plan=named.get(name, name))
        for on_gpu, unit, number in zip((True, False), (1e3, 1), said, strict=True):
            seconds = cost.planned_route(network, 4096, "float32", True, optimizer, on_gpu).seconds
            assert f"{unit * seconds:.2g}" == number, name
