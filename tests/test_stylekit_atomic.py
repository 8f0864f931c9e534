import os

import pytest

from stylekit.atomic import atomic_folder, atomic_tree, atomic_write, check_writable, partial_path


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_appears_when_it_is_complete(tmp_path):
    path = tmp_path / "new" / "last.pt"
    with atomic_write(path) as file:
        file.write(b"new")
        assert not path.exists()
    assert path.read_bytes() == b"new" and names(path.parent) == ["last.pt"]


def test_a_failure_while_writing_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "last.pt"
    path.write_bytes(b"old")
    with pytest.raises(RuntimeError, match="halfway"), atomic_write(path) as file:
        file.write(b"new")
        raise RuntimeError("halfway")
    assert path.read_bytes() == b"old" and names(tmp_path) == ["last.pt"]


def test_an_error_of_the_system_names_the_file_and_says_that_the_old_one_is_untouched(tmp_path):
    path = tmp_path / "last.pt"
    path.write_bytes(b"old")
    with (
        pytest.raises(OSError, match=r"could not write .*last\.pt \(No space left.*\); the existing file is untouched"),
        atomic_write(path),
    ):
        raise OSError(28, os.strerror(28))
    assert path.read_bytes() == b"old" and names(tmp_path) == ["last.pt"]


def test_a_file_below_a_file_cannot_be_written(tmp_path):
    (tmp_path / "file").write_bytes(b"old")
    with (
        pytest.raises(OSError, match=r"could not write .*file/last\.pt \("),
        atomic_write(tmp_path / "file" / "last.pt"),
    ):
        pass
    with pytest.raises(OSError, match=r"could not write .*file/G \("), atomic_folder(tmp_path / "file" / "G"):
        pass
    with pytest.raises(OSError, match=r"could not write .*file/last\.pt"):
        check_writable(tmp_path / "file" / "last.pt")
    assert (tmp_path / "file").read_bytes() == b"old"


def test_files_of_a_folder_replace_the_old_ones_when_all_are_complete(tmp_path):
    folder = tmp_path / "G"
    folder.mkdir()
    (folder / "config.json").write_text("old")
    (folder / "notes.txt").write_text("mine")
    with atomic_folder(folder) as partial:
        for name in ("config.json", "model.safetensors"):
            (partial / name).write_text("new")
        assert (folder / "config.json").read_text() == "old" and not (folder / "model.safetensors").exists()
    assert {path.name: path.read_text() for path in folder.iterdir()} == {
        "config.json": "new", "model.safetensors": "new", "notes.txt": "mine",
    }  # fmt: skip
    assert names(tmp_path) == ["G"]


def test_a_failure_while_filling_a_folder_leaves_the_old_files_and_nothing_else(tmp_path):
    folder = tmp_path / "G"
    folder.mkdir()
    (folder / "config.json").write_text("old")
    with pytest.raises(RuntimeError, match="halfway"), atomic_folder(folder) as partial:
        (partial / "config.json").write_text("new")
        raise RuntimeError("halfway")
    assert (
        (folder / "config.json").read_text() == "old" and names(tmp_path) == ["G"] and names(folder) == ["config.json"]
    )


def test_checking_whether_a_file_can_be_written_leaves_nothing(tmp_path):
    check_writable(tmp_path / "new" / "last.pt")
    assert names(tmp_path / "new") == []
    (tmp_path / "new" / "last.pt").write_bytes(b"old")
    check_writable(tmp_path / "new" / "last.pt")
    assert (tmp_path / "new" / "last.pt").read_bytes() == b"old"


def test_the_temporary_file_is_hidden_beside_the_final_one(tmp_path):
    # In the same folder, since a file cannot be renamed across file systems.
    partial = partial_path(tmp_path / "last.pt")
    assert partial.parent == tmp_path and partial.name.startswith(".last.pt.")


def test_a_tree_replaces_the_old_one_as_a_whole_or_not_at_all(tmp_path):
    best = tmp_path / "best"
    for name in ("G", "F"):
        with atomic_tree(best) as partial:
            (partial / name).mkdir()
            (partial / name / "config.json").write_text(name)
    assert names(best) == ["F"] and names(tmp_path) == ["best"]
    with pytest.raises(OSError, match=r"could not write .*best \(No space left"), atomic_tree(best) as partial:
        (partial / "G").mkdir()
        raise OSError(28, os.strerror(28))
    assert names(best) == ["F"] and names(tmp_path) == ["best"]
