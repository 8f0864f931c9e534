"""How long it takes to paint a picture as good as a tutorial's, by VGG-19's own judgement.

    python benchmarks/gatys_speed.py PHOTOGRAPH PAINTING --vgg-weights FILE [--size 256] [--steps 300]

The reference is the loop that tutorials have: one scale, L-BFGS of PyTorch with its defaults, float32, VGG-19 in
PyTorch's usual memory layout, from the photograph. Its loss after so many evaluations is the mark. Then ours, coarse to
fine, with VGG-19 and with the compact network: the first moment at which the picture, judged by the same VGG-19 loss,
is at least as good. Judging does not count as time.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch

from gatys.objective import Objective, Region, gram_matrices
from gatys.options import StylizeConfig
from gatys.stylize import Step, build_network, plan, resize, stylize
from stylekit import images


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
    judge_config = StylizeConfig(
        size=options.size, beta=options.beta, network="vgg19", vgg_weights=options.vgg_weights, memory=1000
    )
    judge = build_network(judge_config)
    size = plan(*photograph.shape[2:], judge_config)[-1]
    content = resize(photograph, size)
    scale = min(1.0, max(size) / max(painting.shape[2:]))
    style = resize(painting, (round(painting.shape[2] * scale), round(painting.shape[3] * scale)))
    grams = gram_matrices(judge, style, judge_config.style_layers)
    objective = Objective(judge, content, [Region(None, grams)], judge_config)

    def loss(image: torch.Tensor) -> float:
        return float(sum(objective(image.clone().requires_grad_()).values()))

    def tutorial() -> tuple[float, float]:
        """Seconds and loss."""
        usual = build_network(judge_config).to(memory_format=torch.contiguous_format)
        objective = Objective(usual, content, [Region(None, grams)], judge_config)
        image = content.clone().requires_grad_()
        optimizer = torch.optim.LBFGS([image], max_iter=20)
        count = 0

        def closure() -> torch.Tensor:
            nonlocal count
            with torch.no_grad():
                image.clamp_(0, 1)
            count += 1
            return torch.stack(list(objective(image).values())).sum()

        begun = time.monotonic()
        while count < options.steps:
            optimizer.step(closure)
        seconds = time.monotonic() - begun
        return seconds, loss(image.detach().clamp(0, 1))

    seconds, mark = tutorial()
    print(f"the loop of tutorials: {seconds:.1f} s, loss {mark:.4g} (the photograph: {loss(content):.4g})")
    for network, weights in (("vgg19", options.vgg_weights), ("compact", None)):
        config = StylizeConfig(
            size=options.size, beta=options.beta, network=network, vgg_weights=weights, steps=150, memory=1000
        )
        watch = Watch(loss, mark, size)
        stylize(photograph, [painting], config, network=build_network(config), on_step=watch)
        if watch.loss <= mark:
            print(f"{network}: as good after {watch.seconds:.1f} s, {seconds / watch.seconds:.1f} times faster")
        else:
            print(f"{network}: not as good after {watch.seconds:.1f} s: loss {watch.loss:.4g}")


class Watch:
    """Ends the work when the picture is good enough; does not count the time that it takes to judge it."""

    def __init__(self, judge: Callable[[torch.Tensor], float], mark: float, size: tuple[int, int]) -> None:
        self.judge = judge
        self.mark = mark
        self.size = size
        self.loss = float("inf")
        self.seconds = 0.0
        self.since = time.monotonic()

    def __call__(self, step: Step) -> bool:
        self.seconds += time.monotonic() - self.since
        if step.size == self.size and step.number % 5 == 0:
            self.loss = self.judge(step.image())
        self.since = time.monotonic()
        return self.loss > self.mark


if __name__ == "__main__":
    main()
