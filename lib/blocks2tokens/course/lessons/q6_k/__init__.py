"""What lesson 05_q6_k alone uses."""
