"""Networks as ONNX files: how they are written, and run."""
