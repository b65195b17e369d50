"""What lesson 16_integer_dot alone uses."""
