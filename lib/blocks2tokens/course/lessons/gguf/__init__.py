"""What lesson 07_gguf alone uses."""
