"""What the comparisons of attackers, knowledge and mechanisms share."""
