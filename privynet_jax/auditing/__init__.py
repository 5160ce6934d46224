"""Whether a plan holds: attackers trained anew on other pictures, and a verdict."""
