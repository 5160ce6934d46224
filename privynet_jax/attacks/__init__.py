"""Attackers: what each knows, how it rebuilds images, and how well."""
