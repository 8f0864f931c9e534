#!/bin/sh
# Networks like those in weights/johnson, an hour of one CPU core for each: sh recipes/johnson.sh PHOTOGRAPHS
#
# The bundled networks were made by an earlier version, in several parts and with flags that no longer exist; the exact commands
# are in this file at commit 7a52035.
#
# PHOTOGRAPHS: 97 landscapes with a short side of 540 px, and 160 of the 256 px photographs of vangogh2photo, enlarged to 400 px.
set -e
photographs=${1:?usage: sh recipes/johnson.sh PHOTOGRAPHS}

paint() {
    johnson train --preset paint --dataroot "$photographs" "$@"
}

# relu5_1 adds the large forms of a painting: stars and whirls, or tiles.
large="--content-layer relu3_1 --style-layers relu1_1 relu2_1 relu3_1 relu4_1 relu5_1"

for style in van-gogh wheat-field-with-cypresses sunflowers; do
    paint --name $style --style $style
done
paint --name starry-night --style starry-night --keep-colors 0.1 --content-weight 1.5 $large

# A mosaic is a regular pattern.
python recipes/mosaic.py mosaic.png
paint --name mosaic --style mosaic.png --style-size 640 --keep-colors 0.6 --content-weight 3 --pixel-weight 5 --weave-weight 0 $large
