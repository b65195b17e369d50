"""What lesson 04_q5_k alone uses."""
