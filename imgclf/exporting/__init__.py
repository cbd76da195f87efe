"""From trained weights to one proved ONNX file."""
