"""What lesson 13_the_verdict alone uses."""
