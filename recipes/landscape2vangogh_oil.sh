#!/bin/sh
# The commands that trained weights/landscape2vangogh-oil: sh recipes/landscape2vangogh_oil.sh DATAROOT
#
# DATAROOT/trainA: 97 landscape photographs with a short side of 520 px, four times each, and 160 of 256 px.
# DATAROOT/trainB: paintings with a short side of 560 to 600 px: no portraits, the vivid ones three times each.
set -e
data=${1:?usage: sh recipes/landscape2vangogh_oil.sh DATAROOT}

paint() {
    cyclegan train --dataroot "$data" --one-way --discriminator both --diffaugment --antialias --ngf 32 --n-blocks 6 \
        --ndf 32 --augment detail --crop-size 128 --load-size 128 --ema-decay 0.998 --num-workers 0 --threads 1 "$@"
}

paint --name oil-1 --noise 0.2 --lr 5e-4 --lr-d 2e-4 --warmup-steps 100 --max-minutes 76
paint --name oil-2 --noise 0.2 --init checkpoints/oil-1 --lr 3e-4 --lr-d 1.5e-4 --warmup-steps 100 \
    --n-epochs 20 --n-epochs-decay 10 --max-minutes 106  # stopped after 99
# Much noise teaches the network to begin strokes anywhere; painting with little of it leaves skies calm.
sed -i 's/"noise": 0.2/"noise": 0.02/' checkpoints/oil-2/G/config.json
