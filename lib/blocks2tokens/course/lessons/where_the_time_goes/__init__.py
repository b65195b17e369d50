"""What lesson 22_where_the_time_goes alone uses."""
