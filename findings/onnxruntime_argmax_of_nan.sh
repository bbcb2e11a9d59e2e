#!/usr/bin/env bash
# Package: onnxruntime 1.32.0, on the CPU; the model is made with onnx 1.23.2.
#
# Guess: the class of logits that hold a NaN can be told from a sound one: ArgMax points at the NaN,
# as NumPy's argmax and the reference evaluator of onnx do, wherever it stands.
#
# What happens: it depends on the class whose logit is NaN. In the first place it is found; in any
# other ArgMax passes over it and returns the largest of the others, a prediction like any other.
# ReduceMax does the same. Ask IsNaN before trusting the class.
#
# Output seen (Python 3.11, Linux, x86-64):
#   logits           onnxruntime  reference  NumPy
#   [nan  1.  2.]    0 (nan)          0      0
#   [ 1. nan  2.]    2 (2.0)          1      1
#   [ 1.  2. nan]    1 (2.0)          2      2
#   [1. 2. 3.]       2 (3.0)          2      2
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    onnx==1.23.2 onnxruntime==1.32.0 numpy==2.4.6
"$folder/venv/bin/python" -I - <<'PYTHON'
import numpy as np
import onnxruntime
from onnx import TensorProto, checker, helper
from onnx.reference import ReferenceEvaluator

logits = np.array(
    [[np.nan, 1, 2], [1, np.nan, 2], [1, 2, np.nan], [1, 2, 3]], dtype=np.float32
)
graph = helper.make_graph(
    [
        helper.make_node("ArgMax", ["logits"], ["class"], axis=1, keepdims=0),
        helper.make_node("ReduceMax", ["logits"], ["largest"], axes=[1], keepdims=0),
    ],
    "head",
    [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 3])],
    [
        helper.make_tensor_value_info("class", TensorProto.INT64, ["N"]),
        helper.make_tensor_value_info("largest", TensorProto.FLOAT, ["N"]),
    ],
)
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
checker.check_model(model, full_check=True)

options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
session = onnxruntime.InferenceSession(
    model.SerializeToString(), options, providers=["CPUExecutionProvider"]
)
# Row by row, as a service gets them.
rows = [session.run(None, {"logits": row[None]}) for row in logits]
classes = [int(label[0]) for label, _ in rows]
largest = [float(value[0]) for _, value in rows]
reference, reference_largest = ReferenceEvaluator(model).run(None, {"logits": logits})
print("logits           onnxruntime  reference  NumPy")
for row, label, value, expected in zip(logits, classes, largest, reference):
    print(f"{str(row):16} {label} ({value})  {expected:9}  {row.argmax():5}")

assert classes == [0, 2, 1, 2]
assert reference.tolist() == logits.argmax(axis=1).tolist() == [0, 1, 2, 2]
np.testing.assert_array_equal(largest, [np.nan, 2, 2, 3])
np.testing.assert_array_equal(reference_largest, [np.nan, np.nan, np.nan, 3])
PYTHON
