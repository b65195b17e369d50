"""What lesson 21_full_transformer alone uses."""
