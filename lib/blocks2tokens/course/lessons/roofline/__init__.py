"""What lesson 14_roofline alone uses."""
