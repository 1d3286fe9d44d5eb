"""Who said what about which rule, what follows from it, and how it is compiled."""
