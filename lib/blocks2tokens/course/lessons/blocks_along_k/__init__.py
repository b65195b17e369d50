"""What lesson 15_blocks_along_k alone uses."""
