"""What the comparisons of attackers, knowledge and defences share."""
