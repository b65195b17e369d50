"""What lesson 10_phase2_optimized_fused alone uses."""
