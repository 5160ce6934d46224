"""What a device does to representations besides splitting, and what that guarantees."""
