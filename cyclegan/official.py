"""Flags of the authors' code (pytorch-CycleGAN-and-pix2pix) that this library does not have.

Flags that both have, such as --dataroot and --n_epochs, and aliases, such as --lambda_A, are in options.py.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

# Values that ask for what is done anyway, separated by blanks ("*": any value), and what to do instead of others.
_BOTH = {
    "gpu_ids": ("", "use --device cuda:N, or torchrun for several GPUs"),
    "no_dropout": ("*", ""),
    "norm": ("instance", "normalization is always instance normalization"),
}
_TRAIN = _BOTH | {
    "beta1": ("0.5", "it is 0.5, as in the paper"),
    "dataset_mode": ("unaligned", "the two folders are always unpaired"),
    "display_id": ("*", ""),
    "epoch": ("latest", "use --resume, or --init with an older copy of the networks"),
    "epoch_count": ("1", "use --resume, which knows the epoch"),
    "init_type": ("normal", "weights are drawn from a normal distribution, as in the paper"),
    "input_nc": ("3", "pictures have three channels"),
    "model": ("cycle_gan", "the model is always CycleGAN"),
    "netD": ("basic n_layers", "the discriminator is a PatchGAN; use --n-layers-d for its depth, --ndf for its width"),
    "netG": ("", "the generator is a ResNet; use --n-blocks 6 or 9"),
    "no_flip": ("", "use --augment none, or an albumentations file without flips"),
    "no_html": ("*", ""),
    "output_nc": ("3", "pictures have three channels"),
    "phase": ("train", "pictures of trainA and trainB are always used"),
    "preprocess": ("resize_and_crop", "use --load-size and --crop-size, or --augment with an albumentations file"),
    "save_latest_freq": ("*", ""),
    "serial_batches": ("", "pictures are always shuffled"),
    "verbose": ("*", ""),
    "wandb_project_name": ("", "set the environment variable WANDB_PROJECT"),
}
_TRANSLATE = _BOTH | {
    "dataroot": ("", "give the folder itself, as in `cyclegan translate photos/`"),
    "epoch": ("latest", "use --weights CHECKPOINTS_DIR/NAME/epochs/0100"),
    "eval": ("*", ""),
    "load_size": ("", "use --size"),
    "model": ("test cycle_gan", "the model is always CycleGAN"),
    "name": ("", "use --weights CHECKPOINTS_DIR/NAME"),
    "num_test": ("inf", "all pictures are translated"),
    "preprocess": ("none", "pictures keep their size; use --size to shrink them"),
    "results_dir": ("", "use --output"),
}
_SWITCHES = ("eval", "no_dropout", "no_flip", "no_html", "serial_batches", "verbose")  # These take no value.
_COMMANDS = {"train": _TRAIN, "pretrain": _TRAIN, "translate": _TRANSLATE}
_OURS = {
    "gpu_ids -1": "--device cpu",
    "gpu_ids 0": "--device cuda:0",
    "netG resnet_6blocks": "--n-blocks 6",
    "netG resnet_9blocks": "--n-blocks 9",
}


def read_flags(args: Sequence[str], command: str) -> list[str]:
    """Replace flags of the authors' code by ours, and drop those that ask for what is done anyway, with a note.

    Args:
        args: Command line, without the command.
        command: Name of the command; those without counterpart in the authors' code have no such flags.

    Raises:
        ValueError: Others cannot be done; the message says what to use instead.
    """
    flags = {name.lower(): (name, *flag) for name, flag in _COMMANDS.get(command, {}).items()}
    rest, notes, refused = list[str](), list[str](), list[str]()
    words = iter(args)
    for arg in words:
        flag, equals, value = arg.partition("=")
        name, values, instead = flags.get(flag[2:].replace("-", "_").lower(), ("", "", ""))
        if not name or not flag.startswith("--"):
            rest.append(arg)
            continue
        if not equals and name not in _SWITCHES:
            value = next(words, "")
        given = f"{flag} {value}".rstrip()
        if ours := _OURS.get(f"{name} {value}"):
            rest += ours.split()
            notes.append(f"{given} is {ours} here")
        elif values == "*" or value in values.split():
            notes.append(f"{given} is not needed")
        else:
            refused.append(f"{given}: {instead}")
    if refused:
        raise ValueError(f"flags of the authors' code: {'; '.join(refused)}")
    if notes and os.environ.get("RANK", "0") == "0":
        print(f"note: {', '.join(notes)}", file=sys.stderr)
    return rest
