import pytest
import torch
from conftest import load_recipe

from johnson.models import TransformerNet
from johnson.stylize import load_network, stylize
from stylekit.networks import weights
from stylekit.pictures import images

recipe = load_recipe("limit")


def test_a_limited_network_paints_as_before_and_has_no_larger_features(tmp_path, pictures):
    photographs = tmp_path / "photographs"
    photographs.mkdir()
    for i in (1, 7):
        pictures[i].save(photographs / f"{i}.png")
    network = TransformerNet(4, 1).eval()
    weights.save(network, tmp_path / "network")
    bare = TransformerNet(4, 1, limit=2.0).eval()
    bare.load_state_dict(network.state_dict())

    def limited(value, name):
        recipe.limit(recipe.LimitConfig(str(tmp_path / "network"), photographs, tmp_path / name, limit=value))
        return load_network(tmp_path / name)

    photograph = images.to_tensor(pictures[1])
    networks = network, limited(100.0, "wide"), limited(2.0, "strict"), bare
    with torch.no_grad():
        before, same, strict, only_limited = (stylize(photograph, n) for n in networks)
    # No feature is 100 standard deviations from the mean, so that nothing needs to change.
    torch.testing.assert_close(same, before, atol=1e-4, rtol=0)
    assert 0 < (strict - before).abs().mean() < 0.8 * (only_limited - before).abs().mean()
    assert load_network(tmp_path / "strict").model[2].limit == 2
    with pytest.raises(FileExistsError, match="choose another --output"):
        limited(2.0, "strict")
    with pytest.raises(ValueError, match="has a limit of 2 already"):
        recipe.limit(recipe.LimitConfig(str(tmp_path / "strict"), photographs, tmp_path / "again"))
