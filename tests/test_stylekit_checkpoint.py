import os
import pickle
import resource
import signal
import zipfile

import pytest
import torch

from stylekit.training import checkpoint


@pytest.fixture
def full_disk():
    """No file of this process can grow beyond 100 kB."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    signal.signal(signal.SIGXFSZ, handler)


def test_a_full_disk_leaves_the_old_checkpoint(tmp_path, full_disk):
    path = tmp_path / "last.pt"
    checkpoint.save(path, step=1)
    with pytest.raises(OSError, match=r"could not write .*last\.pt \(.*\); the existing file is untouched") as caught:
        checkpoint.save(path, step=2, weights=torch.zeros(1_000_000))
    assert "\n" not in str(caught.value)
    assert checkpoint.load(path) == {"step": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["last.pt"]


DAMAGES = {
    "empty": lambda content: b"",
    "a third": lambda content: content[: len(content) // 3],
    "the end is missing": lambda content: content[:-100],
    "a flipped bit": lambda content: content[:20_000] + bytes([content[20_000] ^ 1]) + content[20_001:],
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=list(DAMAGES))
def test_a_damaged_file_is_named(tmp_path, damage):
    path = tmp_path / "last.pt"
    checkpoint.save(path, weights=torch.randn(10_000))
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=r"last\.pt: truncated or damaged"):
        checkpoint.load(path)


class Harmful:
    """Unpickling it creates a folder."""

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


def test_a_file_that_is_missing_or_holds_no_dict_is_named(tmp_path):
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(ValueError, match=r"list\.pt: contains a list; expected a dict"):
        checkpoint.load(tmp_path / "list.pt")
    with pytest.raises(FileNotFoundError, match=r"nowhere\.pt"):
        checkpoint.load(tmp_path / "nowhere.pt")


def test_finite_numbers_and_tensors_pass():
    checkpoint.check_finite(
        {"step": 1, "name": "nan", "none": None, "lists": [[0.5], (torch.ones(2), torch.tensor(3))]}
    )


@pytest.mark.parametrize(
    ("objects", "says"),
    [
        ({"cycle_x": float("nan")}, "cycle_x is nan"),
        ({"cycle_x": float("-inf")}, "cycle_x is -inf"),
        ({"generators": {"G.weight": torch.tensor([1.0, float("inf")])}}, "generators.G.weight is not finite"),
        ({"pools": [{"x": [torch.ones(1), torch.tensor(float("nan"))]}]}, "pools.0.x.1 is not finite"),
        ({"half": torch.tensor(float("inf"), dtype=torch.bfloat16)}, "half is not finite"),
    ],
)
def test_what_is_not_finite_is_named(objects, says):
    with pytest.raises(FloatingPointError, match=f"^{says}$"):
        checkpoint.check_finite(objects)


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (torch.zeros(1).expand(10**12), "expanded tensor"),
        (torch.zeros(4, 4).to_sparse(), "sparse"),
        (torch.zeros(4, device="meta"), "dense ones|truncated or damaged"),
        ({(1, 2): 3}, "a key of type tuple|truncated or damaged"),
        ({1.5: 3}, "a key of type float"),
    ],
)
def test_values_that_no_checkpoint_holds_are_refused(tmp_path, value, says):
    torch.save({"weights": [value]}, tmp_path / "last.pt")
    with pytest.raises(ValueError, match=says):
        checkpoint.load(tmp_path / "last.pt")


def test_a_file_that_asks_for_more_memory_than_there_is_is_called_damaged(tmp_path, monkeypatch):
    def fail(*arguments, **options):
        raise MemoryError

    checkpoint.save(tmp_path / "last.pt", step=1)
    monkeypatch.setattr(torch, "load", fail)
    with pytest.raises(ValueError, match=r"last\.pt: damaged, or larger than the memory"):
        checkpoint.load(tmp_path / "last.pt")


def test_a_compressed_file_that_expands_is_refused(tmp_path):
    torch.save({"weights": torch.zeros(100_000)}, tmp_path / "last.pt")
    with zipfile.ZipFile(tmp_path / "last.pt") as old, zipfile.ZipFile(tmp_path / "new.pt", "w") as new:
        for name in old.namelist():
            new.writestr(name, old.read(name), zipfile.ZIP_DEFLATED)
    with pytest.raises(ValueError, match=r"new\.pt: truncated or damaged"):
        checkpoint.load(tmp_path / "new.pt")


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("kind", ["aliases", "tensors", "appended"])
def test_a_file_of_very_many_names_is_refused_before_it_is_unpickled(tmp_path, monkeypatch, kind, zipped):
    shared = torch.zeros(1)
    many = {
        f"layer.{i}.weight": torch.zeros(1) if kind == "tensors" else shared
        for i in range(12_000 if kind == "tensors" else 40_000)
    }
    torch.save(many, tmp_path / "many.pth", _use_new_zipfile_serialization=zipped)
    if kind == "appended":  # It ends like a ZIP file, but PyTorch looks at how it begins.
        (tmp_path / "many.pth").write_bytes((tmp_path / "many.pth").read_bytes() + b"PK\5\6" + bytes(18))
    monkeypatch.setattr(torch, "load", lambda *arguments, **options: pytest.fail("unpickled"))
    with pytest.raises(ValueError, match=r"many\.pth: truncated or damaged, or has too many tensors"):
        checkpoint.load(tmp_path / "many.pth")


@pytest.mark.parametrize("zipped", [True, False])
def test_files_of_old_and_new_versions_of_pytorch_are_read(tmp_path, zipped):
    torch.save({f"{i}": torch.full((2,), i) for i in range(2000)}, tmp_path / "net.pth",
               _use_new_zipfile_serialization=zipped)  # fmt: skip
    assert checkpoint.load(tmp_path / "net.pth")["1999"].tolist() == [1999, 1999]
