import dataclasses

import pytest
from conftest import exit_code, one_error

from cyclegan.cli import main, train_main
from cyclegan.official import _TRAIN, _TRANSLATE, check_flags
from cyclegan.options import TrainConfig, TranslateConfig, UnpairedData
from stylekit.options import flatten

REQUIRED = {TrainConfig: {"data": UnpairedData("data")}, TranslateConfig: {"inputs": ("photo.jpg",)}}


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["train", "--netG", "resnet_6blocks"], "--netG belongs to the authors' code: the generator is"),
        (["train", "--gpu_ids=0,1"], "use --device cuda:N, or torchrun for several GPUs"),
        (["train", "--display-id", "-1"], "--display-id belongs to the authors' code: use --wandb"),
        (["train", "--serial_batches"], "--serial_batches belongs to the authors' code: pictures are always shuffled"),
        (["train", "--beta1", "0.5"], "it is 0.5, as in the paper"),
        (["train", "--wandb_project_name", "mine"], "set the environment variable WANDB_PROJECT"),
        (["translate", "x", "--num_test", "50"], "belongs to the authors' code: all pictures are translated"),
    ],
)
def test_a_flag_of_the_authors_code_gets_a_line_that_says_what_to_use(capsys, args, says):
    assert exit_code(main, *args) == 2
    assert says in one_error(capsys, "cyclegan")


def test_train_py_explains_them_too(capsys):
    assert exit_code(train_main, "--dataroot", "x", "--preprocess", "none") == 2
    assert "--preprocess belongs to the authors' code: use --load-size" in one_error(capsys, "train.py")


@pytest.mark.parametrize(("options", "hints"), [(TrainConfig, _TRAIN), (TranslateConfig, _TRANSLATE)])
def test_no_flag_of_ours_is_among_them(options, hints):
    ours = flatten(dataclasses.asdict(options(**REQUIRED[options]))).keys()
    assert len(hints) > 9 and not {name.lower() for name in ours} & {name.lower() for name in hints}


def test_flags_of_other_commands_are_left_alone():
    check_flags(["--norm", "batch"], "weights")
    with pytest.raises(ValueError, match="--norm"):
        check_flags(["--norm", "batch"], "train")
