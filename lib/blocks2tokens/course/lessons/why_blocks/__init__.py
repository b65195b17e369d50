"""What lesson 01_why_blocks alone uses."""
