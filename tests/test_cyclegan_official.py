import dataclasses

import pytest
from conftest import exit_code, one_error

from cyclegan.cli import main, train_main
from cyclegan.official import _COMMANDS, _OURS, read_flags
from cyclegan.options import PretrainConfig, TrainConfig, TranslateConfig, UnpairedData
from stylekit.options import flatten

REQUIRED = {
    "train": TrainConfig(data=UnpairedData("data")),
    "pretrain": PretrainConfig(data=UnpairedData("data")),
    "translate": TranslateConfig(("photo.jpg",)),
}


def test_flags_that_ask_for_what_is_done_anyway_are_accepted_with_a_note(capsys):
    given = "--dataroot d --model cycle_gan --netG resnet_6blocks --norm=instance --no_dropout --gpu_ids -1"
    given += " --preprocess resize_and_crop --display-id 0 --NETD basic --beta1 0.5 --n_epochs 3"
    ours = ["--dataroot", "d", "--n-blocks", "6", "--device", "cpu", "--n_epochs", "3"]
    assert read_flags(given.split(), "train") == read_flags(given.split(), "pretrain") == ours
    assert capsys.readouterr().err.splitlines()[0] == (
        "note: --model cycle_gan is not needed, --netG resnet_6blocks is --n-blocks 6 here, --norm instance is not "
        "needed, --no_dropout is not needed, --gpu_ids -1 is --device cpu here, --preprocess resize_and_crop is not "
        "needed, --display-id 0 is not needed, --NETD basic is not needed, --beta1 0.5 is not needed"
    )
    given = "photo.jpg --model test --no_dropout --epoch latest --preprocess none -o out"
    assert read_flags(given.split(), "translate") == ["photo.jpg", "-o", "out"]


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["train", "--netG", "unet_256"], "--netG unet_256: the generator is a ResNet; use --n-blocks 6 or 9"),
        (["train", "--gpu_ids=0,1"], "--gpu_ids 0,1: use --device cuda:N, or torchrun for several GPUs"),
        (["train", "--serial_batches"], "--serial_batches: pictures are always shuffled"),
        (["pretrain", "--norm"], "--norm: normalization is always instance normalization"),
        (["train", "--beta1", "0.9", "--no_flip"], "--beta1 0.9: it is 0.5, as in the paper; --no_flip: use --augment"),
        (["train", "--wandb_project_name", "mine"], "set the environment variable WANDB_PROJECT"),
        (
            ["translate", "x", "--num_test", "50", "--name", "y"],
            "--num_test 50: all pictures are translated; --name y",
        ),
    ],
)
def test_flags_that_cannot_be_done_get_one_line_that_says_what_to_use(capsys, args, says):
    assert exit_code(main, *args) == 2
    assert says in one_error(capsys, "cyclegan")


def test_train_py_explains_them_too(capsys):
    assert exit_code(train_main, "--dataroot", "x", "--preprocess", "none") == 2
    assert "--preprocess none: use --load-size and --crop-size" in one_error(capsys, "train.py")


@pytest.mark.parametrize("command", _COMMANDS)
def test_no_flag_of_ours_is_among_them(command):
    ours = flatten(dataclasses.asdict(REQUIRED[command])).keys()
    flags = _COMMANDS[command]
    assert len(flags) > 9 and not {name.lower() for name in ours} & {name.lower() for name in flags}
    replaced = {flag.split()[0][2:].replace("-", "_") for name, flag in _OURS.items() if name.split()[0] in flags}
    assert replaced and replaced <= ours


def test_flags_of_other_commands_are_left_alone():
    assert read_flags(["--norm", "batch"], "weights") == ["--norm", "batch"]
