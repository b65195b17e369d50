"""What lesson 20_attention alone uses."""
