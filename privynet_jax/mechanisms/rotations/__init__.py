"""Features that are turned by a fresh secret angle with every query, and how the angle is found."""
