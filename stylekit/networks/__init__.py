"""Networks: blocks, VGG features, tiled inference, and their weights."""
