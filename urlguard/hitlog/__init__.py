"""The hit log: who was kept from what, under a pseudonym of the day."""
