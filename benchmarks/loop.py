"""The plain loop that a user would write: one photo at a time, Pillow, a saved model, PNG.

    python benchmarks/loop.py photos/ out/ [--model DIR] [--limit N]

It is what `benchmarks/job.py` compares the job with: the same network and photos, no resume, no
rejects, no histograms, TensorFlow as it comes.
"""

import argparse
import os
from pathlib import Path

import numpy as np
from PIL import Image

os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")  # for dilated depthwise convolutions

import tensorflow as tf

from model_build.artifact import DEFAULT_MODEL, describe

STRIDE = 32


def main(photos: str, out: str, model: str, limit: int | None) -> None:
    network = tf.saved_model.load(f"{model}/saved_model").signatures["serving_default"]
    palette = describe(model).labels.palette
    for path in sorted(Path(photos).glob("*.jpg"))[:limit]:
        pixels = np.asarray(Image.open(path).convert("RGB"))
        height, width = pixels.shape[:2]
        frame = ((0, -height % STRIDE), (0, -width % STRIDE), (0, 0))
        images = tf.constant(np.pad(pixels, frame, mode="edge")[None])
        logits = network(images=images)["logits"][0]
        ids = tf.argmax(logits, -1).numpy()[:height, :width].astype(np.uint8)
        mask = Image.fromarray(ids)
        mask.putpalette(palette)
        mask.save(Path(out) / f"{path.stem}.png")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("photos")
    parser.add_argument("out")
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--limit", type=int)
    main(**vars(parser.parse_args()))
