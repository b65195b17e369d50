"""What lesson 08_phase0_baseline alone uses."""
