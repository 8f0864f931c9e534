import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_image

import gatys.stylize
from gatys.options import STYLE_LAYERS, StylizeConfig
from gatys.styles import load_preset, make_preset, style_network
from gatys.stylize import build_network, scale_sizes, stylize
from stylekit.pictures import images

FAST = StylizeConfig(size=32, steps=3, min_size=32)


@pytest.fixture(scope="module")
def content():
    return images.to_tensor(Image.fromarray(load_sample_image("china.jpg")[100:148, 100:164]))


@pytest.fixture(scope="module")
def painting():
    return images.to_tensor(Image.fromarray(load_sample_image("flower.jpg")[100:190, 300:360]))


@pytest.fixture(scope="module")
def network():
    return build_network(FAST)


def changed(**options):
    return dataclasses.replace(FAST, **options)


def losses(content, styles, config, **arguments):
    """The sum of the terms at each step."""
    found = []
    arguments["on_step"] = lambda step: found.append(float(sum(step.terms.values())))
    stylize(content, styles, config, **arguments)
    return found


def test_files_pil_images_arrays_and_tensors_give_the_same_picture(content, painting, network, tmp_path):
    expected = stylize(content, [painting], FAST, network=network)
    assert expected.shape == (1, 3, 24, 32) and expected.min() >= 0 and expected.max() <= 1
    photograph, style = images.to_image(content), images.to_image(painting)
    photograph.save(tmp_path / "photo.png")
    style.save(tmp_path / "style.png")
    for given in (photograph, str(tmp_path / "photo.png"), np.asarray(photograph)):
        for styles in (style, tmp_path / "style.png", [painting[0]]):
            result = stylize(given, styles, FAST, network=network)
            assert np.array_equal(result, images.to_image(expected))
    assert torch.equal(stylize(content[0].double(), painting, FAST, network=network), expected[0].double())


def test_a_bundled_style_can_be_given_by_name(content, network):
    preset = load_preset("starry-night")
    pictures = [stylize(content, style, FAST, network=network) for style in ("starry-night", ["starry-night"], preset)]
    assert torch.equal(pictures[0], pictures[1]) and torch.equal(pictures[0], pictures[2])


def test_the_loss_falls_faster_with_lbfgs_than_with_adam(content, painting, network):
    lbfgs, adam = (
        losses(content, [painting], changed(steps=20, optimizer=name), network=network) for name in ("lbfgs", "adam")
    )
    assert lbfgs[-1] < adam[-1] < 0.5 * adam[0]


@pytest.mark.parametrize("init", ["content", "noise", "style"])
def test_the_same_seed_gives_the_same_picture(content, painting, network, init):
    pictures = [stylize(content, [painting], changed(init=init), network=network) for _ in range(2)]
    assert torch.equal(*pictures)


def test_another_seed_gives_another_picture_from_noise(content, painting, network):
    pictures = [stylize(content, [painting], changed(init="noise", seed=s), network=network) for s in (0, 1)]
    assert not torch.allclose(*pictures, atol=0.01)


def test_without_a_style_loss_the_photograph_is_kept(content, painting, network):
    result = stylize(content, [painting], changed(beta=0.0), network=network)
    expected = images.to_tensor(images.to_image(content).resize((32, 24), Image.Resampling.BICUBIC))
    torch.testing.assert_close(result, expected, atol=0.02, rtol=0)


def test_every_scale_is_larger_by_the_square_root_of_2_and_the_last_is_the_result():
    sizes = scale_sizes(300, 400, StylizeConfig(size=512))
    assert sizes == [(96, 128), (136, 181), (192, 256), (272, 362), (384, 512)]
    assert scale_sizes(300, 400, StylizeConfig()) == scale_sizes(300, 400, StylizeConfig(size=400))
    assert scale_sizes(3000, 4000, StylizeConfig(min_size=512)) == [(384, 512)]
    assert scale_sizes(1, 1, StylizeConfig()) == [(1, 1)]
    assert scale_sizes(20, 3000, StylizeConfig(size=1000, min_size=1000)) == [(7, 1000)]


@pytest.mark.parametrize("size", [(1, 1), (4, 300), (33, 7)])
def test_any_size_can_be_stylized(painting, network, size):
    config = StylizeConfig(steps=2, min_size=100)
    result = stylize(torch.rand(1, 3, *size), [painting[..., :5, :9]], config, network=network)
    assert result.shape[2:] == size


def test_on_step_gets_every_step_and_can_stop_the_run(content, painting, network):
    config = changed(steps=4, size=48, min_size=24)
    steps = []
    whole = stylize(content, [painting], config, network=network, on_step=steps.append)
    assert [step.number for step in steps] == list(range(1, 13)) and steps[0].total == 12
    assert [step.size for step in steps[::4]] == [(18, 24), (26, 34), (36, 48)]
    torch.testing.assert_close(steps[-1].image(), whole)
    short = stylize(content, [painting], config, network=network, on_step=lambda step: step.number < 6)
    # Stopped at an early scale, the result still has the final size.
    assert short.shape == whole.shape and not torch.equal(short, whole)


def test_a_preset_gives_the_result_of_its_painting(content, painting):
    network = style_network("compact", None, "max")
    full = build_network(FAST)
    style = images.to_image(painting).resize((128, 192))
    preset = make_preset([style], network)
    by_preset, by_painting = (stylize(content, [s], changed(size=128, min_size=128), network=full)
                    for s in (preset, images.to_tensor(images.resize(style, 128))))  # fmt: skip
    torch.testing.assert_close(by_preset, by_painting, atol=0.02, rtol=0)


def test_only_the_ratios_of_style_weights_matter(content, painting, network):
    other = painting.flip(1)
    one = stylize(content, [painting], FAST, network=network)
    torch.testing.assert_close(stylize(content, [painting, other], changed(style_weights=(2, 0)), network=network), one)
    torch.testing.assert_close(stylize(content, {painting: 2, other: 0}, FAST, network=network), one)
    torch.testing.assert_close(
        stylize(content, [painting, painting], changed(style_weights=(1, 3)), network=network), one, atol=1e-3, rtol=0
    )
    assert not torch.allclose(stylize(content, [painting, other], FAST, network=network), one, atol=0.01)


def test_preserve_color_luminance_keeps_the_chroma(painting, network):
    gray_red = torch.tensor([0.6, 0.45, 0.45]).view(1, 3, 1, 1).expand(1, 3, 32, 32)
    result = stylize(gray_red, [painting], changed(preserve_color="luminance"), network=network)
    difference = result[:, 0] - result[:, 1]
    inside = (result > 0).all(1) & (result < 1).all(1)
    torch.testing.assert_close(difference[inside], torch.full_like(difference[inside], 0.15), atol=1e-3, rtol=0)
    torch.testing.assert_close(result[:, 1], result[:, 2], atol=1e-3, rtol=0)


def test_preserve_color_histogram_keeps_the_mean_color_of_the_photograph(content, painting, network):
    def color(image):
        return image.mean((0, 2, 3))

    config = changed(steps=30, alpha=0.0)
    plain = stylize(content, [painting], config, network=network)
    kept = stylize(content, [painting], dataclasses.replace(config, preserve_color="histogram"), network=network)
    wanted = color(content)
    assert (color(kept) - wanted).norm() < 0.5 * (color(plain) - wanted).norm()


def test_a_mask_keeps_black_pixels(content, painting, network):
    mask = torch.zeros(1, 3, 24, 32)
    mask[..., 16:] = 1
    config = changed(steps=10)
    result = stylize(content, [painting], config, network=network, mask=mask)
    photograph = stylize(content, [painting], changed(beta=0.0, steps=1), network=network)
    torch.testing.assert_close(result[..., :14], photograph[..., :14], atol=1e-3, rtol=0)
    assert (result[..., 18:] - photograph[..., 18:]).abs().mean() > 0.01


def test_each_region_takes_the_style_of_the_same_color(network):
    """The painting is red on the left and blue on the right; the photograph's regions are top and bottom."""
    half = torch.zeros(1, 3, 64, 64)
    half[..., 32:] = 1
    painting = torch.where(
        half.bool(), torch.tensor([0.1, 0.1, 0.9]).view(3, 1, 1), torch.tensor([0.9, 0.1, 0.1]).view(3, 1, 1)
    )
    painting = (painting + 0.05 * torch.randn_like(painting)).clamp(0, 1)
    content = torch.full((1, 3, 64, 64), 0.5)
    config = StylizeConfig(size=64, min_size=64, steps=40, alpha=0.0, style_layers=("relu1_1", "relu2_1"))
    result = stylize(content, [painting], config, network=build_network(config), regions=half.mT, style_regions=[half])
    above, below = result[..., :28, :].mean((0, 2, 3)), result[..., 36:, :].mean((0, 2, 3))
    assert above[0] > above[2] + 0.3
    assert below[2] > below[0] + 0.3


def test_low_memory_gives_the_same_picture_in_tiles(content, painting, network):
    big = content.repeat(1, 1, 3, 3)
    config = StylizeConfig(size=192, min_size=192, steps=1, memory=1e-3)
    tiled = stylize(big, [painting], config, network=network)
    whole = stylize(big, [painting], dataclasses.replace(config, memory=100.0), network=network)
    torch.testing.assert_close(tiled, whole, atol=1e-3, rtol=0)


def test_the_photograph_emerges_from_noise(content, network):
    config = changed(init="noise", beta=0.0, steps=40, content_layer="relu1_1")
    result = stylize(content, [content], config, network=build_network(config))
    photograph = stylize(content, [content], changed(beta=0.0, steps=1), network=network)
    correlation = np.corrcoef(result.flatten().numpy(), photograph.flatten().numpy())[0, 1]
    assert correlation > 0.9


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"content": torch.rand(2, 3, 8, 8)}, "content: expected one picture, got a batch of 2"),
        ({"content": "nowhere.jpg"}, "no picture nowhere.jpg"),
        ({"styles": "nobody"}, "no style nobody; expected"),
        ({"styles": []}, "at least one style"),
        ({"styles": [torch.rand(1, 1, 8, 8)]}, "style 1: expected a tensor of shape"),
        ({"config": changed(init="somewhere.png")}, "--init somewhere.png: expected content, noise, style"),
        ({"config": changed(style_weights=(1, 2))}, "style_weights: got 2 weights for 1 styles"),
        ({"config": changed(style_weights=(-1,))}, "style_weights must not be negative or all 0, got -1"),
        ({"style_regions": [torch.rand(1, 3, 8, 8)]}, "--regions needs one picture per painting"),
        ({"mask": torch.rand(1, 1, 8, 8)}, "mask: expected a tensor of shape"),
        (
            {"regions": torch.ones(1, 3, 8, 8), "style_regions": [torch.zeros(1, 3, 8, 8)]},
            "style regions 1 have no white",
        ),
    ],
)
def test_invalid_arguments_are_named(content, painting, network, arguments, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        stylize(**({"content": content, "styles": [painting], "config": FAST, "network": network} | arguments))


@pytest.mark.parametrize(
    "options, message",
    [
        ({"content_layer": "relu9_1"}, "relu9_1.*choose from conv1_1, relu1_1"),
        ({"style_layers": ("relu1_1", "relu1_1")}, "no duplicates"),
        ({"alpha": -1.0}, "--alpha must be 0 or more"),
        ({"alpha": 0.0, "beta": 0.0}, "both 0"),
        ({"steps": 0}, "--steps must be at least 1"),
        ({"vgg_weights": "vgg.pth"}, "has its own weights"),
    ],
)
def test_invalid_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        build_network(StylizeConfig(**options))


def test_a_preset_of_another_network_or_without_a_layer_is_refused(content, painting, network):
    preset = make_preset([images.to_image(painting)], style_network("compact", None, "average"))
    with pytest.raises(ValueError, match="made with another VGG network"):
        stylize(content, [preset], FAST, network=network)
    preset = make_preset([images.to_image(painting)], style_network("compact", None, "max"))
    config = changed(style_layers=(*STYLE_LAYERS, "relu3_2"))
    with pytest.raises(ValueError, match="has no relu3_2; it has relu1_1"):
        stylize(content, [preset], config, network=build_network(config))


def test_the_image_is_optimised_with_a_reflected_margin_that_is_cropped(content, painting, network, monkeypatch):
    contents = []
    real = gatys.stylize.Objective

    def recording(network, content, *rest):
        contents.append(content)
        return real(network, content, *rest)

    monkeypatch.setattr(gatys.stylize, "Objective", recording)
    steps = []
    config = changed(size=128, min_size=128, steps=1)
    result = stylize(content, [painting], config, network=network, on_step=steps.append)
    assert contents[0].shape[2:] == (100, 132) and result.shape[2:] == steps[0].image().shape[2:] == (96, 128)
    assert torch.equal(contents[0][..., 2:-2, 1], contents[0][..., 2:-2, 3])
    assert torch.equal(contents[0][..., -2, 2:-2], contents[0][..., -4, 2:-2])
