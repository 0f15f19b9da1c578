"""Segment an image with an exported ONNX file, numpy and onnxruntime alone.

    python tools/export_model.py last.ckpt --onnx model.onnx
    python examples/onnx_numpy.py model.onnx image.npy mask.ppm

The image is an array (H, W, bands) that `numpy.save` wrote, with the values of its file; the mask is a colour picture.
"""

import json
import sys

import numpy as np
import onnxruntime

model, source, target = sys.argv[1:4]
session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
dataset = json.loads(session.get_modelmeta().custom_metadata_map["d2ls"])["dataset"]

image = np.load(source)  # (H, W, bands), of any size
batch = np.ascontiguousarray(image.astype(dataset["dtype"]).transpose(2, 0, 1)[None])
probabilities = session.run(None, {"image": batch})[0][0]  # (classes, H, W)
classes = probabilities.argmax(axis=0)

for index, name in enumerate(dataset["classes"]):
    print(f"{name:20} {(classes == index).mean():7.2%}")

colours = np.array(dataset["colours"], np.uint8)[classes]
with open(target, "wb") as file:  # noqa: PTH123  (numpy and onnxruntime alone)
    file.write(b"P6 %d %d 255\n" % (colours.shape[1], colours.shape[0]) + colours.tobytes())
