import pytest
import torch

from gatys.losses import content_loss, gram_matrix, style_loss, total_variation


@pytest.fixture
def pair():
    torch.manual_seed(0)
    return torch.randn(1, 3, 4, 5, dtype=torch.float64), torch.randn(1, 3, 2, 6, dtype=torch.float64)


def test_content_loss_is_half_the_sum_of_squared_differences():
    f, p = torch.randn(2, 1, 3, 4, 5, dtype=torch.float64).unbind()
    by_hand = 0.0
    for n in range(3):
        for i in range(4):
            for j in range(5):
                by_hand += 0.5 * (f[0, n, i, j] - p[0, n, i, j]) ** 2
    torch.testing.assert_close(content_loss(f, p), by_hand)


def test_style_loss_is_e_l_of_the_paper_for_images_of_equal_size():
    f, a = torch.randn(2, 1, 3, 4, 5, dtype=torch.float64).unbind()
    n_l, m_l = 3, 20
    by_hand = 0.0
    for i in range(n_l):
        for j in range(n_l):
            g_ij = sum(f[0, i, y, x] * f[0, j, y, x] for y in range(4) for x in range(5))
            a_ij = sum(a[0, i, y, x] * a[0, j, y, x] for y in range(4) for x in range(5))
            by_hand += (g_ij - a_ij) ** 2
    by_hand /= 4 * n_l**2 * m_l**2
    torch.testing.assert_close(style_loss(gram_matrix(f), gram_matrix(a)), by_hand)


def test_gram_matrix_forgets_where_things_are():
    features = torch.rand(2, 3, 4, 5)
    shuffled = features.flatten(2)[..., torch.randperm(20)].view_as(features)
    torch.testing.assert_close(gram_matrix(shuffled), gram_matrix(features))


def test_gram_matrix_is_symmetric_and_positive_semi_definite(pair):
    gram = gram_matrix(pair[0])
    torch.testing.assert_close(gram, gram.mT)
    assert torch.linalg.eigvalsh(gram).min() > -1e-12


def test_gram_matrix_does_not_grow_with_the_picture(pair):
    features = pair[0]
    torch.testing.assert_close(gram_matrix(torch.cat([features, features], 3)), gram_matrix(features))


def test_the_gram_matrix_of_a_region_is_that_of_its_positions(pair):
    features = pair[0]
    mask = torch.zeros(4, 5, dtype=torch.float64)
    mask[1:3, 2:] = 1
    torch.testing.assert_close(gram_matrix(features, mask), gram_matrix(features[..., 1:3, 2:]))


def test_an_empty_region_has_no_style(pair):
    assert gram_matrix(pair[0], torch.zeros(4, 5, dtype=torch.float64)).abs().max() == 0


def test_autocast_does_not_round_gram_matrices(pair):
    features, mask = pair[0].float(), torch.rand(4, 5)
    exact = gram_matrix(features), gram_matrix(features, mask)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(gram_matrix(features), exact[0]) and torch.equal(gram_matrix(features, mask), exact[1])
        assert gram_matrix(features.bfloat16()).dtype == torch.float32


def test_total_variation_of_a_small_image_is_the_value_by_hand():
    image = torch.tensor([[0.0, 1.0], [3.0, 5.0]]).expand(1, 3, 2, 2)
    # Down: 3 and 4; to the right: 1 and 2.
    torch.testing.assert_close(total_variation(image), torch.tensor((9 + 16) / 2 + (1 + 4) / 2))
    assert total_variation(torch.rand(1, 3, 1, 1)) == 0


def test_the_gradients_of_the_losses_match_finite_differences(pair):
    f, a = (x.requires_grad_() for x in pair)
    target = gram_matrix(a).detach()
    assert torch.autograd.gradcheck(lambda x: style_loss(gram_matrix(x), target), f)
    assert torch.autograd.gradcheck(lambda x: content_loss(x, torch.zeros_like(x)), f)
    assert torch.autograd.gradcheck(total_variation, f)
