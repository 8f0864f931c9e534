"""Both notebooks run from beginning to end, and what is committed shows their results."""

import nbformat
import pytest
from conftest import ROOT
from nbclient import NotebookClient


def execute(name, folder, monkeypatch, environment, smaller):
    """Run a notebook in a folder of its own, with other values in its code; an error in a cell is raised here."""
    for variable, value in environment.items():
        monkeypatch.setenv(variable, value)
    notebook = nbformat.read(ROOT / name, as_version=4)
    for old, new in smaller.items():
        (cell,) = (cell for cell in code_cells(notebook) if old in cell.source)
        cell.source = cell.source.replace(old, new)
    NotebookClient(notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": folder}}).execute()
    return notebook


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def cells_with_pictures(notebook):
    """Indices of the code cells that show at least one picture."""
    return [
        i
        for i, cell in enumerate(code_cells(notebook))
        if any(kind.startswith("image/") for output in cell.outputs for kind in output.get("data", {}))
    ]


@pytest.mark.parametrize(
    ("name", "environment", "smaller", "results"),
    [
        ("demo.ipynb", {"SIZE": "64"}, {"StylizeConfig(size=SIZE)": "StylizeConfig(size=SIZE, steps=16)"},
         ["out/sunflowers.jpg"]),
        ("train.ipynb", {"MINUTES": "0.01", "DATAROOT": "data"},
         {"images.load(files(\"sklearn.datasets.images\") / name)":
          "images.resize(images.load(files(\"sklearn.datasets.images\") / name), 160)", "side=144": "side=72"},
         ["data/trainA", "checkpoints/notebook/last.pt", "checkpoints/notebook/G/model.safetensors"]),
    ],
    ids=["demo.ipynb", "train.ipynb"],
)  # fmt: skip
def test_a_notebook_shows_pictures_where_the_committed_one_does(
    name, environment, smaller, results, tmp_path, monkeypatch
):
    notebook = execute(name, tmp_path, monkeypatch, environment, smaller)
    committed = nbformat.read(ROOT / name, as_version=4)
    assert cells_with_pictures(notebook) == cells_with_pictures(committed)
    assert len(cells_with_pictures(committed)) >= 5
    assert all((tmp_path / result).exists() for result in results)


@pytest.mark.parametrize("name", ["demo.ipynb", "train.ipynb"])
def test_the_committed_notebooks_have_outputs_and_no_errors(name):
    cells = code_cells(nbformat.read(ROOT / name, as_version=4))
    assert all(cell.execution_count for cell in cells)
    assert not [output for cell in cells for output in cell.outputs if output.output_type == "error"]
    assert sum(bool(cell.outputs) for cell in cells) >= 5
    assert (ROOT / name).stat().st_size < 3e6
