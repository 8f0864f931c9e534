import pytest
import torch
from torch import nn

from stylekit.options import Schedule
from stylekit.training.optim import (
    Muon,
    build_ema,
    frozen,
    learning_rate,
    load_optimizer,
    lr_factor,
    optimizer_step,
    orthogonalize,
    set_learning_rate,
)


def test_a_step_descends_the_sum_of_the_terms_and_forgets_old_gradients():
    weight = nn.Parameter(torch.tensor([1.0, 2.0]))
    weight.grad = torch.tensor([100.0, 100.0])
    optimizer = torch.optim.SGD([weight], lr=0.1)
    optimizer_step(optimizer, {"square": weight.square().sum(), "sum": 3 * weight.sum()})
    # The gradient is 2 w + 3.
    torch.testing.assert_close(weight.detach(), torch.tensor([1 - 0.5, 2 - 0.7]))


def test_gradients_pass_through_a_frozen_network_but_not_into_it():
    layer, x = nn.Linear(2, 1), torch.ones(1, 2, requires_grad=True)
    with frozen(layer):
        y = layer(x)
    y.sum().backward()
    assert torch.equal(x.grad, layer.weight.detach())
    assert layer.weight.grad is None and layer.weight.requires_grad
    with pytest.raises(RuntimeError, match="halfway"), frozen(layer):
        raise RuntimeError("halfway")
    assert layer.weight.requires_grad


def test_the_learning_rate_is_constant_and_then_falls_to_zero():
    assert [lr_factor(progress, 0.5) for progress in (0, 0.5, 0.75, 1)] == [1, 1, 0.5, 0]
    assert [lr_factor(progress, 1) for progress in (0, 0.25, 1)] == [1, 0.75, 0]
    assert [lr_factor(progress, 0) for progress in (0, 1)] == [1, 1]


def test_cosine_decays_over_half_a_period_and_constant_does_not_decay():
    assert [lr_factor(progress, 0.5, "cosine") for progress in (0, 0.5)] == [1, 1]
    assert [lr_factor(progress, 0.5, "cosine") for progress in (0.75, 1)] == pytest.approx([0.5, 0])
    assert lr_factor(0.6, 0.5, "cosine") > lr_factor(0.6, 0.5, "linear")
    assert lr_factor(1.0, 0.5, "constant") == 1


def test_the_learning_rate_follows_the_epochs_of_decay_in_every_group():
    optimizer = torch.optim.SGD([{"params": [nn.Parameter(torch.zeros(1))]} for _ in range(2)])
    schedule = Schedule(n_epochs=3, n_epochs_decay=1, lr=0.2)
    for progress, expected in ((0.0, 0.2), (0.75, 0.2), (0.875, 0.1)):
        set_learning_rate(optimizer, learning_rate(schedule, progress))
        assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([expected] * 2)


def test_the_moving_average_starts_as_a_copy_and_follows_the_weights():
    layer = nn.Linear(1, 1, bias=False)
    values = [layer.weight.item()]
    ema = build_ema(layer, 0.9)
    assert ema.module.weight.item() == values[0] and not ema.module.weight.requires_grad
    for _ in range(3):
        layer.weight.data += 1
        values.append(layer.weight.item())
        ema.update_parameters(layer)
    # PyTorch's first update copies; the average begins after it.
    expected = 0.9 * (0.9 * values[1] + 0.1 * values[2]) + 0.1 * values[3]
    assert ema.module.weight.item() == pytest.approx(expected)


def test_without_decay_the_moving_average_is_the_network():
    layer = nn.Linear(1, 1)
    ema = build_ema(layer, 0.0)
    for _ in range(2):
        layer.weight.data += 1
        ema.update_parameters(layer)
    assert torch.equal(ema.module.weight, layer.weight)


@pytest.mark.parametrize("shape", [(8, 8), (4, 30), (30, 4)])
def test_orthogonalized_matrices_have_singular_values_near_one_and_the_same_directions(shape):
    matrix = torch.randn(shape)
    found = orthogonalize(1e-3 * matrix)
    assert found.shape == matrix.shape and found.dtype == matrix.dtype
    values = torch.linalg.svdvals(found)
    assert values.min() > 0.6 and values.max() < 1.3
    # The nearest orthogonal matrix to U S V' is U V'.
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    assert torch.nn.functional.cosine_similarity(found.flatten(), (u @ v).flatten(), dim=0) > 0.97


def test_a_zero_gradient_moves_nothing():
    kernel = nn.Parameter(torch.ones(4, 2, 3, 3))
    kernel.grad = torch.zeros_like(kernel)
    Muon([kernel]).step()
    assert torch.equal(kernel, torch.ones_like(kernel))


def test_muon_moves_a_kernel_as_far_as_adam_does():
    kernel = nn.Parameter(torch.zeros(16, 16, 3, 3))
    kernel.grad = torch.randn_like(kernel)
    Muon([kernel], lr=1e-2).step()
    # Adam's steps have a root mean square of about 0.2 times the learning rate in training (Liu et al. 2025).
    assert kernel.detach().square().mean().sqrt() == pytest.approx(0.2 * 1e-2, rel=0.15)


def test_muon_moves_other_parameters_exactly_as_adam_does():
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


MAKERS = [lambda p: torch.optim.Adam(p, fused=True), Muon]
STATES = {
    "the same": torch.Tensor.clone,
    "strided": lambda value: torch.stack([value, value], -1)[..., 0],
    "expanded": lambda value: value.reshape(-1)[0].as_strided(value.shape, (0,) * value.ndim),
    "double": torch.Tensor.double,
}


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("kind", STATES)
def test_a_state_is_copied_into_tensors_of_its_own(make, kind):
    """A fused kernel writes beyond the memory of an expanded tensor."""
    kernel, bias = (nn.Parameter(torch.ones(shape)) for shape in ((4, 2, 3, 3), (5,)))
    optimizer = make([kernel, bias])
    optimizer_step(optimizer, {"sum": kernel.sum() + bias.sum()})
    saved = optimizer.state_dict()
    given = {
        number: {
            name: STATES[kind](value) if isinstance(value, torch.Tensor) else value for name, value in state.items()
        }
        for number, state in saved["state"].items()
    }
    load_optimizer(optimizer, saved | {"state": given})
    for parameter, number in ((kernel, 0), (bias, 1)):
        for name, value in optimizer.state[parameter].items():
            if isinstance(value, torch.Tensor):
                assert value.is_contiguous() and value.dtype == torch.float32
                assert value.untyped_storage().nbytes() == 4 * value.numel()
                assert value.data_ptr() != given[number][name].data_ptr()
                torch.testing.assert_close(value, given[number][name].float(), rtol=0, atol=0)
    optimizer.step()


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize(
    ("number", "change"),
    [
        (0, {"exp_avg": torch.zeros(1)}),
        (0, {"exp_avg_sq": torch.zeros(3, 2)}),
        (0, {"exp_avg_sq": None}),
        (0, {"step": torch.zeros(7)}),
        (9, {"exp_avg": torch.zeros(2, 3)}),
    ],
)
def test_the_state_of_another_optimizer_is_refused(make, number, change):
    parameter = nn.Parameter(torch.ones(2, 3))
    optimizer = make([parameter])
    optimizer_step(optimizer, {"sum": parameter.sum()})
    saved = optimizer.state_dict()
    state = saved["state"].get(number, {}) | change
    saved["state"][number] = {name: value for name, value in state.items() if value is not None}
    with pytest.raises((ValueError, RuntimeError), match=r"optimizer|broadcast|size|scalar"):
        load_optimizer(optimizer, saved)
