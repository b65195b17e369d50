"""What lesson 31_many_machines alone uses."""
