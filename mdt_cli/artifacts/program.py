"""Names of the files that describe an exported program."""

# What a program says of itself, and the ONNX program beside it.
ABOUT, ONNX = "mdt.json", "model.onnx"
