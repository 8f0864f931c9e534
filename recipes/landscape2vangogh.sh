#!/bin/sh
# Networks like landscape2vangogh and vangogh2landscape in weights/: sh recipes/landscape2vangogh.sh DATAROOT
# Six hours of one CPU core, by the time limits of the four trainings.
#
# The bundled networks were made by an earlier version, in seventeen trainings and with flags that no longer exist; the exact
# commands are in this file at commit 7a52035.
#
# DATAROOT/trainA: 97 landscape photographs with a short side of 540 px, and 160 of the 256 px photographs of vangogh2photo,
#     enlarged to 400 px; 24 of them a second time with black shadows, 1.25 (x - 0.3), and 24 with white lights, 1.6 x.
# DATAROOT/trainB: paintings with a short side of at most 820 px, in which strokes are 8 to 20 px wide: no portraits, the
#     vivid ones three times each.
set -e
data=${1:?usage: sh recipes/landscape2vangogh.sh DATAROOT}

cyclegan pretrain --dataroot "$data" --name paint

# Colors and patterns wander from epoch to epoch, each run its own way; the mean of many networks is calmer than any of them.
for seed in 1 2; do
    cyclegan pretrain --dataroot "$data" --name paint-$seed --init checkpoints/paint --seed $seed --palette 0.5 --lambda-style 7 \
        --lr 2e-4 --lr-policy constant --max-minutes 60 --save-epoch-freq 1
done
# Skies are calmer with less noise than in training.
python recipes/average.py checkpoints/paint-?/epochs/* --noise 0.1 -o landscape2vangogh
cp -r checkpoints/paint-1/D_Y checkpoints/paint-1/D_Y_features landscape2vangogh

# The way back.
cyclegan pretrain --dataroot "$data" --direction BtoA --name vangogh2landscape --lambda-style 1 --lambda-color 3 --lambda-content 0.7
