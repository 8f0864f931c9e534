import torch

from cyclegan.discriminators import DiscriminatorPair, PatchDiscriminator
from stylekit.networks.blocks import InstanceNorm2d, count_parameters


def test_discriminator_has_the_published_number_of_parameters_and_scores():
    network = PatchDiscriminator()
    assert count_parameters(network) == 2_764_737
    with torch.device("meta"):
        assert PatchDiscriminator()(torch.empty(1, 3, 256, 256)).shape == (1, 1, 30, 30)
        counts = [count_parameters(PatchDiscriminator(n_layers=n)) for n in (2, 4, 5)]
    assert counts == [662_977, 6_959_553, 11_154_369]


def test_a_score_of_the_discriminator_depends_on_70_pixels():
    network = PatchDiscriminator(ndf=4)
    for module in network.modules():
        if isinstance(module, InstanceNorm2d):  # Its statistics depend on the whole picture.
            module.measure = lambda x: (torch.zeros(1), torch.ones(1))
    x = torch.randn(1, 3, 128, 128, requires_grad=True)
    network(x)[0, 0, 7, 7].backward()
    rows = x.grad.abs().sum((0, 1, 3)).nonzero().flatten()
    assert rows.max() - rows.min() + 1 == 70


def test_each_discriminator_gets_its_own_domain():
    pair = DiscriminatorPair(PatchDiscriminator(4, 2), PatchDiscriminator(4, 2))
    x, y = torch.rand(1, 3, 32, 32), torch.rand(1, 3, 32, 32)
    scores_x, scores_y = pair(x, y)
    torch.testing.assert_close(scores_x, pair.D_X(x))
    torch.testing.assert_close(scores_y, pair.D_Y(y))
