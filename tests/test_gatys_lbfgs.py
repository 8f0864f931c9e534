import torch

from gatys.lbfgs import HISTORY, LBFGS


def bowl(height, width):
    """A loss whose curvature grows with the frequency: 1/2 |x|^2 + 2 |differences of neighbours|^2; its gradient."""

    def gradient(x):
        x = x.detach().requires_grad_()
        rough = (x[..., 1:, :] - x[..., :-1, :]).square().sum() + (x[..., 1:] - x[..., :-1]).square().sum()
        (x.square().sum() / 2 + 2 * rough).backward()
        return x.grad

    return gradient, torch.randn(1, 3, height, width, generator=torch.Generator().manual_seed(0))


def descend(gradient, x, memory, steps):
    before = None
    for _ in range(steps):
        g = gradient(x)
        if before is not None:
            memory.learn(x - before[0], g - before[1])
        step = memory.propose(g)
        if not memory.steps:
            step *= 0.1 / step.square().mean().sqrt()
        before = x, g
        x = x + step
    return x


def test_the_bottom_of_a_bowl_is_found():
    gradient, x = bowl(12, 17)
    assert descend(gradient, x, LBFGS((12, 17)), 60).norm() < 1e-3 * x.norm()


def test_a_step_goes_down_and_a_new_memory_prefers_coarse_patterns():
    x = torch.randn(1, 3, 16, 16)
    step = LBFGS((16, 16)).propose(x)
    assert (step * x).sum() < 0

    def coarse(image):
        return image.unfold(2, 4, 4).unfold(3, 4, 4).mean((4, 5)).norm() / image.norm()

    assert coarse(step) > coarse(x)


def test_what_was_learned_goes_on_to_a_larger_picture():
    small, x = bowl(16, 16)
    memory = LBFGS((16, 16))
    descend(small, x, memory, 30)
    assert len(memory.steps) == HISTORY
    grown = memory.at((22, 22))
    assert grown.steps and all(step.shape == (1, 3, 22, 22) for step in grown.steps)
    # Of more pixels each has less influence; the step is to be about what it would have been.
    gradient = torch.ones(1, 3, 16, 16)
    ratio = grown.propose(torch.ones(1, 3, 22, 22) * 16**2 / 22**2).mean() / memory.propose(gradient).mean()
    assert 0.5 < ratio < 2


def test_a_step_over_a_crest_is_not_remembered():
    memory = LBFGS((4, 4))
    memory.learn(torch.ones(1, 3, 4, 4), -torch.ones(1, 3, 4, 4))
    assert not memory.steps


def test_a_single_pixel_and_a_flat_loss_are_no_trouble():
    memory = LBFGS((1, 1))
    assert torch.equal(memory.propose(torch.zeros(1, 3, 1, 1)), torch.zeros(1, 3, 1, 1))
    assert memory.at((2, 3)).propose(torch.ones(1, 3, 2, 3)).isfinite().all()
