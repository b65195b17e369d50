"""The report's kernels, phase by phase, as its text describes them."""
