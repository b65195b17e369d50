"""What lesson 06_quantizing_well alone uses."""
