"""What `translate` and `stylize` accept, and what they return for it."""

import numpy as np
import pytest
import torch
from PIL import Image

from cyclegan.models import Generator
from cyclegan.options import GeneratorConfig
from cyclegan.translate import translate
from johnson.models import TransformerNet
from johnson.options import NetworkConfig
from johnson.stylize import stylize
from stylekit.pictures import images
from stylekit.pictures.inputs import to_batch

PROGRAMS = [(translate, Generator(GeneratorConfig(4, 1)).eval()), (stylize, TransformerNet(NetworkConfig(4, 1)).eval())]


@pytest.mark.parametrize(("paint", "network"), PROGRAMS)
def test_files_pil_images_and_arrays_give_the_same_pil_image(tmp_path, pictures, paint, network):
    picture = pictures[0].crop((0, 0, 30, 20))
    picture.save(tmp_path / "photo.png")
    pixels = np.asarray(picture)
    expected = images.to_image(paint(images.to_tensor(picture), network))
    kinds = [picture, tmp_path / "photo.png", str(tmp_path / "photo.png"), pixels, pixels[:, ::-1][:, ::-1]]
    for given in [*kinds, pixels / 255, (pixels / 255).astype(np.float32)]:
        painted = paint(given, network)
        assert isinstance(painted, Image.Image)
        assert np.abs(np.subtract(painted, expected, dtype=int)).max() <= 1


@pytest.mark.parametrize(("paint", "network"), PROGRAMS)
def test_tensors_give_tensors_of_the_same_shape(paint, network):
    batch = torch.rand(2, 3, 20, 30)
    painted = paint(batch, network)
    assert painted.shape == batch.shape
    assert torch.allclose(paint(batch[0], network), paint(batch[:1], network)[0], atol=1e-5)
    assert paint(batch[0], network, strength=0.5).shape == (3, 20, 30)


def test_pil_images_are_shown_as_files_are():
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = Image.new("RGB", (4, 2), "red")
    turned.info["exif"] = exif.tobytes()
    assert to_batch(turned, "cpu").shape == (1, 3, 4, 2)
    assert to_batch(Image.new("RGBA", (2, 2), (0, 0, 0, 0)), "cpu").min() == 1
    assert to_batch(Image.new("L", (2, 2), 51), "cpu")[0, :, 0, 0].tolist() == pytest.approx([0.2] * 3)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (255 * torch.rand(1, 3, 8, 8), r"expected values in \[0, 1\], got .*; divide by 255"),
        (255 * np.random.default_rng(0).random((8, 8, 3)), r"expected values in \[0, 1\], got .*; divide by 255"),
        (-torch.ones(3, 4, 4), r"expected values in \[0, 1\], got -1 to -1$"),
        (torch.full((3, 4, 4), torch.nan), r"expected values in \[0, 1\], got nan to nan$"),
        (torch.zeros(3, 4, 4, dtype=torch.uint8), r"floating-point tensor in \[0, 1\], got torch.uint8; use x.float"),
        (
            np.zeros((4, 4, 3), np.int64),
            r"expected an array of uint8 or of floating-point numbers in \[0, 1\], got int",
        ),
        (torch.zeros(4, 4, 3), r"of shape \(3, H, W\) or \(B, 3, H, W\), got \(4, 4, 3\); use permute"),
        (torch.zeros(0, 3, 4, 4), r"of shape \(3, H, W\) or \(B, 3, H, W\), got \(0, 3, 4, 4\)"),
        (np.zeros((3, 4, 4), np.uint8), r"expected an array of shape \(H, W, 3\), got \(3, 4, 4\)"),
        (np.zeros((4, 4), np.uint8), r"expected an array of shape \(H, W, 3\), got \(4, 4\)"),
    ],
)
def test_other_shapes_types_and_ranges_are_refused_in_one_line(given, message):
    with pytest.raises(ValueError, match=message) as error:
        to_batch(given, "cpu")
    assert "\n" not in str(error.value)


def test_rounding_errors_are_accepted():
    assert to_batch(torch.tensor([-1e-6, 0.5, 1.0039]).view(3, 1, 1), "cpu").shape == (1, 3, 1, 1)
    assert to_batch(np.full((1, 1, 3), 1 + 1e-6), "cpu").max() == 1
