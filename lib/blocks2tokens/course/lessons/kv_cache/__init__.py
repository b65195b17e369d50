"""What lesson 25_kv_cache alone uses."""
