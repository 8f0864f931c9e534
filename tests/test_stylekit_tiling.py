import copy
import itertools
import threading

import numpy as np
import pytest
import torch
from conftest import plain_network
from torch import nn
from torch.nn import functional

from cyclegan.models import Generator
from cyclegan.options import GeneratorConfig
from cyclegan.translate import translate
from johnson.models import TransformerNet
from johnson.options import NetworkConfig
from johnson.stylize import stylize
from stylekit.networks import tiling
from stylekit.networks.blocks import InstanceNorm2d
from stylekit.networks.tiling import Smoothing, private_copy, run_tiled
from stylekit.pictures import images

NETWORKS = {
    "johnson": lambda: TransformerNet(NetworkConfig(4, 2)),
    "johnson as published": lambda: TransformerNet(NetworkConfig(4, 2, skip=False, noise=0.0)),
    "johnson without blocks": lambda: TransformerNet(NetworkConfig(4, 0, "nearest")),
    "cyclegan": lambda: Generator(GeneratorConfig(4, 2)),
    "cyclegan as published": lambda: Generator(GeneratorConfig(4, 1, "transposed")),
    "johnson with kept colors": lambda: TransformerNet(NetworkConfig(4, 1, keep_colors=0.6)),
    "cyclegan with kept colors": lambda: Generator(GeneratorConfig(4, 1, keep_colors=0.6)),
}


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (4, 4), (5, 64), (20, 700), (33, 47), (64, 64)])
def test_the_output_is_cropped_to_the_picture_at_any_size(size):
    image = torch.rand(1, 3, *size)
    torch.testing.assert_close(run_tiled(image, plain_network()), image)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("size", [(130, 170), (64, 200), (201, 40)])
@torch.no_grad()
def test_tiles_give_the_same_output_as_the_whole_picture(name, size):
    torch.manual_seed(0)
    network = NETWORKS[name]()
    for parameter in network.parameters():
        parameter.mul_(2)  # Otherwise the network is nearly linear.
    # Dark on the left and noisy on the right, so that the statistics of tiles differ from those of the whole.
    image = torch.rand(2, 3, *size) * torch.linspace(0.1, 1, size[1])
    whole = run_tiled(image, network)
    for tile in (64, 100):
        torch.testing.assert_close(run_tiled(image, network, tile), whole, atol=2e-4, rtol=0)
    alone = run_tiled(image[..., : size[1] // 2], network)
    assert (alone - whole[..., : size[1] // 2]).abs().max() > 0.02


@pytest.mark.parametrize("name", NETWORKS)
@torch.no_grad()
def test_padding_does_not_shift_colors(name):
    torch.manual_seed(0)
    network = NETWORKS[name]()
    # The border is bright, so that its reflection raises the mean.
    image = torch.rand(1, 3, 240, 200)
    image[..., 20:-20, 20:-20] *= 0.3
    plain = network(image)[..., 100:140, 80:120]
    tiled = run_tiled(image, network)[..., 100:140, 80:120]
    padded = nn.functional.pad(image, (32, 32, 32, 32), mode="reflect")
    shifted = network(padded)[..., 132:172, 112:152]
    assert (tiled - plain).abs().mean() < 0.3 * (shifted - plain).abs().mean()


def test_a_private_copy_shares_tensors_but_no_modules():
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Sequential(nn.BatchNorm2d(4), InstanceNorm2d(4)))
    twin = private_copy(network)
    assert [name for name, _ in twin.named_modules()] == [name for name, _ in network.named_modules()]
    assert {id(m) for m in twin.modules()}.isdisjoint(id(m) for m in network.modules())
    for ours, theirs in ((twin.parameters(), network.parameters()), (twin.buffers(), network.buffers())):
        assert [id(tensor) for tensor in ours] == [id(tensor) for tensor in theirs]
    twin[1][1].measure = lambda x: (torch.zeros(1), torch.ones(1))
    x = torch.rand(1, 3, 4, 4)
    assert network[1][1].measure is None and not torch.allclose(twin(x), network(x))
    assert not any(module.training for module in twin.modules()) and all(m.training for m in network.modules())


def test_a_compiled_network_gives_the_output_of_the_original():
    network, image = TransformerNet(NetworkConfig(4, 1)), torch.rand(1, 3, 40, 30)
    compiled = torch.compile(network, backend="eager")
    assert torch.equal(run_tiled(image, compiled), run_tiled(image, network))


@pytest.mark.parametrize("method", ["johnson", "cyclegan"])
@torch.inference_mode()
def test_threads_that_share_a_network_get_what_a_serial_loop_gets(method):
    torch.manual_seed(0)
    network = TransformerNet(NetworkConfig(4, 1)) if method == "johnson" else Generator(GeneratorConfig(4, 1))
    attributes = {name: copy.copy(module.__dict__) for name, module in network.named_modules()}
    sizes = [(70, 130), (64, 100), (101, 40), (90, 90), (33, 47), (100, 70), (60, 80)]
    jobs = [(torch.rand(1, 3, *size), (None, 64)[i % 2]) for i, size in enumerate(sizes)]
    frames = torch.rand(6, 1, 3, 50, 60).lerp(torch.rand(1, 3, 50, 60), 0.5)

    def process(image, tile):
        return (stylize if method == "johnson" else translate)(image, network, tile=tile)

    def process_frames():
        smoothing = Smoothing(0.5)
        if method == "johnson":
            return torch.cat([stylize(frame, network, smoothing=smoothing) for frame in frames])
        return torch.cat([run_tiled(frame, network, None, smoothing) for frame in frames])

    tasks = [lambda job=job: process(*job) for job in jobs] + [process_frames]
    expected = [task() for task in tasks]
    results, barrier = {}, threading.Barrier(len(tasks))

    def work(i):
        with torch.inference_mode():
            barrier.wait()
            results[i] = [tasks[i]() for _ in range(3)]

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(tasks))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i in range(len(tasks)):
        assert all(torch.equal(result, expected[i]) for result in results[i]), f"task {i}"
    assert all(module.__dict__ == attributes[name] for name, module in network.named_modules())


@torch.no_grad()
def test_smoothing_averages_the_statistics_until_the_scene_changes():
    network, smoothing = plain_network(InstanceNorm2d(3)), Smoothing(0.75)
    dark, bright = torch.rand(1, 3, 80, 80) * 0.2, torch.rand(1, 3, 80, 80) * 0.2 + 0.8
    for frame in (dark, dark * 0.9):
        smoothing.start_frame(frame)
        run_tiled(frame, network, smoothing=smoothing)
    (mean, variance) = smoothing.statistics["model.1"]
    torch.testing.assert_close(mean, dark.mean((2, 3), keepdim=True) * (0.75 + 0.25 * 0.9))
    torch.testing.assert_close(variance, dark.var((2, 3), correction=0, keepdim=True) * (0.75 + 0.25 * 0.81))
    smoothing.start_frame(bright)
    run_tiled(bright, network, smoothing=smoothing)
    torch.testing.assert_close(smoothing.statistics["model.1"][0], bright.mean((2, 3), keepdim=True))


@pytest.mark.parametrize("tile", [None, 128])
@torch.no_grad()
def test_smoothing_reduces_the_flicker_of_static_regions(pictures, tile):
    torch.manual_seed(1)
    network = TransformerNet(NetworkConfig(4, 1, noise=0.0))
    still = torch.from_numpy(np.array(pictures[0].resize((256, 64)))).permute(2, 0, 1)[None] / 255
    frames = [still.clone() for _ in range(6)]
    for frame in frames[1::2]:
        # A sign on the left blinks. The right half is static and outside its receptive field.
        frame[..., 8:56, 8:24] = 1

    def flicker(outputs):
        return torch.stack([(a - b)[..., 160:].abs().mean() for a, b in itertools.pairwise(outputs)][2:]).mean()

    smoothing = Smoothing(0.9)
    alone = [run_tiled(frame, network, tile) for frame in frames]
    smooth = [run_tiled(frame, network, tile, smoothing) for frame in frames]
    assert torch.equal(smooth[0], alone[0])
    assert 0 < flicker(smooth) < 0.5 * flicker(alone)


@pytest.mark.parametrize("limit", ["BUDGET", "free memory"])
def test_a_picture_is_split_into_tiles_if_it_needs_more_than_the_budget_or_half_of_the_free_memory(monkeypatch, limit):
    network, needed = TransformerNet(NetworkConfig(4, 1, noise=0.0)), tiling.BYTES * 4 * 400 * 400
    sides = []
    network.model[1].register_forward_hook(lambda module, inputs, output: sides.append(max(output.shape[2:])))
    if limit == "BUDGET":
        monkeypatch.setattr(tiling, limit, needed)
    else:
        monkeypatch.setattr(tiling, "free_memory", lambda device: 2 * needed)
    with torch.no_grad():
        run_tiled(torch.rand(1, 3, 320, 320), network)
        assert sides == [384]
        sides.clear()
        run_tiled(torch.rand(1, 3, 480, 320), network)
    assert len(sides) > 4 and max(sides) < 400


@pytest.mark.parametrize(("function", "name"), [(translate, "landscape2vangogh"), (stylize, "van-gogh")])
def test_tiles_of_shipped_networks_differ_by_less_than_half_a_gray_level(function, name, pictures, monkeypatch):
    image, updates = images.to_tensor(pictures[0].resize((160, 96))), []
    whole = function(image, name)
    monkeypatch.setattr(tiling.tqdm, "update", lambda bar, n: updates.append(n / bar.total))
    torch.testing.assert_close(function(image, name, tile=64), whole, atol=1e-4, rtol=0)
    assert sum(updates) == pytest.approx(1) and max(updates) < 0.1
    monkeypatch.setattr(tiling, "BUDGET", 0)  # Features are stored in half precision.
    assert 1e-4 < (function(image, name, tile=64) - whole).abs().max() < 0.5 / 255


@pytest.mark.parametrize("margin", [tiling.MARGIN, Generator.margin])
def test_the_input_of_the_network_is_the_picture_padded_by_reflection(margin):
    inputs, network = [], plain_network()
    network.margin = margin
    network.model[0].register_forward_hook(lambda module, args, output: inputs.append(args[0]))
    image = torch.rand(1, 3, 101, 162)
    torch.testing.assert_close(run_tiled(image, network), image)
    around = functional.pad(image, (margin + 1, margin + 1, margin + 1, margin + 2), mode="reflect")
    torch.testing.assert_close(inputs[0], around)


def test_padding_inside_a_network_causes_no_frame():
    torch.manual_seed(0)
    flat = torch.full((1, 3, 80, 80), 0.7)
    network = plain_network(nn.Conv2d(3, 3, 31, padding=15))
    assert run_tiled(flat, network).std(dim=(2, 3)).max() < 1e-5 < network.model(flat).std(dim=(2, 3)).min()
