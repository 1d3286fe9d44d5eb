"""What a change would do: counted on names, on sampled queries, on the lists in force."""
