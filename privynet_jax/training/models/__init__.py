"""What is learnt: networks, inverse networks by name, and the closed form that they correct."""
