"""The benchmarks: the plain reading computes what the library computes, and the tables are written."""

import sys
from itertools import zip_longest

import pytest
import torch
from conftest import ROOT

sys.path.insert(0, str(ROOT))

from benchmarks import bench, plain
from benchmarks.measure import alternate, write_section
from cyclegan.models import Generator
from cyclegan.options import GeneratorConfig
from johnson.models import TransformerNet
from johnson.options import NetworkConfig


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
