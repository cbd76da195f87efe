"""From a name or a folder to uint8 arrays, splits and batches."""
