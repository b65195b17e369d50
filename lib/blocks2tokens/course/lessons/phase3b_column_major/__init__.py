"""What lesson 12_phase3b_column_major alone uses."""
