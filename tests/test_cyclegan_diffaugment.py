import torch

from cyclegan.diffaugment import BRIGHTNESS, CONTRAST, diffaugment


def test_every_picture_of_a_batch_is_changed_at_random_and_a_little():
    pictures = torch.rand(1, 3, 32, 48).expand(6, -1, -1, -1) * 2 - 1
    changed = diffaugment(pictures)
    assert changed.shape == pictures.shape
    assert len({picture.sum().item() for picture in changed}) == 6
    means = changed.mean((1, 2, 3)) - pictures.mean((1, 2, 3))
    assert means.abs().max() < BRIGHTNESS + 0.1 and means.abs().min() > 0
    spread = changed.std((1, 2, 3)) / pictures.std((1, 2, 3))
    assert (spread - 1).abs().max() < CONTRAST + 0.05


def test_pictures_are_shifted_by_whole_pixels():
    """A step edge stays a step between two pixels, wherever it moves."""
    edge = torch.where(torch.arange(64) < 32, -1.0, 1.0).expand(8, 3, 64, 64)
    jumps = [picture[0, 32].diff().ne(0).nonzero().flatten().tolist() for picture in diffaugment(edge)]
    places = {place for (place,) in jumps}
    assert len(places) > 2 and all(abs(place - 31) <= 8 for place in places)


def test_the_gradient_reaches_every_pixel_that_stays():
    picture = torch.zeros(1, 3, 16, 16, requires_grad=True)
    diffaugment(picture).sum().backward()
    assert picture.grad[..., 2:14, 2:14].ne(0).all()


def test_the_seed_decides():
    pictures, results = torch.rand(2, 3, 16, 16), []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        results.append(diffaugment(pictures))
    assert torch.equal(results[0], results[1]) and not torch.equal(results[0], results[2])
