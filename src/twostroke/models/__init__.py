"""What is saved: model files, checkpoints, ONNX."""
