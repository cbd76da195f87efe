"""From logits to numbers, files and pictures."""
