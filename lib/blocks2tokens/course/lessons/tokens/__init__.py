"""What lesson 18_tokens alone uses."""
