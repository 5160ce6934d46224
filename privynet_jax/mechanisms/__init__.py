"""What a device does to pictures besides splitting, or in place of it, and what that guarantees."""
