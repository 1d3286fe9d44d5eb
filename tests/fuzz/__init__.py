"""Hostile input: a corpus of real-shaped messages, and what makes broken ones of them."""
