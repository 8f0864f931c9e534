#!/bin/sh
# The commands that trained starry-night and mosaic in weights/johnson: sh recipes/johnson.sh PHOTOGRAPHS
# Six minutes on a GPU (an NVIDIA H200 that trained other networks at the same time), then six minutes for each style on one
# core of a CPU. weights/johnson/README.md has the commands for the other styles.
#
# PHOTOGRAPHS: 97 landscapes with a short side of 540 px, twelve times each; of the 256 px photographs of vangogh2photo,
#     enlarged to 400 px, the 90 with most red six times each and 70 others three times each.
set -e
photographs=${1:?usage: sh recipes/johnson.sh PHOTOGRAPHS}

paint() {
    johnson train --dataroot "$photographs" --content-layer relu3_1 \
        --style-layers relu1_1 relu2_1 relu3_1 relu4_1 relu5_1 --n-epochs 500 --n-epochs-decay 500 "$@"
}

gpu() {
    paint --load-size 400 --crop-size 256 --batch-size 8 --content-weight 1.5 --pixel-weight 2 "$@"
}

cpu() {
    paint --limit 3 --layer-weights 1 1 1 1 0.5 --lr 5e-4 --load-size 360 --crop-size 224 --batch-size 1 --threads 1 \
        --num-workers 0 --max-steps 130 "$@"
}

# relu5_1 is what paints stars and whirls. The price is black blots in the brightest places, which limit.py removes.
gpu --name blots --style starry-night --max-minutes 4.2
python recipes/limit.py checkpoints/blots --photographs "$photographs" -o limited
cpu --name starry-night --style starry-night --content-weight 1.5 --pixel-weight 2 --init limited

python recipes/mosaic.py mosaic.png
gpu --name mosaic-blots --style mosaic.png --style-size 640 --init checkpoints/blots --max-minutes 1.6
python recipes/limit.py checkpoints/mosaic-blots --photographs "$photographs" -o limited-mosaic
cpu --name mosaic --style mosaic.png --style-size 640 --content-weight 3 --pixel-weight 5 --init limited-mosaic
