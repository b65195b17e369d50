"""What lesson 23_flash_attention alone uses."""
