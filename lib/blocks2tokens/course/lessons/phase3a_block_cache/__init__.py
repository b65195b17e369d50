"""What lesson 11_phase3a_block_cache alone uses."""
