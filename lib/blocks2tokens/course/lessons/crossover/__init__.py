"""What lesson 17_crossover alone uses."""
