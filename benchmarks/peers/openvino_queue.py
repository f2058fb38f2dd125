"""A loop over OpenVINO's queue of asynchronous requests, with the hint for throughput.

    python benchmarks/peers/openvino_queue.py photos/ out/ [--precision bfloat16]

The SavedModel is converted at each start; sizes stay dynamic.
"""

from __future__ import annotations

import openvino as ov
from openvino import opset13 as ops
from shared import SAVED_MODEL, Size, listed, padded, parser, read, write

HINTS = {"float32": "f32", "bfloat16": "bf16"}


def network(saved_model: str = SAVED_MODEL, height: int = -1, width: int = -1) -> ov.Model:
    """The network with its argmax: uint8 ``[1, h, w, 3]`` → uint8 ``[1, h, w, 1]``; -1 is any."""
    model = ov.convert_model(saved_model, input=[1, height, width, 3])
    logits = model.get_results()[0].input_value(0)
    best = ops.topk(logits, ops.constant(1), 3, "max", "none")
    return ov.Model([ops.convert(best.output(1), "u8")], model.get_parameters())


def main(photos: str, out: str, precision: str) -> None:
    settings = {"PERFORMANCE_HINT": "THROUGHPUT", "INFERENCE_PRECISION_HINT": HINTS[precision]}
    queue = ov.AsyncInferQueue(ov.compile_model(network(), "CPU", settings))

    def done(request: ov.InferRequest, photo: tuple[str, Size, Size]) -> None:
        name, (height, width), size = photo
        write(request.get_output_tensor().data[0, :height, :width, 0], size, name, out)

    queue.set_callback(done)
    for path in listed(photos):
        pixels, size = read(path)
        queue.start_async([padded(pixels)[None]], (path.name, pixels.shape[:2], size))
    queue.wait_all()


if __name__ == "__main__":
    arguments = parser(__doc__)
    arguments.add_argument("--precision", default="float32", choices=HINTS)
    main(**vars(arguments.parse_args()))
