#!/usr/bin/env bash
# The experiments of the report, which take some three hours of two CPU cores: bash report/experiments.sh DATAROOT LARGE
#
# DATAROOT/{train,test}{A,B}: landscape photographs and paintings by Van Gogh of 256 px, such as a part of vangogh2photo
# (cyclegan fetch vangogh2photo). LARGE: the same with at least 512 px.
# The results are in report/results, from which make_figures.py makes all figures, tables and numbers.
set -e
data=${1:?usage: bash report/experiments.sh DATAROOT LARGE} large=${2:?usage: bash report/experiments.sh DATAROOT LARGE}
cd "$(dirname "$0")/.."
results=report/results
work=out/report
rm -rf "$work"

# Gatys: pictures in docs/, and losses.
python benchmarks/gatys_grid.py
python report/gatys_losses.py

# Johnson against Gatys.
python benchmarks/johnson_gatys.py "$data/testA" --count 4 --style wheat-field-with-cypresses --sizes 256 512 --rounds 3 \
    -o $results/johnson-gatys.json

# The networks in weights/.
for network in landscape2vangogh landscape2vangogh-cycle vangogh2landscape; do
    cyclegan evaluate -w $network --dataroot "$data" --max-dataset-size 400 -o $results/evaluation/$network-256.json
    cyclegan evaluate -w $network --dataroot "$large" --max-dataset-size 107 --size 512 -o $results/evaluation/$network-512.json
done

# The same eight test photographs, painted by every method.
mkdir -p "$work/eight"
find "$data/testA" -type f | sort | head -8 | xargs cp -t "$work/eight"
gatys "$work/eight" --style van-gogh -o "$work/gatys"
johnson stylize "$work/eight" --style van-gogh -o "$work/johnson"
for network in landscape2vangogh landscape2vangogh-cycle; do cyclegan translate "$work/eight" -w $network --draft off -o "$work/$network"; done
for method in gatys johnson landscape2vangogh landscape2vangogh-cycle; do
    cyclegan evaluate --outputs "$work/$method" --dataroot "$data" --max-dataset-size 100 -o $results/methods/$method.json
done

# CycleGAN's objective, with one thing changed at a time, for about the same processor time: the numbers of steps follow from
# the time of a hundred steps of each.
ablation() {
    local name=$1 steps=$2 TIMEFORMAT="$1 %U"
    shift 2
    { time cyclegan train --dataroot "$data" --name "$name" --checkpoints-dir "$work/runs" --seed 0 --ngf 16 --ndf 16 \
        --n-blocks 6 --crop-size 64 --load-size 96 --lr 5e-4 --ema-decay 0.99 --n-epochs 1 --n-epochs-decay 1 \
        --print-freq 50 --num-workers 0 --threads 1 --max-steps "$steps" "$@" 2>&3; } 3>&2 2>> $results/ablation/seconds.txt
    cp "$work/runs/$name/metrics.jsonl" "$results/ablation/$name.jsonl"
    cyclegan evaluate --weights "$work/runs/$name" --dataroot "$data" --size 128 --max-dataset-size 100 -o "$results/ablation/$name.json"
    cyclegan translate "$(python -c 'from sklearn.datasets import load_sample_images as l; print(l().filenames[0])')" \
        --weights "$work/runs/$name" --size 256 --format jpg --overwrite -o "$work/$name"
    cp "$work/$name/china.jpg" "$results/ablation/$name.jpg"
}
rm -f $results/ablation/seconds.txt
ablation base 1440
ablation lsgan-to-log 1440 --gan-mode vanilla
ablation pool-0 1440 --pool-size 0
ablation identity-0 1870 --lambda-identity 0
ablation cycle-1 1440 --lambda-x 1 --lambda-y 1 --lambda-identity 5
ablation both 600 --discriminator both
ablation feature 700 --discriminator feature
