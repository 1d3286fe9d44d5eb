"""The policy log: claims on rules, the rulings derived from them, and their compilation."""
