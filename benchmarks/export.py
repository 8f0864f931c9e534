"""Seconds that onnxruntime and PyTorch take for one picture, on one thread.

    cyclegan export --weights landscape2vangogh -o network.onnx
    python benchmarks/export.py network.onnx --weights landscape2vangogh --size 512

The two take turns. The time is that of the processor, which other programs on the machine affect less.
"""

import argparse
import statistics
import time

import onnxruntime
import torch
from measure import alternate, describe_machine, spread

from cyclegan.translate import load_generator, translate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", help="exported with --pixels uint8")
    parser.add_argument("--weights", default="landscape2vangogh", help="what was exported")
    parser.add_argument("--size", type=int, default=512, help="side of the picture in pixels")
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    torch.set_num_threads(1)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(args.file, options, providers=["CPUExecutionProvider"])
    generator = load_generator(args.weights)
    picture = torch.randint(0, 256, (1, args.size, args.size, 3), dtype=torch.uint8)
    image = picture.permute(0, 3, 1, 2).float() / 255
    variants = {
        "onnxruntime": lambda: session.run(None, {"picture": picture.numpy()}),
        "PyTorch": lambda: translate(image, generator, draft=False),
    }
    print(describe_machine(torch.device("cpu")), f"onnxruntime {onnxruntime.__version__}.")
    seconds = alternate(variants, args.rounds, time.process_time)
    for name, values in seconds.items():
        print(f"{name:12} {spread(values)}")
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    print(f"onnxruntime / PyTorch: {medians['onnxruntime'] / medians['PyTorch']:.2f}")


if __name__ == "__main__":
    main()
