"""Time to reach the VGG-19 loss of a tutorial implementation.

    python benchmarks/gatys_speed.py PHOTOGRAPH PAINTING --vgg-weights FILE [--size 256] [--steps 300]

The reference is a tutorial loop: one scale, PyTorch's L-BFGS with its defaults, float32, VGG-19 in contiguous format,
starting from the photograph. Its loss after --steps evaluations is the target. Then `gatys` runs coarse to fine, with
VGG-19 and with the compact network, until the same VGG-19 loss reaches the target. The time for measuring the loss is
not counted.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch

from gatys.objective import Objective, Region, gram_matrices
from gatys.options import StylizeConfig
from gatys.regions import resize
from gatys.stylize import Step, build_network, scale_sizes, stylize
from stylekit.pictures import images


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photograph")
    parser.add_argument("painting")
    parser.add_argument("--vgg-weights")
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--beta", type=float, default=StylizeConfig.beta)
    options = parser.parse_args()
    photograph, painting = (images.to_tensor(images.load(name)) for name in (options.photograph, options.painting))
    reference = StylizeConfig(
        size=options.size, beta=options.beta, network="vgg19", vgg_weights=options.vgg_weights, memory=1000
    )
    loss_network = build_network(reference)
    size = scale_sizes(*photograph.shape[2:], reference)[-1]
    content = resize(photograph, size)
    scale = min(1.0, max(size) / max(painting.shape[2:]))
    style = resize(painting, (round(painting.shape[2] * scale), round(painting.shape[3] * scale)))
    grams = gram_matrices(loss_network, style, reference.style_layers)
    objective = Objective(loss_network, content, [Region(None, grams)], reference)

    def loss(image: torch.Tensor) -> float:
        return float(sum(objective(image)[0].values()))

    def tutorial() -> tuple[float, float]:
        """Seconds and loss."""
        contiguous = build_network(reference).to(memory_format=torch.contiguous_format)
        objective = Objective(contiguous, content, [Region(None, grams)], reference)
        image = content.clone().requires_grad_()
        optimizer = torch.optim.LBFGS([image], max_iter=20)
        count = 0

        def closure() -> torch.Tensor:
            nonlocal count
            with torch.no_grad():
                image.clamp_(0, 1)
            count += 1
            terms, image.grad = objective(image)
            return torch.stack(list(terms.values())).sum()

        begun = time.monotonic()
        while count < options.steps:
            optimizer.step(closure)
        seconds = time.monotonic() - begun
        return seconds, loss(image.detach().clamp(0, 1))

    seconds, target = tutorial()
    print(f"tutorial loop: {seconds:.1f} s, loss {target:.4g} (the photograph: {loss(content):.4g})")
    for network, weights in (("vgg19", options.vgg_weights), ("compact", None)):
        config = StylizeConfig(
            size=options.size, beta=options.beta, network=network, vgg_weights=weights, steps=150, memory=1000
        )
        stop = StopAtTarget(loss, target, size)
        stylize(photograph, [painting], config, network=build_network(config), on_step=stop)
        if stop.loss <= target:
            print(f"{network}: target reached after {stop.seconds:.1f} s, {seconds / stop.seconds:.1f} times faster")
        else:
            print(f"{network}: target not reached after {stop.seconds:.1f} s, loss {stop.loss:.4g}")


class StopAtTarget:
    """Stops when the loss reaches the target; the time for measuring the loss is not counted."""

    def __init__(self, measure: Callable[[torch.Tensor], float], target: float, size: tuple[int, int]) -> None:
        self.measure = measure
        self.target = target
        self.size = size
        self.loss = float("inf")
        self.seconds = 0.0
        self.since = time.monotonic()

    def __call__(self, step: Step) -> bool:
        self.seconds += time.monotonic() - self.since
        if step.size == self.size and step.number % 5 == 0:
            self.loss = self.measure(step.image())
        self.since = time.monotonic()
        return self.loss > self.target


if __name__ == "__main__":
    main()
