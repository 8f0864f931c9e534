from itertools import pairwise

import torch

from gatys.optim import FIRST_STEP, HISTORY, LBFGS, LONGEST_STEP, OptimizerState, optimize
from gatys.options import StylizeConfig


def quadratic(image):
    """A loss whose curvature grows with frequency: 1/2 |x|^2 + 2 |differences of neighbors|^2."""
    x = image.detach().requires_grad_()
    rough = (x[..., 1:, :] - x[..., :-1, :]).square().sum() + (x[..., 1:] - x[..., :-1]).square().sum()
    loss = x.square().sum() / 2 + 2 * rough
    loss.backward()
    return {"loss": loss.detach()}, x.grad


def random_image(height, width):
    return torch.randn(1, 3, height, width, generator=torch.Generator().manual_seed(0))


def minimize(image, state, steps, **options):
    return [image for _, image in optimize(image, quadratic, StylizeConfig(steps=steps, **options), state)]


def test_lbfgs_finds_the_minimum_of_a_quadratic():
    image = random_image(12, 17)
    assert minimize(image, OptimizerState(), 60)[-1].norm() < 1e-3 * image.norm()


def test_adam_returns_the_moving_average_of_clamped_images():
    def slope(image):
        return {"loss": image.sum()}, torch.ones_like(image)

    # With a constant gradient every step of Adam subtracts the learning rate.
    config = StylizeConfig(steps=2, optimizer="adam", lr=0.2)
    steps = optimize(torch.tensor([0.1, 0.3, 1.0]).view(1, 3, 1, 1), slope, config, OptimizerState())
    first, second = (image.flatten().clone() for _, image in steps)
    torch.testing.assert_close(first, torch.tensor([0.0, 0.1, 0.8]))
    torch.testing.assert_close(second, torch.tensor([0.0, 0.9 * 0.1, 0.9 * 0.8 + 0.6]) / 1.9)


def test_adam_passes_its_moments_to_the_next_scale():
    state = OptimizerState()
    minimize(random_image(4, 4), state, 3, optimizer="adam")
    assert state.moments["step"] == 3
    minimize(random_image(6, 5), state, 2, optimizer="adam")
    assert state.moments["step"] == 5 and state.moments["exp_avg"].shape == (1, 3, 6, 5)


def test_the_first_lbfgs_step_has_a_fixed_length_and_later_ones_an_upper_limit():
    images = [100 * random_image(8, 8)]
    images += minimize(images[0], OptimizerState(), 5)
    lengths = [float((b - a).square().mean().sqrt()) for a, b in pairwise(images)]
    assert abs(lengths[0] - FIRST_STEP) < 1e-5
    assert all(length < 1.001 * LONGEST_STEP for length in lengths)


def test_the_first_direction_descends_and_prefers_coarse_patterns():
    gradient = torch.randn(1, 3, 16, 16)
    step = LBFGS((16, 16)).propose(gradient)
    assert (step * gradient).sum() < 0

    def coarse(image):
        return image.unfold(2, 4, 4).unfold(3, 4, 4).mean((4, 5)).norm() / image.norm()

    assert coarse(step) > coarse(gradient)


def test_the_history_carries_over_to_a_larger_image():
    state = OptimizerState()
    minimize(random_image(16, 16), state, 30)
    assert len(state.lbfgs.steps) == HISTORY
    resized = state.lbfgs.resized((22, 22))
    assert resized.steps and all(step.shape == (1, 3, 22, 22) for step in resized.steps)
    # With more pixels each has a smaller gradient; the proposed step should stay about the same.
    gradient = torch.ones(1, 3, 16, 16)
    ratio = resized.propose(torch.ones(1, 3, 22, 22) * 16**2 / 22**2).mean() / state.lbfgs.propose(gradient).mean()
    assert 0.5 < ratio < 2


def test_a_pair_with_negative_curvature_is_skipped():
    lbfgs = LBFGS((4, 4))
    lbfgs.update(torch.ones(1, 3, 4, 4), -torch.ones(1, 3, 4, 4))
    assert not lbfgs.steps


def test_a_single_pixel_and_a_zero_gradient_are_valid():
    lbfgs = LBFGS((1, 1))
    assert torch.equal(lbfgs.propose(torch.zeros(1, 3, 1, 1)), torch.zeros(1, 3, 1, 1))
    assert lbfgs.resized((2, 3)).propose(torch.ones(1, 3, 2, 3)).isfinite().all()
