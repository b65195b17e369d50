"""What lesson 28_speculation alone uses."""
