"""Saved networks and runs: model files, checkpoints, ONNX."""
