"""What lesson 02_scales_and_mins alone uses."""
