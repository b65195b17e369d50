"""What lesson 32_the_last_verdict alone uses."""
