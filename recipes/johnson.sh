#!/bin/sh
# The commands that trained the networks in weights/johnson: sh recipes/johnson.sh PHOTOGRAPHS
# Six minutes on a GPU (an NVIDIA H200 that trained other networks at the same time), then, on one core of a CPU, six minutes for
# each of starry-night and mosaic, and 26 to 37 for each of the four styles of Van Gogh. Before it, the commands in
# weights/johnson/README.md, which trained checkpoints/van-gogh, checkpoints/wheat-field-with-cypresses and checkpoints/sunflowers.
#
# PHOTOGRAPHS: 97 landscapes with a short side of 540 px, twelve times each; of the 256 px photographs of vangogh2photo,
#     enlarged to 400 px, the 90 with most red six times each and 70 others three times each. For the last part, every photograph
#     once, and a second time 24 of them with black shadows, 1.25 (x - 0.3), and 24 with white lights, 1.6 x.
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
cpu --name stars --style starry-night --content-weight 1.5 --pixel-weight 2 --init limited

python recipes/mosaic.py mosaic.png
gpu --name mosaic-blots --style mosaic.png --style-size 640 --init checkpoints/blots --max-minutes 1.6
python recipes/limit.py checkpoints/mosaic-blots --photographs "$photographs" -o limited-mosaic
cpu --name mosaic --style mosaic.png --style-size 640 --content-weight 3 --pixel-weight 5 --init limited-mosaic

# No hatching: regular patterns in smooth areas are a loss.
calm() {
    johnson train --dataroot "$photographs" --limit 3 --weave-weight 2 --lr 5e-4 --load-size 360 --crop-size 224 --batch-size 1 \
        --threads 1 --num-workers 0 --n-epochs 500 --n-epochs-decay 500 "$@"
}
for style in van-gogh wheat-field-with-cypresses; do
    calm --name calm-$style --style $style --init checkpoints/$style --max-steps 700
    calm --name calmer-$style --style $style --init checkpoints/calm-$style --max-steps 300 --seed 5
done
calm --name calm-sunflowers --style sunflowers --init checkpoints/sunflowers --max-steps 700
calm --name starry-night --style starry-night --init checkpoints/stars --max-steps 700 --content-layer relu3_1 \
    --style-layers relu1_1 relu2_1 relu3_1 relu4_1 relu5_1 --layer-weights 1 1 1 1 0.5 --content-weight 1.5

# Local colors of the photograph and, but for the mosaic, its black: only in use. The networks are those of checkpoints/*/model.
colors() {
    sed -i "s/^{/{\n  \"keep_colors\": $2,\n  \"keep_black\": $3,/" checkpoints/"$1"/model/config.json
}
colors calmer-van-gogh 0.5 true
colors calmer-wheat-field-with-cypresses 0.4 true
colors calm-sunflowers 0.5 true
colors starry-night 0.1 true
colors mosaic 0.6 false
