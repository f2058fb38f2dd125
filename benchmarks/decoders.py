"""How far the pixels that training reads and scales are from those that the job gives a network.

    python benchmarks/decoders.py DATA [--split val] [--scale 1.0 --scale 0.5]

Both read by one decoder, but training scales by TensorFlow, inside its input pipeline; the job by
Pillow, and it decodes large JPEGs at a fraction of their size. For each scale: the mean difference
of their pixels, of 255, the share of pixels that the default model gives the same class, and its
mIoU on both. DATA is a folder as ``fcn-beam train`` takes it.
"""

from __future__ import annotations

import click
import numpy as np
from classmaps import class_map_of, loaded

from model_build.artifact import DEFAULT_MODEL


@click.command()
@click.argument("data")
@click.option("--split", default="val", show_default=True)
@click.option("--scale", "scales", multiple=True, default=[1.0, 0.5], show_default=True)
def main(data: str, split: str, scales: tuple[float, ...]) -> None:
    """Compare the pixels of training with those of the job."""
    from model_build.common.quiet_imports import import_tensorflow
    from model_build.data.layouts import DataFolder
    from model_build.data.pairs import read_pair
    from model_build.scores import confusion_matrix, scores

    import_tensorflow()
    import tensorflow as tf

    from model_build.data.crops import read_image, resize
    from pipeline.images.decode import MAX_PIXELS, DecodeOptions, decode
    from pipeline.images.sizes import enlarge
    from pipeline.network.segmenter import Segmenter

    network = loaded(DEFAULT_MODEL)
    labels, segmenter = network.description.labels, Segmenter(network)
    # Training reads in a graph, where a path comes as bytes.
    read = tf.function(read_image, [tf.TensorSpec([], tf.string)])
    folder = DataFolder(data)
    pairs = [read_pair(folder, name, labels) for name in folder.names(split)]
    for scale in scales:
        differences, shares = [], []
        matrices = np.zeros((2, len(labels), len(labels)), np.int64)
        for pair in pairs:
            options = DecodeOptions(round(scale * max(pair.height, pair.width)), MAX_PIXELS)
            with open(pair.image, "rb") as file:
                of_job = decode(file.read(), options).pixels
            of_training = read(pair.image)
            if of_training.shape != of_job.shape:
                of_training = resize(of_training, of_job.shape[:2])
            both = of_training.numpy(), of_job
            differences.append(np.abs(both[0].astype(int) - both[1]).mean())
            class_maps = [class_map_of(pixels, segmenter) for pixels in both]
            shares.append((class_maps[0] == class_maps[1]).mean())
            truth = pair.read_ids()
            for matrix, class_map in zip(matrices, class_maps, strict=True):
                matrix += confusion_matrix(truth, enlarge(class_map, truth.shape), len(labels))
        one, other = (scores(matrix).miou for matrix in matrices)
        click.echo(
            f"scale {scale:g}, {len(pairs)} of {split}: pixels differ by "
            f"{np.mean(differences):.2f} of 255, {100 * np.mean(shares):.2f} % get one class; "
            f"mIoU {one:.3f} as training reads and scales, {other:.3f} as the job does"
        )


if __name__ == "__main__":
    main()
