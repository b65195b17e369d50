"""What lesson 03_q4_k alone uses."""
