import nbformat
import pytest
from conftest import ROOT
from nbclient import NotebookClient


def execute(name, folder, monkeypatch, **environment):
    """Run a notebook in a folder of its own; an error in a cell is raised here."""
    for variable, value in environment.items():
        monkeypatch.setenv(variable, value)
    notebook = nbformat.read(ROOT / name, as_version=4)
    NotebookClient(notebook, timeout=120, kernel_name="python3", resources={"metadata": {"path": folder}}).execute()
    return notebook


def pictures(notebook):
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    return sum(any(kind.startswith("image/") for kind in output.get("data", {})) for output in outputs)


def test_the_demo_runs(tmp_path, monkeypatch):
    notebook = execute("demo.ipynb", tmp_path, monkeypatch, SIZE="96")
    assert pictures(notebook) == 7
    assert (tmp_path / "out" / "sunflowers.jpg").exists()


def test_the_training_runs_stops_and_goes_on(tmp_path, monkeypatch):
    notebook = execute("train.ipynb", tmp_path, monkeypatch, MINUTES="0.04", DATAROOT=str(tmp_path / "data"))
    # The data, two augmentations, twice the curves and the validation sheet, the translation.
    assert pictures(notebook) == 8
    assert len(list((tmp_path / "data" / "trainA").iterdir())) == 76
    assert len(list((tmp_path / "checkpoints" / "notebook" / "samples").iterdir())) >= 2


@pytest.mark.parametrize("name", ["demo.ipynb", "train.ipynb"])
def test_what_is_committed_has_outputs_and_no_errors(name):
    cells = [cell for cell in nbformat.read(ROOT / name, as_version=4).cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in cells)
    assert not [output for cell in cells for output in cell.outputs if output.output_type == "error"]
    assert sum(bool(cell.outputs) for cell in cells) >= 5
    assert (ROOT / name).stat().st_size < 3e6
