"""What lesson 09_phase1_naive_fused alone uses."""
