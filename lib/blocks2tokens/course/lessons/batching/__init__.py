"""What lesson 29_batching alone uses."""
