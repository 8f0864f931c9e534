"""Flags of the authors' code (pytorch-CycleGAN-and-pix2pix) that this library has not, and what to use instead."""

from __future__ import annotations

from collections.abc import Sequence

# Flags that both have, such as --dataroot and --n_epochs, and aliases, such as --lambda_A, are in options.py.
_TRAIN = {
    "dataset_mode": "the data set is always unpaired",
    "display_env": "use --wandb",
    "display_freq": "samples are written after every epoch; use --n-samples",
    "display_id": "use --wandb; losses.png and samples/ are always written",
    "display_ncols": "use --n-samples",
    "display_port": "use --wandb",
    "display_server": "use --wandb",
    "display_winsize": "use --wandb",
    "epoch": "use --resume, with --from-epoch to go back",
    "epoch_count": "not needed: --resume knows its epoch",
    "gpu_ids": "use --device cuda:N, or torchrun for several GPUs",
    "init_gain": "weights start from N(0, 0.02), as in the paper",
    "init_type": "weights start from N(0, 0.02), as in the paper",
    "input_nc": "pictures are RGB",
    "lambda_cycle": "use --lambda-x and --lambda-y",
    "load_iter": "use --resume",
    "lr_decay_iters": "use --n-epochs-decay",
    "model": "the model is always CycleGAN",
    "netD": "the discriminator is always a PatchGAN; use --n-layers-d for its depth, --ndf for its width",
    "netG": "the generator is always a ResNet; use --n-blocks 6 or 9",
    "no_flip": "use --augment none, or an albumentations file without flips",
    "no_html": "no HTML is written",
    "norm": "normalization is always instance normalization",
    "output_nc": "pictures are RGB",
    "phase": "use `cyclegan translate` for testing",
    "preprocess": "use --load-size and --crop-size, or --augment with an albumentations file",
    "save_by_iter": "use --save-latest-freq and --keep-epochs",
    "suffix": "use --name",
    "update_html_freq": "no HTML is written; use --print-freq",
    "verbose": "the size of the networks is always printed",
}
_TRANSLATE = {
    "dataroot": "give the folder itself, as in `cyclegan translate photos/`",
    "epoch": "use --weights CHECKPOINTS_DIR/NAME/epochs/0100",
    "eval": "dropout is always off",
    "gpu_ids": "use --device cuda:N",
    "load_size": "use --size",
    "model": "not needed: --weights knows its network",
    "name": "use --weights CHECKPOINTS_DIR/NAME",
    "netG": "not needed: --weights knows its network",
    "no_dropout": "not needed: --weights knows its network",
    "norm": "not needed: --weights knows its network",
    "num_test": "all pictures are translated",
    "phase": "give the folder itself, as in `cyclegan translate data/testA`",
    "preprocess": "pictures keep their size; use --size to shrink them",
    "results_dir": "use --output",
}


def check_flags(args: Sequence[str], command: str) -> None:
    """Explain the first flag that only the authors' code has.

    Args:
        args: Command line, without the command.
        command: Name of the command; those without counterpart in the authors' code have no such flags.

    Raises:
        ValueError: There is one; the message says what to use instead.
    """
    hints = {"train": _TRAIN, "translate": _TRANSLATE}.get(command, {})
    instead = {name.lower(): hint for name, hint in hints.items()}
    for arg in args:
        flag = arg.partition("=")[0]
        name = flag.removeprefix("--").replace("-", "_").lower()
        if flag.startswith("--") and name in instead:
            raise ValueError(f"{flag} belongs to the authors' code: {instead[name]}")
