"""The policy in forms that other software reads; knows rules and rulings, no packet path."""
