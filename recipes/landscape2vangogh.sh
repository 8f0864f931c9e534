#!/bin/sh
# The commands that trained weights/landscape2vangogh and weights/vangogh2landscape: sh recipes/landscape2vangogh.sh DATAROOT
# 20 minutes on a GPU (an NVIDIA H200 that trained other networks at the same time), then 8 h of one core of a CPU.
#
# DATAROOT/trainA: 97 landscape photographs with a short side of 540 px, twelve times each; of the 256 px photographs of
#     vangogh2photo, enlarged to 400 px, the 90 with most red six times each and 70 others three times each.
#     On the CPU every photograph counts once. For the last part, 24 of them are there a second time with black shadows, 1.25 (x - 0.3),
#     and 24 with white lights, 1.6 x.
# DATAROOT/trainB: paintings with a short side of at most 820 px, in which strokes are 8 to 20 px wide: no portraits, the
#     vivid ones three times each. F learns from the 97 photographs only.
set -e
data=${1:?usage: sh recipes/landscape2vangogh.sh DATAROOT}

paint() {
    cyclegan train --dataroot "$data" --one-way --discriminator both --diffaugment --antialias --ngf 32 --n-blocks 6 --ndf 32 \
        --augment detail --palette 0 --lambda-weave 0 "$@"
}

gpu() {
    paint --crop-size 256 --load-size 256 --batch-size 8 --lr 5e-4 --lr-d 2e-4 --warmup-steps 50 --n-epochs 500 \
        --n-epochs-decay 500 "$@"
}

# Strokes, contours and vivid colors; too vivid for some pictures.
gpu --name vivid --noise 0.257 --noise-size 4 --lambda-style 8 --lambda-content 0.4 --ema-decay 0.997 --max-minutes 14

# Calmer colors, on the CPU. The network is taken after 200 steps and at the end: the first has fewer contours.
calm() {
    paint --name calm --noise 0.257 --noise-size 4 --lambda-style 4 --lambda-color 4 \
        --ema-decay 0.98 --crop-size 160 --load-size 160 --lr 3e-4 --lr-d 2e-4 --warmup-steps 30 --seed 1 --n-epochs 500 \
        --n-epochs-decay 500 --threads 1 --num-workers 0 --save-latest-freq 100 "$@"
}
calm --init checkpoints/vivid --max-steps 350 &
while ! grep -qs '"step": 200,' checkpoints/calm/metrics.jsonl; do sleep 1; done
sleep 10 && cp -r checkpoints/calm/G calm-200
wait

# The mean has the colors of the one and the contours of the other. The discriminators of the last training go with it.
mean() {
    python recipes/average.py "$@" --noise 0.257 -o checkpoints/"$into"
    cp -r checkpoints/"$judges"/D_Y checkpoints/"$judges"/D_Y_features checkpoints/"$into"
}
into=first judges=calm mean checkpoints/vivid checkpoints/vivid calm-200 checkpoints/calm

# More strokes, and colors that stay: three trainings on the CPU, each from the mean of what went before.
more() {
    paint --noise 0.257 --noise-size 4 --ema-decay 0.98 --crop-size 160 --load-size 160 --lr 3e-4 --lr-d 2e-4 --warmup-steps 30 \
        --lambda-style 5 --n-epochs 500 --n-epochs-decay 500 --threads 1 --num-workers 0 --save-latest-freq 100 "$@"
}
more --name fading --init checkpoints/first --lambda-color 3 --max-steps 400 --seed 2
into=second judges=fading mean checkpoints/first checkpoints/fading
more --name strokes --init checkpoints/second --lambda-color 3 --max-steps 538 --lr-policy constant --seed 11
into=third judges=strokes mean checkpoints/second checkpoints/strokes
more --name palette --init checkpoints/third --lambda-color 5 --palette 0.5 --max-minutes 45 --seed 13
into=fourth judges=palette mean checkpoints/palette checkpoints/palette checkpoints/first

# No smears, calm skies, colors nearer to the photograph: two trainings with limited features. Their colors wander, so the result is
# the mean of a network every hundred steps.
limited() {
    paint --noise 0.257 --noise-size 4 --limit 4 --ema-decay 0.98 --crop-size 160 --load-size 160 --lr 3e-4 --lr-d 2e-4 \
        --warmup-steps 30 --lambda-style 5 --lambda-weave 2 --n-epochs 500 --n-epochs-decay 500 --threads 1 --num-workers 0 \
        --save-latest-freq 50 "$@"
}

# Copy the network of a run at the steps FROM, FROM + EVERY ... LAST: keep NAME FROM EVERY LAST
keep() {
    for step in $(seq "$2" "$3" "$4"); do
        while ! grep -qs "\"step\": $step," checkpoints/"$1"/metrics.jsonl; do sleep 1; done
        sleep 10 && cp -r checkpoints/"$1"/G "$1"-"$step"
    done
}

limited --name one --init checkpoints/fourth --seed 21 --palette 0.5 --lambda-color 4 --lambda-weave 0 --max-steps 436 --lr-policy constant
limited --name two --init checkpoints/fourth --seed 22 --palette 0.5 --lambda-color 4 --max-steps 433 --lr-policy constant
limited --name two --seed 22 --palette 0.5 --lambda-color 6 --max-steps 727 --lr-policy constant --resume
limited --name one --seed 21 --palette 0.25 --lambda-color 6 --max-steps 1400 --resume &
keep one 700 100 1400 &
limited --name two --seed 22 --palette 0.25 --lambda-color 6 --lambda-style 7 --max-steps 1400 --resume &
keep two 800 100 1400
wait
into=fifth judges=two mean one-* two-*

# Deeper shadows with smaller patches: twice more, with a loss in which dark areas count more than before.
deeper() {
    limited --init checkpoints/fifth --lr 2e-4 --lr-d 1.5e-4 --palette 0.25 --lambda-color 6 --max-steps 522 "$@"
}
deeper --name three --seed 31 &
keep three 100 50 500 &
deeper --name four --seed 32 &
keep four 100 50 500
wait

into=sixth judges=three mean three-* four-*

# Without the yellow cast of old varnish, and the vivid ones more often.
python - "$data" checkpoints/white << 'END'
import os, sys
from pathlib import Path
import numpy as np
from PIL import Image

source, target = map(Path, sys.argv[1:])
(target / "trainB").mkdir(parents=True)
os.symlink((source / "trainA").resolve(), target / "trainA")
vividness = {}
for path in (source / "trainB").iterdir():
    pixels = np.asarray(Image.open(path).convert("RGB").convert("YCbCr")).astype(float)
    pixels[..., 1] += 10
    pixels[..., 1:] = 128 + 1.15 * (pixels[..., 1:] - 128)
    vividness[path] = np.hypot(*(pixels[..., 1:] - 128).T).mean()
    white = Image.fromarray(pixels.clip(0, 255).round().astype(np.uint8), "YCbCr").convert("RGB")
    white.save(target / "trainB" / f"{path.stem}.png")
for path in sorted(vividness, key=vividness.get)[-20:]:
    for i in range(2):
        os.symlink(f"{path.stem}.png", target / "trainB" / f"{path.stem}-{i}.png")
END

# Whites that stay white and black areas without strokes.
again() {
    limited --lr 2e-4 --lr-d 1.5e-4 --lambda-weave 3 --lr-policy constant "$@"
}
again --name six --init checkpoints/sixth --palette 0.25 --lambda-color 6 --max-steps 217 --seed 41
data=checkpoints/white
again --name five --init checkpoints/sixth --palette 0.25 --lambda-color 6 --max-steps 534 --seed 41 &
again --name seven --init checkpoints/six --palette 0.25 --lambda-color 6 --lambda-style 7 --max-steps 290 --seed 42
wait
into=seventh judges=five mean checkpoints/five checkpoints/seven

# The colors of the photograph, which normalization loses: the generators keep a part of them.
kept() {
    again --keep-colors 0.6 --lambda-color 4 --lambda-style 7 --max-steps 1450 "$@"
}
kept --name eight --init checkpoints/seventh --palette 0.5 --seed 51 &
keep eight 1000 100 1400 &
kept --name nine --init checkpoints/sixth --palette 0.25 --seed 52 &
keep nine 1000 100 1400
wait

# The mean with what went before is calmer. So are skies with less noise than in training.
python recipes/average.py eight-* nine-* --noise 0.1 -o checkpoints/eighth
python recipes/average.py checkpoints/eighth checkpoints/sixth -o landscape2vangogh
cp -r checkpoints/eight/D_Y checkpoints/eight/D_Y_features landscape2vangogh

# The way back.
gpu --name vangogh2landscape --direction BtoA --noise 0.1 --lambda-style 1 --lambda-color 3 --lambda-content 0.7 \
    --ema-decay 0.995 --max-minutes 6
