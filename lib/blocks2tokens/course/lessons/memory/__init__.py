"""What lesson 24_memory alone uses."""
