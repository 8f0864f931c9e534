#!/bin/sh
# The commands that trained weights/johnson: sh recipes/johnson.sh PHOTOGRAPHS
# Ten minutes on a GPU (an NVIDIA H200 that trained other networks at the same time), then six minutes for each style on one
# core of a CPU.
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
    paint --limit 0 --load-size 400 --crop-size 256 --batch-size 8 "$@"
}

# relu5_1 is what paints stars and whirls.
gpu --name starry --style starry-night --content-weight 1.5 --pixel-weight 2 --max-minutes 4.2
for style in van-gogh wheat-field-with-cypresses sunflowers; do
    gpu --name first-$style --style $style --content-weight 1.5 --pixel-weight 2 --init checkpoints/starry --max-minutes 1.25
done
python recipes/mosaic.py mosaic.png
gpu --name first-mosaic --style mosaic.png --style-size 640 --content-weight 1.5 --pixel-weight 2 --init checkpoints/starry \
    --max-minutes 1.6
mv checkpoints/starry checkpoints/first-starry-night

# Its price were black blots in the brightest places.
for style in starry-night van-gogh wheat-field-with-cypresses sunflowers mosaic; do
    python recipes/limit.py checkpoints/first-$style --photographs "$photographs" -o checkpoints/limited-$style
    given="--style $style --content-weight 1.5 --pixel-weight 2"
    test $style = mosaic && given="--style mosaic.png --style-size 640 --content-weight 3 --pixel-weight 5"
    # shellcheck disable=SC2086
    paint --name $style --init checkpoints/limited-$style $given --layer-weights 1 1 1 1 0.5 --lr 5e-4 \
        --load-size 360 --crop-size 224 --batch-size 1 --threads 1 --num-workers 0 --max-steps 130
done
