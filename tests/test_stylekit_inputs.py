"""What functions that paint accept as a picture."""

import numpy as np
import pytest
import torch
from PIL import Image

from stylekit.pictures.inputs import to_batch


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
