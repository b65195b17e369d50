"""What lesson 00_start_here alone uses."""
