import pytest
import torch
from conftest import grating

from stylekit.networks import spectra

FLAT = torch.full((1, 96, 96), 0.5)


def striped(period, amplitude):
    return FLAT + grating(FLAT, period, 255 * amplitude, angle=0)


def test_a_grating_has_the_square_of_its_amplitude_as_power_and_its_own_detail():
    power = spectra.power_spectra(striped(6, 0.1), 12)
    assert power.shape == (25, 48, 25)
    torch.testing.assert_close(power[:, 0, 8], torch.full((25,), 0.01), rtol=0.01, atol=0)
    # 0.1 / 2^(1/2) is the root mean square of a cosine.
    torch.testing.assert_close(spectra.detail(power), torch.full((25,), 0.0707), rtol=0.03, atol=0)
    assert spectra.detail(spectra.power_spectra(striped(24, 0.1), 12)).max() < 0.005


def test_a_peak_counts_in_gray_levels_on_a_flat_surface():
    peaks = spectra.peaks(spectra.power_spectra(striped(6, 3 / 255), 12).mean(0))
    assert peaks.max().item() == pytest.approx(3, rel=0.02)
    assert (peaks > 1).sum() < 6  # Leakage reaches the neighbors only.


def test_every_picture_of_a_batch_counts():
    both = spectra.power_spectra(torch.cat([striped(6, 0.1), striped(8, 0.2)]), 12)
    torch.testing.assert_close(both[:25], spectra.power_spectra(striped(6, 0.1), 12))
    torch.testing.assert_close(both[25:], spectra.power_spectra(striped(8, 0.2), 12))


def test_the_luminance_is_that_of_bt_601():
    picture = torch.tensor([1.0, 0.5, 0.25]).view(1, 3, 1, 1)
    assert spectra.luminance(picture).item() == pytest.approx(0.299 + 0.587 / 2 + 0.114 / 4)
    luminance, blue, red = spectra.luminance_and_chroma(picture).flatten()
    assert luminance == spectra.luminance(picture)
    assert blue.item() == pytest.approx(0.564 * (0.25 - luminance.item()), rel=0.01)
    assert red.item() == pytest.approx(0.713 * (1 - luminance.item()), rel=0.01)


def test_training_goes_on_after_an_evaluation():
    spectra._hann.cache_clear(), spectra._rings.cache_clear()
    picture = striped(6, 0.1).requires_grad_()
    with torch.inference_mode():
        spectra.detail(spectra.power_spectra(picture, 12))
    spectra.peaks(spectra.power_spectra(picture, 12).mean(0)).max().backward()
    assert picture.grad.abs().max() > 0
