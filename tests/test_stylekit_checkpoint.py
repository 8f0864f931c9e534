import os
import pickle
import resource

import pytest
import torch
from conftest import run

from stylekit import checkpoint


def test_what_is_saved_is_loaded(tmp_path):
    checkpoint.save(tmp_path / "a" / "last.pt", weights={"w": torch.arange(3.0)}, step=7, note=None)
    loaded = checkpoint.load(tmp_path / "a" / "last.pt")
    assert loaded["step"] == 7 and loaded["note"] is None
    assert torch.equal(loaded["weights"]["w"], torch.arange(3.0))


def test_whether_a_file_could_be_written_is_known_before(tmp_path):
    checkpoint.check_writable(tmp_path / "new" / "last.pt")
    assert list((tmp_path / "new").iterdir()) == []
    (tmp_path / "file").write_bytes(b"old")
    with pytest.raises(OSError, match=r"could not write .*file/last\.pt"):
        checkpoint.check_writable(tmp_path / "file" / "last.pt")


def test_a_failure_while_writing_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "last.pt"
    path.write_bytes(b"old")
    with pytest.raises(RuntimeError, match="halfway"), checkpoint.atomic(path) as file:
        file.write(b"new")
        raise RuntimeError("halfway")
    assert path.read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["last.pt"]


def test_a_full_disk_leaves_the_old_checkpoint(tmp_path):
    path = tmp_path / "last.pt"
    checkpoint.save(path, step=1)
    script = (
        "import resource, signal, sys, torch\n"
        "from stylekit import checkpoint\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, {resource.RLIM_INFINITY}))\n"
        "try:\n"
        "    checkpoint.save(sys.argv[1], step=2, weights=torch.zeros(1_000_000))\n"
        "except OSError as error:\n"
        "    print(error)\n"
    )
    result = run("-c", script, path)
    assert "could not write" in result.stdout and "untouched" in result.stdout, result.stderr
    assert checkpoint.load(path) == {"step": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["last.pt"]


@pytest.mark.parametrize("share", [0.0, 0.3, 0.5, 0.99])
def test_a_file_cut_short_is_named(tmp_path, share):
    path = tmp_path / "last.pt"
    checkpoint.save(path, weights=torch.zeros(1000))
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(ValueError, match=r"last\.pt: .*damaged"):
        checkpoint.load(path)


class Harmful:
    def __reduce__(self):
        return os.mkdir, ("harm was done",)


def test_a_pickled_object_is_refused_and_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"weights": Harmful()}, "last.pt")
    with pytest.raises(ValueError, match="pickled object, which could run code"):
        checkpoint.load("last.pt")
    (tmp_path / "plain.pt").write_bytes(pickle.dumps(Harmful()))
    with pytest.raises(ValueError, match=r"plain\.pt"):
        checkpoint.load("plain.pt")
    assert not (tmp_path / "harm was done").exists()


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.pt"):
        checkpoint.load(tmp_path / "nowhere.pt")


def test_a_state_dict_holds_tensors_only(tmp_path):
    torch.save({"w": torch.zeros(2), "epoch": 3}, tmp_path / "net.pth")
    with pytest.raises(ValueError, match="epoch is a int; expected a state dict"):
        checkpoint.load_tensors(tmp_path / "net.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(ValueError, match="holds a list"):
        checkpoint.load_tensors(tmp_path / "list.pth")


def test_safetensors_are_read_and_damage_is_named(tmp_path):
    from safetensors.torch import save_file

    path = tmp_path / "net.safetensors"
    save_file({"w": torch.ones(2)}, path)
    assert torch.equal(checkpoint.load_tensors(path)["w"], torch.ones(2))
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(ValueError, match=r"net\.safetensors: cut short"):
        checkpoint.load_tensors(path)
