import torch

from cyclegan.discriminators import (
    DiscriminatorPair,
    Discriminators,
    FeatureDiscriminator,
    PatchDiscriminator,
    discriminator_class,
)
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


def test_each_discriminator_scores_its_own_domain():
    x, y = torch.rand(2, 1, 3, 32, 32)
    one = DiscriminatorPair(PatchDiscriminator(4, 2), PatchDiscriminator(4, 2))
    two = DiscriminatorPair(*(PatchDiscriminator(4, 2) for _ in "xy"), *(FeatureDiscriminator(4).eval() for _ in "xy"))
    assert list(one.named()) == ["D_X", "D_Y"]
    assert list(two.named()) == ["D_X", "D_Y", "D_X_features", "D_Y_features"]
    torch.testing.assert_close(one(x, y), ((one.D_X(x),), (one.D_Y(y),)))
    torch.testing.assert_close(two(x, y), ((two.D_X(x), two.extra_x(x)), (two.D_Y(y), two.extra_y(y))))
    torch.testing.assert_close(Discriminators([two.D_Y, two.extra_y])(y), two(x, y)[1])


def test_a_folder_tells_which_discriminator_it_holds(tmp_path):
    for network, name in ((PatchDiscriminator(4, 2), "patch"), (FeatureDiscriminator(4), "feature")):
        network.save_pretrained(tmp_path / name)
        assert discriminator_class(tmp_path / name) is type(network)
    for i, config in enumerate(("{}", "[]", "{")):
        (tmp_path / str(i)).mkdir()
        (tmp_path / str(i) / "config.json").write_text(config)
        assert discriminator_class(tmp_path / str(i)) is None
    assert discriminator_class(tmp_path / "nowhere") is None


def test_heads_on_features_have_one_score_each_and_leave_the_vgg_alone(tmp_path):
    network = FeatureDiscriminator(4)
    x = torch.rand(2, 3, 64, 48, requires_grad=True)
    scores = network(x)
    assert scores.shape == (2, 5, 16, 12)
    scores.sum().backward()
    assert (x.grad != 0).any(dim=1).float().mean() > 0.9
    # The VGG is neither trained nor saved.
    assert {name.split(".")[0] for name, _ in network.named_parameters()} == {"heads"}
    assert {name.split(".")[0] for name in network.state_dict()} == {"heads"}
    network.eval().save_pretrained(tmp_path)
    again = FeatureDiscriminator.from_pretrained(tmp_path).eval()
    torch.testing.assert_close(again(x), network(x), rtol=0, atol=0)


def test_no_head_can_be_steep():
    """Spectral normalization bounds the gain of every layer, and so how fast a head can win."""
    network = FeatureDiscriminator(8)
    for parameter in network.parameters():
        parameter.data.mul_(100)
    for _ in range(20):  # Each forward pass in training is one power iteration.
        network(torch.rand(1, 3, 32, 32))
    for head in network.heads.values():
        norms = [torch.linalg.matrix_norm(m.weight.flatten(1), 2) for m in head if hasattr(m, "weight")]
        torch.testing.assert_close(torch.stack(norms), torch.ones(len(norms)), rtol=0.1, atol=0)
