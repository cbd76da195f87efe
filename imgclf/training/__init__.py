"""The training loop, its optimiser and its device; it knows no tracker."""
