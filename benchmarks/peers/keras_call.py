"""A Keras model as tutorials call it: eagerly, one photo at a time.

python benchmarks/peers/keras_call.py photos/ out/
"""

from shared import MODEL, listed, padded, parser, read, write

from model_build.artifact import describe
from model_build.network.fcn import Architecture, fcn
from model_build.training.variables import load_saved_weights


def main(photos: str, out: str) -> None:
    architecture = Architecture.from_json(describe(MODEL).architecture)
    model, _ = fcn(len(describe(MODEL).labels), **architecture.to_json())
    load_saved_weights(str(MODEL), model)
    for path in listed(photos):
        pixels, size = read(path)
        height, width = pixels.shape[:2]
        logits = model(padded(pixels)[None], training=False)[0].numpy()
        write(logits.argmax(-1)[:height, :width], size, path.name, out)


if __name__ == "__main__":
    main(**vars(parser(__doc__).parse_args()))
