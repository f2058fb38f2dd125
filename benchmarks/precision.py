"""How far masks in bfloat16 agree with those in float32, on real photos.

    python benchmarks/precision.py DATA [--model DIR …] [--photos 200] [--split val]

For each model: the share of pixels that have one class in both precisions over the first photos of
the train split, and the mIoU of both over another split. ``--precision auto`` rests on them. DATA
is a folder as ``fcn-beam train`` takes it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click
import numpy as np
from classmaps import class_map_of, loaded

from model_build.artifact import DEFAULT_MODEL


@click.command()
@click.argument("data")
@click.option("--model", "models", multiple=True, default=[DEFAULT_MODEL], help="Repeatable.")
@click.option("--photos", default=200, show_default=True)
@click.option("--split", default="val", show_default=True)
def main(data: str, models: tuple[str, ...], photos: int, split: str) -> None:
    """Compare the masks of two precisions."""
    from model_build.common.quiet_imports import import_tensorflow
    from model_build.data.layouts import DataFolder
    from model_build.data.pairs import read_pair
    from model_build.scores import confusion_matrix, scores

    import_tensorflow()
    from pipeline.images.decode import MAX_PIXELS, DecodeOptions
    from pipeline.images.sizes import enlarge
    from pipeline.network.precision import BFLOAT16, FLOAT32
    from pipeline.network.segmenter import Segmenter

    folder, precisions = DataFolder(data), (FLOAT32, BFLOAT16)
    for model in models:
        network = loaded(model)
        labels = network.description.labels
        options = DecodeOptions(network.description.long_side, MAX_PIXELS)
        one, other = (
            segmented(Segmenter(network, precision=name), folder, options) for name in precisions
        )
        shares = [
            float((one(name) == other(name)).mean()) for name in folder.names("train")[:photos]
        ]
        click.echo(
            f"{model}: {100 * np.mean(shares):.3f} % of the pixels of {len(shares)} photos agree; "
            f"least {100 * min(shares):.2f} %, 1st centile {100 * np.quantile(shares, 0.01):.2f} %"
        )
        matrices = np.zeros((2, len(labels), len(labels)), np.int64)
        names = folder.names(split)
        for name in names:
            truth = read_pair(folder, name, labels).read_ids()
            for matrix, segment in zip(matrices, (one, other), strict=True):
                matrix += confusion_matrix(truth, enlarge(segment(name), truth.shape), len(labels))
        for precision, matrix in zip(precisions, matrices, strict=True):
            click.echo(
                f"  {precision}: mIoU {100 * scores(matrix).miou:.3f} over {len(names)} of {split}"
            )


def segmented(segmenter: Any, folder: Any, options: Any) -> Callable[[str], np.ndarray]:
    """Returns a function: a photo's name → its class map at the size the network sees."""
    from pipeline.images.decode import decode

    def segment(name: str) -> np.ndarray:
        pixels = decode(folder.read(folder.photo(name)), options).pixels
        return class_map_of(pixels, segmenter)

    return segment


if __name__ == "__main__":
    main()
