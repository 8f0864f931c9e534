import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from stylekit import atomic
from stylekit.atomic import atomic_folder, atomic_tree, atomic_write, check_writable


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


def test_checking_whether_a_file_can_be_written_leaves_nothing(tmp_path):
    check_writable(tmp_path / "new" / "last.pt")
    assert names(tmp_path / "new") == []
    (tmp_path / "new" / "last.pt").write_bytes(b"old")
    check_writable(tmp_path / "new" / "last.pt")
    assert (tmp_path / "new" / "last.pt").read_bytes() == b"old"


def test_names_as_long_as_the_file_system_allows_can_be_written(tmp_path):
    path = tmp_path / ("n" * 251 + ".png")
    with atomic_write(path) as file:
        file.write(b"new")
    assert path.read_bytes() == b"new"


def test_what_a_killed_process_left_is_removed_and_what_a_running_one_writes_is_not(tmp_path):
    script = (
        "import os, sys; from stylekit.atomic import *\n"
        "with atomic_write(sys.argv[1] + '/file') as file, atomic_folder(sys.argv[1] + '/folder') as folder:\n"
        "    file.write(b'half'); (folder / 'half').touch(); print(flush=True); os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.DEVNULL, check=False)
    assert len(names(tmp_path)) == 2
    running = tmp_path / names(tmp_path)[0].replace(names(tmp_path)[0].split("-")[1], str(os.getppid()))
    running.touch()
    atomic._remove_leftovers.cache_clear()
    with atomic_write(tmp_path / "other"):
        pass
    assert names(tmp_path) == sorted([running.name, "other"])


def test_a_process_with_the_number_of_a_killed_one_removes_what_that_left(tmp_path, monkeypatch):
    # As in a container, where every start has the same numbers.
    left = [tmp_path / f".{atomic._HOST}-{os.getpid()}-{atomic._START}-{i}.part" for i in range(2)]
    left[0].touch()
    left[1].mkdir()
    monkeypatch.setattr(atomic, "_START", "another")
    with atomic_write(tmp_path / "b"), atomic_write(tmp_path / "c"):
        atomic._remove_leftovers.__wrapped__(tmp_path)  # A second thread may come here while this one writes.
    assert names(tmp_path) == ["b", "c"]


def test_a_folder_that_a_killed_process_had_moved_away_comes_back(tmp_path):
    with atomic_tree(tmp_path / "best") as partial:
        (partial / "score").write_text("old")
    killed = tmp_path / f".{atomic._HOST}-{2**22 + 1}-start-random.part"  # No process has such a number.
    (killed / "new").mkdir(parents=True)
    (killed / "old").mkdir()
    (tmp_path / "best").rename(killed / "old" / "best")
    atomic._remove_leftovers.cache_clear()
    with atomic_write(tmp_path / "other"):
        pass
    assert names(tmp_path) == ["best", "other"] and (tmp_path / "best" / "score").read_text() == "old"


def test_a_planted_link_is_not_followed(tmp_path, monkeypatch):
    monkeypatch.setattr(atomic.secrets, "token_hex", lambda size: "guessed")
    victim = tmp_path / "victim"
    victim.write_text("precious")
    with atomic_write(tmp_path / "a"):
        (partial,) = [name for name in names(tmp_path) if name.endswith(".part")]
    (tmp_path / partial).symlink_to(victim)
    with pytest.raises(OSError, match=r"could not write .*/b \(File exists\)"), atomic_write(tmp_path / "b"):
        pass
    assert victim.read_text() == "precious"


def test_threads_may_write_the_same_file(tmp_path):
    def write(number):
        with atomic_write(tmp_path / "last.pt") as file:
            file.write(bytes([number]) * 10_000)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(64)))
    content = (tmp_path / "last.pt").read_bytes()
    assert len(content) == 10_000 and len(set(content)) == 1 and names(tmp_path) == ["last.pt"]


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
