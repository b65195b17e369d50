"""What lesson 19_layers alone uses."""
