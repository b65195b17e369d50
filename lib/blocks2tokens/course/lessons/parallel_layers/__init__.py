"""What lesson 30_parallel_layers alone uses."""
