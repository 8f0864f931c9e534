#!/bin/sh
# The commands that trained weights/landscape2vangogh: sh recipes/landscape2vangogh.sh DATAROOT
#
# DATAROOT/trainA: 97 landscape photographs with a short side of 520 px, four times each, and 160 of 256 px.
# DATAROOT/trainB: paintings with a short side of 560 to 600 px: no portraits, the vivid ones three times each.
set -e
data=${1:?usage: sh recipes/landscape2vangogh.sh DATAROOT}

paint() {
    cyclegan train --dataroot "$data" --one-way --diffaugment --antialias --ngf 32 --n-blocks 6 --ndf 32 \
        --augment detail --crop-size 128 --load-size 128 --num-workers 0 --threads 1 "$@"
}

# Strokes and a grey palette. The style loss did not exist yet.
paint --name oil-1 --discriminator both --noise 0.2 --lambda-style 0 --ema-decay 0.998 --lr 5e-4 --lr-d 2e-4 \
    --warmup-steps 100 --max-minutes 76
paint --name oil-2 --discriminator both --noise 0.2 --lambda-style 0 --ema-decay 0.998 --init checkpoints/oil-1 \
    --lr 3e-4 --lr-d 1.5e-4 --warmup-steps 100 --n-epochs 20 --n-epochs-decay 10 --max-minutes 106  # stopped after 99

# Colour and broader strokes from the style loss, three times: longer, and patterns grow in skies.
for seed in 1 2 3; do
    weights="--lambda-style 3 --lambda-colour 1"
    test $seed = 3 && weights="--lambda-style 2 --lambda-colour 3"
    paint --name oil-3-$seed --seed $seed --discriminator feature --noise 0.1 $weights --ema-decay 0.98 \
        --init checkpoints/oil-2/G --lr 3e-4 --lr-d 2e-4 --warmup-steps 50 --max-steps 350
done

# The mean has their strokes and fewer of their patterns. Noise teaches a network to begin strokes anywhere; painting with
# little of it leaves skies calm.
python recipes/average.py checkpoints/oil-3-1 checkpoints/oil-3-2 checkpoints/oil-3-3 --noise 0.02 -o landscape2vangogh
