"""The benchmarks: the plain reading computes what the library computes, and the tables are written."""

import re
import sys
from itertools import zip_longest

import pytest
import torch
from conftest import ROOT
from PIL import Image

sys.path.insert(0, str(ROOT))

from benchmarks import bench, peers, plain
from benchmarks.measure import alternate, write_section
from cyclegan.models import Generator
from cyclegan.options import GeneratorConfig
from johnson.models import TransformerNet
from johnson.options import NetworkConfig
from stylekit.pictures import images


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (Generator(GeneratorConfig(4, 1)), plain.cyclegan_generator(4, 1)),
        (TransformerNet(NetworkConfig(4, 1, skip=False, noise=0)), plain.johnson_network(4, 1)),
    ],
)
def test_the_plain_networks_compute_the_same_as_ours(ours, theirs):
    pairs = zip_longest(theirs.state_dict(), ours.state_dict().values())
    # Random biases, since zeros would hide layers in a wrong order.
    theirs.load_state_dict({name: torch.randn_like(tensor) / 4 for name, tensor in pairs})
    ours.load_state_dict(dict(zip(ours.state_dict(), theirs.state_dict().values(), strict=True)))
    x = torch.rand(1, 3, 16, 20)
    expected = theirs(x) + (0.5 if isinstance(ours, TransformerNet) else 0)
    torch.testing.assert_close(ours(x), expected, rtol=1e-4, atol=1e-4)


def test_variants_take_turns_and_the_first_round_is_not_counted():
    calls = []
    seconds = alternate({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, rounds=2)
    assert calls == ["a", "b"] * 3
    assert {name: len(values) for name, values in seconds.items()} == {"a": 2, "b": 2}


def test_a_section_is_replaced_and_the_rest_stays(tmp_path):
    path = tmp_path / "README.md"
    path.write_text("before\n<!-- bench:begin -->\nold\n<!-- bench:end -->\nafter\n")
    write_section("bench", "new", path)
    assert path.read_text() == "before\n<!-- bench:begin -->\nnew\n<!-- bench:end -->\nafter\n"
    with pytest.raises(ValueError, match=r"README\.md has no lines <!-- other:begin --> and <!-- other:end -->"):
        write_section("other", "new", path)


def test_make_bench_writes_its_tables(tmp_path, monkeypatch):
    path = tmp_path / "README.md"
    path.write_text("<!-- bench:begin --><!-- bench:end -->")
    tiny = "--rounds 1 --ngf 4 --crop-size 32 --size 64 --matrix 64 --samples 2 --device cpu --readme"
    monkeypatch.setattr(sys, "argv", ["benchmarks/bench.py", *tiny.split(), str(path)])
    bench.main()
    text = path.read_text()
    for part in ("CycleGAN, training step, ngf 4", "translation, 64 x 48", "Johnson", "Gatys", "loader, 2 samples"):
        assert part in text
    assert f"PyTorch {torch.__version__}" in text and "| convolutions, backward |" in text
    assert "bench.py --rounds 1" in text


def test_peers_are_run_measured_and_shown_beside_ours(tmp_path, monkeypatch, capsys):
    copy = [sys.executable, "-c", "import shutil, sys; shutil.copytree(*sys.argv[1:], dirs_exist_ok=True)", "IN", "OUT"]
    commands = {"copy": copy, "absent": ["no-such-program", "IN"]}
    monkeypatch.setattr(peers, "commands", lambda options: commands)
    for name, shade in (("a.jpg", 40), ("b.jpg", 90), ("c.jpg", 140), ("d.jpg", 190)):
        images.save(Image.new("RGB", (80, 60), (shade, 90, 90)), tmp_path / "photographs" / name)
    images.save(Image.new("RGB", (64, 48)), tmp_path / "ready" / "b_styled.png")
    given = [str(tmp_path / "photographs"), "--paintings", str(tmp_path / "photographs"), "--size", "64"]
    given += ["--ready", f"black={tmp_path / 'ready'}", "-o", str(tmp_path / "out")]
    peers.main(given)
    assert "absent skipped: FileNotFoundError" in capsys.readouterr().out
    photographs, copied, black = (tmp_path / "out" / "table.md").read_text().splitlines()[2:5]
    assert re.fullmatch(r"\| copy \| 4 \| [\d.]+ s \| -?[\d.e-]+ s \| 0\.\d\d GB \| none \| 1 \| .+ \|", copied)
    assert copied.split(" | ")[-1] == photographs.split(" | ")[-1]
    assert black.startswith("| black | 1 |  |  |  | none | ") and black.endswith(" |  |")
    with Image.open(tmp_path / "out" / "sheet.jpg") as sheet:
        assert sheet.height > 4 * 260
    with pytest.raises(SystemExit, match="2"):
        peers.main(given)
    assert f"{tmp_path / 'out'} exists; remove it" in capsys.readouterr().err


def test_the_peak_memory_of_a_command_is_not_that_of_this_process():
    seconds, memory = peers.measure([sys.executable, "-c", "bytearray(b'x') * 200_000_000; print('painted', end='')"])
    assert 0 < seconds < 5 and 0.19 < memory < 0.26
