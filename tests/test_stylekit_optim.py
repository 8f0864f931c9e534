import pytest
import torch
from torch import nn

from stylekit.optim import Muon, orthogonalize


@pytest.mark.parametrize("shape", [(8, 8), (4, 30), (30, 4)])
def test_what_is_orthogonalised_has_singular_values_near_one_and_the_same_directions(shape):
    torch.manual_seed(0)
    matrix = torch.randn(shape)
    found = orthogonalize(1e-3 * matrix)
    assert found.shape == matrix.shape and found.dtype == matrix.dtype
    values = torch.linalg.svdvals(found)
    assert values.min() > 0.6 and values.max() < 1.3
    # The nearest orthogonal matrix to U S V' is U V'.
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    assert torch.nn.functional.cosine_similarity(found.flatten(), (u @ v).flatten(), dim=0) > 0.97


def test_a_gradient_of_zeros_moves_nothing():
    kernel = nn.Parameter(torch.ones(4, 2, 3, 3))
    kernel.grad = torch.zeros_like(kernel)
    Muon([kernel]).step()
    assert torch.equal(kernel, torch.ones_like(kernel))


def test_a_kernel_moves_as_far_as_adam_moves_it():
    torch.manual_seed(0)
    kernel = nn.Parameter(torch.zeros(16, 16, 3, 3))
    kernel.grad = torch.randn_like(kernel)
    Muon([kernel], lr=1e-2).step()
    # Adam's steps have a root mean square of about 0.2 times the learning rate in training (Liu et al. 2025).
    assert kernel.detach().square().mean().sqrt() == pytest.approx(0.2 * 1e-2, rel=0.15)


def test_all_but_kernels_move_as_with_adam():
    torch.manual_seed(0)
    start = [torch.randn(16), torch.randn(3, 8, 9, 9), torch.randn(4, 5)]
    pairs = [[nn.Parameter(tensor.clone()) for tensor in start] for _ in range(2)]
    optimizers = [Muon(pairs[0], lr=1e-2), torch.optim.Adam(pairs[1], lr=1e-2)]
    for _ in range(5):
        for mine, adams in zip(*pairs, strict=True):
            mine.grad = torch.randn_like(mine)
            adams.grad = mine.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    for mine, adams in zip(*pairs, strict=True):
        torch.testing.assert_close(mine, adams)


def test_a_stretched_valley_is_descended_faster_than_with_adam():
    """Least squares whose inputs differ a thousandfold in size, as features of a network do."""

    def loss_after(build):
        torch.manual_seed(0)
        inputs = torch.randn(64, 8, 3, 3) * torch.logspace(0, -3, 8)[:, None, None]
        inputs = torch.einsum("bchw,cd->bdhw", inputs, torch.linalg.qr(torch.randn(8, 8))[0])
        network, goal = (nn.Conv2d(8, 8, 3, bias=False) for _ in range(2))
        optimizer = build(network.parameters())
        for i in range(200):
            optimizer.param_groups[0]["lr"] = 1e-2 * (1 - i / 200)
            optimizer.zero_grad()
            loss = (network(inputs) - goal(inputs)).square().mean()
            loss.backward()
            optimizer.step()
        return loss.item()

    assert loss_after(Muon) < 0.5 * loss_after(torch.optim.Adam)


def test_it_goes_on_from_its_state():
    def steps(kernel, optimizer, numbers):
        for number in numbers:
            kernel.grad = torch.randn(kernel.shape, generator=torch.Generator().manual_seed(number))
            optimizer.step()

    whole, first = (nn.Parameter(torch.zeros(8, 4, 3, 3)) for _ in range(2))
    steps(whole, Muon([whole]), range(4))
    halfway = Muon([first])
    steps(first, halfway, range(2))
    second = nn.Parameter(first.detach().clone())
    onward = Muon([second])
    onward.load_state_dict(halfway.state_dict())
    steps(second, onward, range(2, 4))
    assert torch.equal(second, whole)
