"""What lesson 26_quality_and_mixes alone uses."""
