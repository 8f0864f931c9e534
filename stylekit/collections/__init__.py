"""Collections of pictures from the web: sources, downloads, preparation, splits and credits."""
