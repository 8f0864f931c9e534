"""Flags of the authors' code (pytorch-CycleGAN-and-pix2pix) that this library has not, and what to use instead."""

from __future__ import annotations

from collections.abc import Sequence

# Flags that both have, such as --dataroot and --n_epochs, and aliases, such as --lambda_A, are in options.py.
_TRAIN = {
    "beta1": "it is 0.5, as in the paper",
    "display_id": "use --wandb; losses.png and samples/ are always written",
    "gpu_ids": "use --device cuda:N, or torchrun for several GPUs",
    "model": "the model is always CycleGAN",
    "netD": "the discriminator is a PatchGAN; use --n-layers-d for its depth, --ndf for its width",
    "netG": "the generator is a ResNet; use --n-blocks 6 or 9",
    "no_dropout": "there is no dropout",
    "no_flip": "use --augment none, or an albumentations file without flips",
    "norm": "normalization is always instance normalization",
    "preprocess": "use --load-size and --crop-size, or --augment with an albumentations file",
    "serial_batches": "pictures are always shuffled",
    "wandb_project_name": "set the environment variable WANDB_PROJECT",
}
_TRANSLATE = {
    "dataroot": "give the folder itself, as in `cyclegan translate photos/`",
    "epoch": "use --weights CHECKPOINTS_DIR/NAME/epochs/0100",
    "gpu_ids": "use --device cuda:N",
    "load_size": "use --size",
    "model": "not needed: --weights knows its network",
    "name": "use --weights CHECKPOINTS_DIR/NAME",
    "no_dropout": "not needed: --weights knows its network",
    "num_test": "all pictures are translated",
    "preprocess": "pictures keep their size; use --size to shrink them",
    "results_dir": "use --output",
}


def check_flags(args: Sequence[str], command: str) -> None:
    """Raise ValueError for the first flag that only the authors' code has; the message says what to use instead.

    Args:
        args: Command line, without the command.
        command: Name of the command; those without counterpart in the authors' code have no such flags.
    """
    hints = {"train": _TRAIN, "translate": _TRANSLATE}.get(command, {})
    instead = {name.lower(): hint for name, hint in hints.items()}
    for arg in args:
        flag = arg.partition("=")[0]
        name = flag.removeprefix("--").replace("-", "_").lower()
        if flag.startswith("--") and name in instead:
            raise ValueError(f"{flag} belongs to the authors' code: {instead[name]}")
